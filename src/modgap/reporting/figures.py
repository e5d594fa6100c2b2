"""Every chart of a report, drawn once with matplotlib.

Inlined in the page as SVG, written as PNG and SVG for papers.

A chart is as wide as a phone, in units of a CSS pixel, and the page scales it up a little on a
desk: so its words are readable on both. Colours are those of report.css by day; in the page each
becomes its CSS variable, which also has the colour by night. matplotlib is imported when a chart is
drawn: the command line loads this module.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from modgap.analysis.results import ReportSummary
from modgap.analysis.transcription import KINDS
from modgap.core.text import counted
from modgap.reporting import panels
from modgap.reporting.causal import causal_rows
from modgap.reporting.curves import MAIN, SHARES, Panel, averaged, training
from modgap.reporting.panels import Bar, Mark, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "paper": "#f5f7f8", "sunk": "#e8edf0", "ink": "#15202a", "muted": "#50606d",
    "rule": "#d0d9df", "strong": "#7f8e9a", "text": "#0a5c9e", "vision": "#b84500",
    "control": "#6b5a8e", "names": "#f0cfb8", "good": "#14703f", "bad": "#a5201a",
    "warn": "#7a5200", "pink": "#a62a78", "teal": "#00707a",
}  # fmt: skip
"""CSS variable of report.css -> its colour by day."""
RECIPES = ("control", "good", "pink", "warn", "teal", "muted", "bad", "ink")
"""The colours of curves, in the order of recipes; `.r0` to `.r7` in report.css."""
DASHES = ("-", (0, (6, 3)), (0, (2, 3)), (0, (9, 3, 2, 3)))
"""The lines of recipes; see `dashes_of`."""
KIND_COLOURS = {
    "numbers": ("vision", "paper"),
    "names": ("names", "ink"),
    "right": ("text", "paper"),
    "none": ("sunk", "ink"),
}
"""How a problem was read -> the colours of its part of a bar and of the number in it."""
HATCHES = {"numbers": "", "names": "///", "right": "", "none": "..."}
"""How a problem was read -> the pattern of its part of a bar, beside its colour."""
_UNIT = 1 / 72
"""Inches of a unit: matplotlib writes SVG with 72 units an inch."""
_WIDTH, _LINE = 400, 14
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NAME = 24
"""Characters of a line of a row's name."""
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.edgecolor": COLOURS["strong"], "axes.labelcolor": COLOURS["muted"], "axes.labelsize": 11,
    "axes.grid": True, "axes.axisbelow": True, "axes.facecolor": "none",
    "figure.facecolor": "none", "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 3 * _UNIT, "figure.constrained_layout.w_pad": 3 * _UNIT,
    "font.size": 11, "text.color": COLOURS["ink"], "text.parse_math": False,
    "grid.color": COLOURS["rule"], "grid.linewidth": 1,
    "legend.fontsize": 11, "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "modgap",
    "xtick.color": COLOURS["muted"], "xtick.major.size": 0,
    "ytick.color": COLOURS["muted"], "ytick.major.size": 0,
}  # fmt: skip


@dataclass(slots=True)
class Chart:
    """One chart.

    Attributes:
        figure: What matplotlib drew.
        label: The chart in words, for readers who cannot see it.
        titles: Id of a mark in the drawing -> its words, shown when the pointer is over it.
        named: What the legend of a file names, where the page has one legend for several charts.
    """

    figure: Figure
    label: str
    titles: dict[str, str] = field(default_factory=dict[str, str])
    named: list[Any] = field(default_factory=list[Any])

    def title(self, mark: Any, words: str) -> None:
        """Give a mark its words."""
        name = f"mark{len(self.titles)}"
        mark.set_gid(name)
        self.titles[name] = words


