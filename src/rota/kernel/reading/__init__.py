"""How a table file becomes checked columns: `tables` opens files, `columns` checks values."""
