"""The original repository's answer folders and generation files: read, and imported as runs."""
