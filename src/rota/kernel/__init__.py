"""The ground that every world stands on: what a decision is, what a policy sees, how time, luck and results are kept.

`decisions` the four shapes and the system that combines them, `tables` what a policy is shown, `events` the queue of
what happens next, `streams` keyed random draws, `timeline` spans on resources, `metrics` the numbers, `world` what a
study drives, `errors` what can go wrong. Nothing here knows any world.
"""
