"""Geometry3K: its files, its logic forms, and the sentences that they become."""
