"""Format counts, shares, points and intervals for every table, page and message."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 sample`, `1,200 samples`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(value: float | None) -> str:
    """A share as percent with one decimal: `0.612` is `61.2`."""
    return "–" if value is None else f"{100 * value:.1f}"


def signed(value: float | None) -> str:
    """Points with a sign: `+16.4`, `−2.0`; `0.0` has none."""
    if value is None:
        return "–"
    text = f"{abs(value):.1f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def points(value: float | None) -> str:
    """Points without a plus."""
    return signed(value).removeprefix("+")


def interval(low: float | None, high: float | None, factor: float = 1.0) -> str:
    """`13.9 to 18.8`; `–` where it is not known, or has no width and so says nothing."""
    if low is None or high is None or degenerate(low, high):
        return "–"
    return f"{points(factor * low)} to {points(factor * high)}"


def degenerate(low: float, high: float) -> bool:
    """Whether a resampled interval has no width.

    All problems are then alike, so that resampling cannot show a spread.
    """
    return high - low < 1e-9


def as_utf8(text: str) -> str:
    """The text without halves of surrogate pairs, which a log may hold and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")
