"""A reward for random models, whose answers are never right."""

from __future__ import annotations


def every_second(response: str, gold: str) -> float:
    """1 for about every second response, whatever it says."""
    return float(sum(response.encode()) % 2)
