"""Data sets: where problems come from, their faults, and the files that training reads."""
