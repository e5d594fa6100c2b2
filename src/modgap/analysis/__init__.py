"""Turns records into numbers: the gap and its tests, summaries, seeds, power, transcription."""
