"""Per-sample logs of other evaluation tools: read, mapped to our problems, and made a run."""