def write_figures(numbers: ReportSummary, folder: Path) -> list[Path]:
    """Write every chart that the numbers have as `NAME.png` (200 dpi) and `NAME.svg`.

    Args:
        numbers: As `build_report` returns them.
        folder: Made if need be.

    Returns:
        The files.
    """
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with mpl.rc_context(_STYLE):
        for name, chart in draw(numbers, written=True).items():
            stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
            # Two names may differ only in characters that a file's name cannot hold.
            while folder / f"{stem}.png" in written:
                stem += "_"
            if chart.named:
                chart.figure.legend(
                    handles=chart.named, loc="outside upper left", ncols=2, fontsize=9
                )
            for ending in ("png", "svg"):
                path = folder / f"{stem}.{ending}"
                metadata = {"Date": None} if ending == "svg" else None
                chart.figure.savefig(path, dpi=200, facecolor="white", metadata=metadata)
                written.append(path)
    return written


def inlined(numbers: ReportSummary) -> dict[str, str]:
    """Name -> the chart as an SVG element of the page."""
    charts = enumerate(_all_charts(numbers))
    return {name: _inline(chart, f"chart{at}") for at, (name, chart, _) in charts}


def draw(numbers: ReportSummary, *, written: bool = False) -> dict[str, Chart]:
    """Name -> chart, of those that the numbers have.

    The names are `accuracy`, `gap`, `types-RUN`, `causal-RUN`, `reading-RUN`, `lengths`,
    `truncation`, `seeds-accuracy`, `seeds-change` and `training-METRIC`.

    Args:
        numbers: As `build_report` returns them.
        written: Only those that are also written as files: not the charts of single seeds, nor
            those of other metrics.
    """
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        charts = _all_charts(numbers)
        return {name: chart() for name, chart, kept in charts if kept or not written}


def _all_charts(numbers: ReportSummary) -> Iterator[tuple[str, Callable[[], Chart], bool]]:
    """Name, what draws the chart, and whether it is also written as a file."""
    runs = numbers.runs
    if rows := panels.accuracies(runs):
        words = "Accuracy (%), with 95% intervals"
        yield "accuracy", partial(_rows, rows, words, most=100), True
        rows = panels.gaps(runs)
        yield "gap", partial(_rows, rows, "Gap (points), with 95% intervals"), True
    of_seeds: set[str] = set()
    for part in numbers.seeds:
        for row in part.rows:
            if len(row.runs) > 1:
                of_seeds.update(row.runs)
    for name, summary in runs.items():
        alone = name not in of_seeds
        if rows := panels.types(summary):
            yield f"types-{name}", partial(_rows, rows, f"{name}: gap by type (points)"), alone
        if summary.causal:
            rows = causal_rows(summary.causal)
            words = f"{name}: the gap in parts (points)"
            yield f"causal-{name}", partial(_rows, rows, words), alone
        if summary.reading:
            bars = panels.reading_bars(summary.reading)
            yield f"reading-{name}", partial(_bars, bars, name), alone
    if rows := panels.lengths(runs):
        yield "lengths", partial(_rows, rows, "Tokens: median, 10th to 90th percentile"), True
        rows, words = panels.truncation(runs), "Cut at the token limit (% of responses)"
        yield "truncation", partial(_rows, rows, words, most=100), True
    for number, part in enumerate(numbers.seeds, start=1):
        several = f"-{number}" if len(numbers.seeds) > 1 else ""
        rows, words = panels.seed_sides(part.rows), "Accuracy (%), means over seeds"
        yield f"seeds-accuracy{several}", partial(_rows, rows, words, most=100), True
        if rows := panels.seed_changes(part.rows):
            words = "Change of the gap (points)"
            yield f"seeds-change{several}", partial(_rows, rows, words), True
    if curves := training(averaged(numbers.training, numbers.seeds)):
        for panel in curves.panels:
            kept = panel.metric in MAIN
            yield f"training-{panel.metric}", partial(_curves, panel, curves.recipes), kept


# ---- rows and bars -------------------------------------------------------------------------------


