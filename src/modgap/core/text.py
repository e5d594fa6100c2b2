"""Format counts, shares, points and intervals for every table, page and message."""

from __future__ import annotations

import re

LONGEST = 480
"""The most characters of a message."""

# Control characters without tab and line end (ESC and CSI begin the escapes of terminals), marks
# that reorder what is around them, line ends that are not "\n", invisible characters that carry
# text, and halves of surrogate pairs.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""The text with what a terminal would obey, instead of show, spelled out: `\x1b[2J`."""
    return _UNPRINTABLE.sub(_spelled_out, text)


def one_line(text: str) -> str:
    """The text as one line, `printable`."""
    return printable(" ".join(text.split()))


def _spelled_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


def shortened(text: str, most: int = LONGEST) -> str:
    """The text as `one_line`, without its middle if it is long: the remedy is at the end."""
    line = one_line(text)
    if len(line) <= most:
        return line
    tail = (most - 5) * 2 // 5
    return f"{line[: most - 5 - tail]} ... {line[-tail:]}"


def counted(number: int, noun: str) -> str:
    """`1 sample`, `1,200 samples`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(value: float | None) -> str:
    """A share as percent with one decimal: `0.612` is `61.2`, `-0.12` is `−12.0`."""
    if value is None:
        return "–"
    text = f"{abs(100 * value):.1f}"
    return f"−{text}" if value < 0 and float(text) else text


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
