"""The commands as functions: evaluate, grade, train, study, and many of these side by side."""
