"""Draws a chart with Pillow: 224 x 224 grey pixels, its numbers where a reader looks for them.

Upright bars have their names below and lying bars beside them; their values stand at their ends, or
are read at an axis, whose gridlines all bars end on. Tables have a name before each row and above
each column. Every text stands on white with nothing across it, and its box is kept as a `Label`.
"""

from __future__ import annotations

import io
from random import Random

from PIL import Image, ImageDraw

from modgap.datasets.synthetic.chart_scene import LEVELS_OF_AXIS, Chart
from modgap.datasets.synthetic.draw import Drawing, Label, extent, font
from modgap.datasets.synthetic.scene import SIZE

_GAP = 3  # pixels between a text and what it belongs to
_GREYS = (0, 70, 110, 150, 190, 230)


class _Page:
    """An image with its labels."""

    def __init__(self) -> None:
        self.image = Image.new("L", (SIZE, SIZE), 255)
        self.pen = ImageDraw.Draw(self.image)
        self.labels: list[Label] = []
        self.ends: dict[str, tuple[float, float]] = {}

    def text(self, text: str, x: float, y: float, kind: str, across: float = 0.5) -> None:
        """A text with its middle at height `y`; `across` says which part of it is at `x`."""
        left, top, width, height = extent(text)
        at = round(x - across * width), round(y - height / 2)
        self.pen.rectangle((at[0] - 1, at[1] - 1, at[0] + width, at[1] + height), fill=255)
        self.pen.text((at[0] - left, at[1] - top), text, fill=0, font=font())
        self.labels.append(Label(text, at[0], at[1], width, height, kind))

    def done(self) -> Drawing:
        """The drawing, as a PNG file."""
        file = io.BytesIO()
        self.image.save(file, "PNG")
        return Drawing(file.getvalue(), self.labels, self.ends)


def draw(chart: Chart, rng: Random) -> Drawing:
    """Draw a chart; `Drawing.pixels` has where each bar ends, by its name."""
    page = _Page()
    {"bars": _upright, "axis": _upright, "rows": _lying, "table": _table}[chart.kind](
        page, chart, rng
    )
    return page.done()


def _upright(page: _Page, chart: Chart, rng: Random) -> None:
    """Bars that stand: with their values above them, or against an axis with gridlines."""
    base = SIZE - 24 - rng.randrange(6)
    left = 34 if chart.tick else 6 + rng.randrange(10)
    right = SIZE - 4 - rng.randrange(8)
    # Whole pixels between the gridlines of an axis.
    high = 17 * LEVELS_OF_AXIS if chart.tick else base - 22 - rng.randrange(30)
    most = chart.tick * LEVELS_OF_AXIS if chart.tick else max(chart.values.values())
    if chart.tick:
        for number in range(LEVELS_OF_AXIS + 1):
            y = base - high * number // LEVELS_OF_AXIS
            page.pen.line((left, y, right, y), fill=0 if number == 0 else 200)
            page.text(str(chart.tick * number), left - _GAP, y, "tick", across=1)
    pitch = (right - left) / len(chart.rows)
    half = round(pitch * rng.uniform(0.2, 0.36))
    fill = rng.choice(_GREYS)
    for place, name in enumerate(chart.rows):
        x = round(left + pitch * (place + 0.5))
        value = chart.values[name, ""]
        y = base - round(high * value / most)
        page.pen.rectangle((x - half, y, x + half, base), fill=fill, outline=0)
        page.ends[name] = (x, y)
        page.text(name, x, base + 4 + 8, "name")
        if not chart.tick:
            page.text(str(value), x, y - 9, "value")
    page.pen.line((left, base, right, base), fill=0, width=2)


def _lying(page: _Page, chart: Chart, rng: Random) -> None:
    """Bars that lie, with their values behind them."""
    left, top = 48 + rng.randrange(10), 4 + rng.randrange(16)
    pitch = (SIZE - 4 - rng.randrange(16) - top) / len(chart.rows)
    half = round(pitch * rng.uniform(0.18, 0.34))
    wide, most = SIZE - left - 28 - rng.randrange(30), max(chart.values.values())
    fill = rng.choice(_GREYS)
    for place, name in enumerate(chart.rows):
        y = round(top + pitch * (place + 0.5))
        value = chart.values[name, ""]
        x = left + round(wide * value / most)
        page.pen.rectangle((left, y - half, x, y + half), fill=fill, outline=0)
        page.ends[name] = (x, y)
        page.text(name, left - _GAP, y, "name", across=1)
        page.text(str(value), x + _GAP + 1, y, "value", across=0)
    page.pen.line((left, top, left, round(top + pitch * len(chart.rows))), fill=0, width=2)


def _table(page: _Page, chart: Chart, rng: Random) -> None:
    """A table; its lines are all, those between rows, or the one below the header."""
    left, top = 2 + rng.randrange(8), 4 + rng.randrange(40)
    first = 48
    wide = (SIZE - 3 - left - first) // len(chart.columns) - rng.randrange(6)
    tall = 26 + rng.randrange(12)
    right, bottom = left + first + wide * len(chart.columns), top + tall * (len(chart.rows) + 1)
    style = rng.choice(("all", "rows", "header"))
    for place in range(len(chart.rows) + 2):
        if style != "header" or place == 1:
            page.pen.line((left, top + tall * place, right, top + tall * place), fill=0)
    if style == "all":
        for x in (left, *range(left + first, right + 1, wide)):
            page.pen.line((x, top, x, bottom), fill=0)
    for place, column in enumerate(chart.columns):
        page.text(column, left + first + wide * (place + 0.5), top + tall / 2, "column")
    for down, row in enumerate(chart.rows):
        y = top + tall * (down + 1.5)
        page.text(row, left + first / 2, y, "name")
        for place, column in enumerate(chart.columns):
            value = str(chart.values[row, column])
            page.text(value, left + first + wide * (place + 0.5), y, "value")
