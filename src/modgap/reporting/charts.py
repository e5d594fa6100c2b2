"""Where the marks of a chart go: scales, ticks and lines in percent of the plot, which the templates draw as SVG.

Positions are in percent, so that one drawing fits a phone and a desk without shrinking its words. `figures.py` draws
the same numbers with matplotlib, for papers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

MAX_POINTS = 300
"""Longer curves are drawn as the means of so many bins."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear axis from `lo` to `hi` with its ticks."""

    lo: float
    hi: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> str:
        """The place of a value in percent, within the plot."""
        share = (value - self.lo) / (self.hi - self.lo)
        return f"{100 * min(max(share, 0.0), 1.0):.2f}"

    def up(self, value: float) -> str:
        """The same, from the top down, for an axis that points up."""
        return f"{100 - float(self.at(value)):.2f}"

    def label(self, value: float) -> str:
        """A tick as it is written."""
        step = abs(self.ticks[1] - self.ticks[0]) if len(self.ticks) > 1 else 1.0
        if value == 0:
            return "0"
        if max(abs(tick) for tick in self.ticks) >= 1e6 or step < 1e-4:
            text = f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")
        else:
            text = f"{value:.{next(d for d in range(7) if round(step, d) == round(step, 9))}f}"
        return text.replace("-", "−")


def scale(values: Iterable[float | None], *, zero: bool = True, hi: float | None = None, count: int = 5) -> Scale:
    """An axis with round ticks that holds all values.

    Args:
        values: What it must hold; `None` and what is not finite are left out.
        zero: Whether it must hold zero, too.
        hi: Where it ends at most (100 for percentages).
        count: About how many ticks.
    """
    kept = [value for value in values if value is not None and math.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(kept), max(kept)) if kept else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = (low, low + 1.0) if zero else (low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(k * step, 12) for k in range(first, last + 1))
    if hi is not None and ticks[-1] > hi:
        ticks = (*(tick for tick in ticks if tick < hi), hi)
    return Scale(ticks[0], ticks[-1], ticks)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name, its colour (an index) and its points, as measured and smoothed."""

    name: str
    colour: int
    points: tuple[tuple[float, float], ...]

    @property
    def smooth(self) -> tuple[tuple[float, float], ...]:
        """A centred moving average over a twentieth of the curve; short curves as they are."""
        reach = len(self.points) // 40
        if not reach:
            return self.points
        ys = [y for _, y in self.points]
        return tuple((x, fmean(ys[max(0, i - reach) : i + reach + 1])) for i, (x, _) in enumerate(self.points))


@dataclass(frozen=True, slots=True)
class Curve:
    """One panel of curves over steps."""

    title: str
    note: str
    lines: tuple[Line, ...]
    x: Scale
    y: Scale

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """Points for a polyline in a box of 100 by 100."""
        return " ".join(f"{self.x.at(x)},{self.y.up(y)}" for x, y in points)


def line(name: str, colour: int, points: Sequence[tuple[float, float]]) -> Line:
    """A curve of at most `MAX_POINTS` points; what is not finite is left out."""
    kept = [(x, y) for x, y in points if math.isfinite(y)]
    size = math.ceil(len(kept) / MAX_POINTS)
    if size > 1:
        bins = [kept[i : i + size] for i in range(0, len(kept), size)]
        kept = [(part[-1][0], fmean(y for _, y in part)) for part in bins]
    return Line(name, colour, tuple(kept))


def curve(title: str, lines: Iterable[Line], note: str = "") -> Curve | None:
    """A panel, or `None` where no line has a point."""
    kept = tuple(line for line in lines if line.points)
    if not kept:
        return None
    xs = [x for line in kept for x, _ in line.points]
    ys = [y for line in kept for _, y in line.points]
    spread = max(ys) - min(ys)
    zero = min(ys) >= 0 and spread > 0.3 * max(ys)
    return Curve(title, note, kept, scale(xs, count=4), scale(ys, zero=zero, count=4))
