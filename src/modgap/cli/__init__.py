"""The command line: arguments in, words out. What it does is in `modgap.workflows`."""
