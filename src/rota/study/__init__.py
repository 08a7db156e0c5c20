"""Studies: a scenario run under several policies and seeds, stored, and compared with statistics."""