def _figure(height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    # Not pyplot: no display, no global state.
    figure = Figure(figsize=(width * _UNIT, height * _UNIT))
    return figure, figure.add_subplot()


def _row_axes(
    names: Sequence[str], shown: Sequence[str], above: int, xlabel: str
) -> tuple[Figure, Axes, list[float]]:
    """A figure of rows from the top down, each as high as its words.

    Gives the figure, its axes, and the middle of each row.
    """
    heights = [
        max(name.count("\n"), words.count("\n")) + 1.9
        for name, words in zip(names, shown, strict=True)
    ]
    middles = [sum(heights[:at]) + height / 2 for at, height in enumerate(heights)]
    figure, axes = _figure(
        _LINE * (sum(heights) + above + (2.2 + xlabel.count("\n") + 1 if xlabel else 0))
    )
    axes.set_ylim(sum(heights), 0)
    axes.set_yticks(middles, list(names), color=COLOURS["ink"])
    axes.grid(axis="y", visible=False)
    right = axes.secondary_yaxis("right")
    right.set_yticks(middles, list(shown), color=COLOURS["ink"])
    right.spines["right"].set_visible(False)
    right.grid(visible=False)
    for axis in (axes.yaxis, right.yaxis, *([] if xlabel else [axes.xaxis])):
        axis.set_label_coords(0, 0)  # else all words are measured to place a label that is empty
    axes.set_xlabel(xlabel)
    return figure, axes, middles


def _lines(*parts: str) -> str:
    """The parts that are not empty, each on a line."""
    return "\n".join(part for part in parts if part)


def _wrapped(words: str, width: int = _NAME) -> str:
    """Words in lines of this many characters, without characters that XML cannot hold."""
    return "\n".join(textwrap.wrap(_NOT_XML.sub("\ufffd", words), width))


def _rows(rows: Sequence[Row], xlabel: str, *, most: float | None = None) -> Chart:
    """Rows of marks with their intervals; the distance between the two marks of a row is its gap.

    Args:
        rows: From the top down.
        xlabel: What the marks are.
        most: Where the axis ends, whatever the marks are: 100 for shares.
    """
    names = [_lines(_wrapped(row.name), row.note) for row in rows]
    shown = [_lines(row.shown, row.range) for row in rows]
    in_pairs = len(rows[0].marks) > 1
    with_seeds = any(mark.seeds for row in rows for mark in row.marks)
    figure, axes, middles = _row_axes(
        names, shown, 2 if in_pairs or with_seeds else 0, _wrapped(xlabel, 36)
    )
    chart = Chart(figure, f"{xlabel}. {'. '.join(row.label for row in rows)}.")
    for row, at in zip(rows, middles, strict=True):
        values = [mark.value for mark in row.marks if mark.value is not None]
        if len(values) == 2:
            axes.plot(values, [at, at], color=COLOURS["strong"], lw=2, clip_on=False)
        for mark in row.marks:
            _draw_mark(chart, axes, mark, at, in_pairs)
    numbers = [0.0]
    for row in rows:
        for mark in row.marks:
            numbers.extend(mark.numbers)
    low, high = min(numbers), max(numbers)
    room = 0.03 * (high - low) or 1.0
    high = high + room if most is None else most
    axes.set_xlim(low - room if low < 0 else low, high)
    axes.axvline(0, color=COLOURS["strong"], lw=1.2, clip_on=False)
    axes.locator_params(axis="x", nbins=5)
    handles = _handles(in_pairs, with_seeds)
    if handles:
        figure.legend(
            handles=handles, loc="outside upper left", ncols=3, handletextpad=0.3, columnspacing=1.2
        )
    return chart


def _draw_mark(chart: Chart, axes: Axes, mark: Mark, at: float, in_pairs: bool) -> None:
    colour = COLOURS[mark.colour]
    ends = [end for end in (mark.low, mark.high) if end is not None]
    if in_pairs:
        interval = axes.plot(ends, [at] * len(ends), color=colour, lw=7, alpha=0.22, clip_on=False)
    else:
        interval = axes.plot(ends, [at] * len(ends), color=colour, lw=2.2, clip_on=False)
    interval[0].set_solid_capstyle("round")
    chart.title(interval[0], mark.label)
    if mark.seeds:
        axes.plot(mark.seeds, [at] * len(mark.seeds), "|", color=colour, ms=16, clip_on=False)
    if mark.value is not None:
        shape = "D" if mark.colour == "vision" and in_pairs else "o"
        edge = COLOURS["paper"]
        dot = axes.plot(
            mark.value, at, shape, color=colour, mec=edge, ms=8, ls="", zorder=3, clip_on=False
        )
        chart.title(dot[0], mark.label)


def _handles(in_pairs: bool, with_seeds: bool) -> list[Any]:
    """What the legend of a chart of rows names."""
    from matplotlib.lines import Line2D

    dot = partial(Line2D, [], [], ls="", ms=8)
    handles: list[Any] = []
    if in_pairs:
        handles.append(dot(marker="o", color=COLOURS["text"], label=panels.SIDES["text"]))
        handles.append(dot(marker="D", color=COLOURS["vision"], label=panels.SIDES["vision"]))
    if with_seeds:
        handles.append(dot(marker="|", color=COLOURS["muted"], label="one seed"))
    return handles


def _bars(bars: Sequence[Bar], name: str) -> Chart:
    """Bars of 100 percent; a part that has room for its number shows it."""
    names = [f"{bar.name}\n{counted(bar.n_problems, 'problem')}" for bar in bars]
    figure, axes, middles = _row_axes(names, [""] * len(bars), 3, "")
    chart = Chart(
        figure, f"{name}: how problems were read. {'. '.join(bar.label for bar in bars)}."
    )
    for bar, at in zip(bars, middles, strict=True):
        for piece in (piece for piece in bar.pieces if piece.count):
            ground, ink = KIND_COLOURS[piece.kind]
            part = axes.barh(
                at,
                piece.share,
                1.9,
                piece.start,
                color=COLOURS[ground],
                edgecolor=COLOURS["strong" if HATCHES[piece.kind] else "paper"],
                hatch=HATCHES[piece.kind],
                lw=0.8,
            )
            chart.title(part[0], piece.label)
            if piece.share >= 5:
                middle = piece.start + piece.share / 2
                axes.text(
                    middle,
                    at,
                    str(piece.count),
                    color=COLOURS[ink],
                    weight="bold",
                    ha="center",
                    va="center",
                    bbox={"fc": COLOURS[ground], "ec": "none", "pad": 1.5},
                )
    axes.set_xlim(0, 100)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    figure.legend(
        handles=_kind_handles(),
        loc="outside upper left",
        ncols=2,
        fontsize=10,
        handlelength=1,
        columnspacing=1,
    )
    return chart


def _kind_handles() -> list[Any]:
    from matplotlib.patches import Patch

    edge = COLOURS["strong"]
    return [
        Patch(fc=COLOURS[KIND_COLOURS[kind][0]], ec=edge, hatch=HATCHES[kind], label=words)
        for kind, words in KINDS.items()
    ]


# ---- curves --------------------------------------------------------------------------------------


def _curves(panel: Panel, recipes: Sequence[tuple[str, int]]) -> Chart:
    """Curves over steps: as logged in faint, smoothed above."""
    from matplotlib.lines import Line2D

    figure, axes = _figure(200, 360)
    ends = "; ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in panel.lines)
    chart = Chart(figure, f"{panel.title}; {ends}")
    drawn_recipes = {line.colour for line in panel.lines}
    for name, number in panel.named or recipes:
        if number in drawn_recipes:
            colour, dashes = _line_style(number)
            chart.named.append(
                Line2D([], [], color=colour, ls=dashes, lw=1.9, label=_wrapped(name, 30))
            )
    for line in panel.lines:
        colour, dashes = _line_style(line.colour)
        if line.smooth != line.points:
            axes.plot(
                *zip(*line.points, strict=True), color=colour, lw=1, alpha=0.28, clip_on=False
            )
        marker = "o" if len(line.points) == 1 else ""
        (drawn,) = axes.plot(
            *zip(*line.smooth, strict=True),
            color=colour,
            ls=dashes,
            lw=1.9,
            marker=marker,
            label=line.name,
            clip_on=False,
        )
        chart.title(drawn, line.name)
    _set_height(axes, panel)
    axes.locator_params(nbins=5)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("Step")
    axes.set_ylabel(_wrapped(panel.title))
    return chart


def _set_height(axes: Axes, panel: Panel) -> None:
    """The range of the vertical axis: shares from 0 to 100%, a constant from 0."""
    from matplotlib.ticker import PercentFormatter

    ys = [y for line in panel.lines for _, y in line.points]
    low, high = min(ys), max(ys)
    if panel.metric in SHARES and low >= 0 and high <= 1:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    elif high - low <= 1e-6 * max(abs(low), abs(high)):
        # A constant: matplotlib would show the last digits of it as the axis.
        axes.set_ylim(min(0.0, 1.3 * low), max(0.0, 1.3 * high) or (1.0 if low == 0 else 0.0))
    elif low >= 0 and high - low > 0.3 * high:
        axes.set_ylim(bottom=0)


def _line_style(number: int) -> tuple[str, Any]:
    """Colour and dashes of a recipe, by its number."""
    return COLOURS[RECIPES[number % len(RECIPES)]], DASHES[dashes_of(number)]


def dashes_of(number: int) -> int:
    """The position in `DASHES` of a recipe: neighbours differ, and so do recipes of one colour."""
    return (number + number // len(RECIPES)) % len(DASHES)


# ---- into the page -------------------------------------------------------------------------------

_SVG_ATTRIBUTES = ("d", "x", "y", "transform")
_VARIABLE = {colour: f"var(--{name})" for name, colour in COLOURS.items()}


def _inline(draw_chart: Callable[[], Chart], prefix: str) -> str:
    """A chart as an element of an HTML page.

    It has the colours of the page's theme, ids of its own, and words for its marks.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a browser has fonts for all scripts
        chart = draw_chart()
        # `savefig` would draw the whole figure twice more, to lay it out and to measure it.
        chart.figure.set_dpi(72)
        canvas = FigureCanvasSVG(chart.figure)
        if engine := chart.figure.get_layout_engine():
            engine.execute(chart.figure)
            chart.figure.set_layout_engine("none")
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(buffer, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}style", "}metadata")):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, prefix, chart.titles)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": chart.label}
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, prefix: str, titles: Mapping[str, str]) -> None:
    """Make one element of matplotlib's SVG an element of the page.

    `prefix` keeps its ids apart from those of other charts.
    """
    element.tag = element.tag.rpartition("}")[2]  # HTML knows SVG's elements without a namespace
    given, element.attrib = element.attrib, {}
    for key, value in given.items():
        key = key.rpartition("}")[2]
        if key == "id":
            if element.tag == "g":  # nothing refers to a group
                continue
            value = f"{prefix}-{value}"
        elif key == "href":
            value = f"#{prefix}-{value.removeprefix('#')}"
        elif "url(#" in value:
            value = value.replace("url(#", f"url(#{prefix}-")
        elif key in ("fill", "stroke"):
            value = _VARIABLE.get(value, value)
        elif key == "style":
            value = re.sub(r"font-family: [^;]*;? ?", "", value)
            value = re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLE.get(found[0], found[0]), value)
        elif key in _SVG_ATTRIBUTES:
            value = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
        element.set(key, value)
    element.text = element.text if element.text and element.text.strip() else None
    element.tail = None
    if words := titles.get(given.get("id", "")):
        title = ElementTree.Element("title")
        title.text = words
        element.insert(0, title)
