"""What the charts of a report show, and the tables of pairs.

Rows of marks with their words, for `figures.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modgap.analysis.results import (
    GapSummary,
    PairTable,
    ReadingSummary,
    SeedRow,
    Summary,
    TypeGap,
    ViewSummary,
)
from modgap.analysis.seeds import SeedsChange
from modgap.analysis.transcription import KINDS
from modgap.core.text import counted, interval, percent, signed
from modgap.reporting import tables as t
from modgap.reporting.words import reading_words

SIDES = {"text": "from text", "vision": "from the image"}
"""Side of a pair -> its name."""
FEW_OF_A_TYPE = 5
"""Problems below which a type has no row of its own in the chart."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A value with its interval.

    Attributes:
        value: The position of the mark; `None` if there is no value.
        low: Start of the interval.
        high: Its end.
        label: All of it in words.
        colour: A name of `figures.COLOURS`.
        seeds: The value of each seed, where there are several.
    """

    value: float | None
    low: float | None
    high: float | None
    label: str
    colour: str = "ink"
    seeds: tuple[float, ...] = ()

    @property
    def numbers(self) -> tuple[float, ...]:
        """All numbers that the mark has."""
        return tuple(
            number
            for number in (self.value, self.low, self.high, *self.seeds)
            if number is not None
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a chart: its name at the left, one or two marks, and its numbers at the right.

    Attributes:
        name: A run, a recipe or a type.
        marks: Both sides of a pair, or one value.
        shown: The value as it is written.
        range: The interval as it is written.
        note: Lines below the name.
    """

    name: str
    marks: tuple[Mark, ...]
    shown: str
    range: str = ""
    note: str = ""

    @property
    def label(self) -> str:
        """The row in words."""
        return f"{self.name}: {'; '.join(mark.label for mark in self.marks)}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a bar: its name (one of `KINDS`), the number of problems, its share in percent."""

    kind: str
    count: int
    start: float
    share: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of 100 percent."""

    name: str
    n_problems: int
    pieces: tuple[Piece, ...]

    @property
    def label(self) -> str:
        """The bar in words."""
        return (
            f"{self.name}, {counted(self.n_problems, 'problem')}:"
            f" {'; '.join(piece.label for piece in self.pieces)}"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """What the page says of a run in words.

    With the table of its pairs, or where transcriptions come from.
    """

    name: str
    sentence: str
    table: PairTable | None = None
    source: str = ""


def _side(side: str, value: float, low: float, high: float, seeds: Sequence[float] = ()) -> Mark:
    """A mark of one side; the axis is in percent, the summary in shares."""
    label = f"{SIDES[side]} {percent(value)} percent, 95% interval {interval(low, high, 100)}"
    return Mark(
        100 * value, 100 * low, 100 * high, label, side, tuple(100 * seed for seed in seeds)
    )


def accuracies(runs: Mapping[str, Summary]) -> list[Row]:
    """Both sides of each run on one line."""
    rows: list[Row] = []
    for name, summary in runs.items():
        gap = summary.gap
        if gap:
            text = _side("text", gap.text_accuracy, gap.text_ci_low, gap.text_ci_high)
            vision = _side("vision", gap.vision_accuracy, gap.vision_ci_low, gap.vision_ci_high)
            rows.append(
                Row(
                    name,
                    (text, vision),
                    f"{percent(gap.text_accuracy)} / {percent(gap.vision_accuracy)}",
                )
            )
    return rows


def seed_sides(rows: Sequence[SeedRow]) -> list[Row]:
    """Both sides of each recipe of a table over seeds, with a tick for each seed."""
    found: list[Row] = []
    for row in rows:
        several = len(row.seeds) > 1
        marks = tuple(
            _side(side, part.value, part.ci_low, part.ci_high, part.seeds if several else ())
            for side, part in (("text", row.text), ("vision", row.vision))
        )
        found.append(
            Row(row.recipe, marks, f"{percent(row.text.value)} / {percent(row.vision.value)}")
        )
    return found


def seed_changes(rows: Sequence[SeedRow]) -> list[Row]:
    """The change of the gap of each recipe of a table over seeds, with a tick for each seed."""
    found: list[Row] = []
    for row in rows:
        if row.change:
            change = row.change.gap
            seeds = change.seeds if len(change.seeds) > 1 else ()
            found.append(_points(row.recipe, change.value, change, seeds=seeds))
    return found


def _points(
    name: str,
    value: float | None,
    part: GapSummary | TypeGap | SeedsChange,
    *,
    note: str = "",
    words: str = "",
    seeds: Sequence[float] = (),
) -> Row:
    """A row in points with the interval of `part`; `words` are added to its label."""
    spread = interval(part.ci_low, part.ci_high)
    label = f"{signed(value)} points, 95% interval {spread}{', ' if words else ''}{words}"
    mark = Mark(value, part.ci_low, part.ci_high, label, seeds=tuple(seeds))
    return Row(name, (mark,), signed(value), spread, note)


def gaps(runs: Mapping[str, Summary]) -> list[Row]:
    """The gap of each run."""
    return [
        _points(name, summary.gap.points, summary.gap)
        for name, summary in runs.items()
        if summary.gap
    ]


def types(summary: Summary) -> list[Row]:
    """The gap of each problem type of a run; empty if it has only one type.

    Types of fewer than `FEW_OF_A_TYPE` problems are one row, if they are several: the mean over
    their problems, without an interval.
    """
    if len(summary.types) < 2:
        return []
    few = [row for row in summary.types if row.n_problems < FEW_OF_A_TYPE]
    if len(few) == 1:
        few = []
    rows: list[Row] = []
    for row in (row for row in summary.types if row not in few):
        problems = counted(row.n_problems, "problem")
        text, vision = percent(row.text_accuracy), percent(row.vision_accuracy)
        words = f"{problems}, text {text} percent, image {vision} percent"
        note = f"{problems}, {text} / {vision}"
        rows.append(_points(row.type or "(none)", row.points, row, note=note, words=words))
    if few:
        problems = sum(row.n_problems for row in few)
        mean = sum(row.points * row.n_problems for row in few) / problems
        name = f"{len(few)} types of fewer than {FEW_OF_A_TYPE} problems"
        note = counted(problems, "problem")
        words = f"{signed(mean)} points on average over {note}, without an interval"
        mark = Mark(mean, None, None, words)
        rows.append(Row(name, (mark,), signed(mean), "–", note))
    return rows


def pairs(runs: Mapping[str, Summary]) -> list[Part]:
    """Problems by outcome in both views, with the rates that follow, run by run."""
    parts: list[Part] = []
    for name, summary in runs.items():
        gap = summary.gap
        if gap:
            rates = (
                ("P(image right | text right) =", gap.p_vision_given_text),
                ("P(text right | image right) =", gap.p_text_given_vision),
                ("relative gap", gap.relative),
            )
            words = [f"{what} {percent(rate)}%" for what, rate in rates if rate is not None]
            parts.append(
                Part(
                    name,
                    "; ".join([*words, f"McNemar p {t.p_text(gap.p_value)}"]) + ".",
                    table=gap.table,
                )
            )
    return parts


def _answered(runs: Mapping[str, Summary]) -> Iterator[tuple[str, str, str, ViewSummary]]:
    """Run, view, colour and numbers of each view that has a response."""
    for name, summary in runs.items():
        for view, row in summary.views.items():
            if row.n_samples:
                yield name, view, row.side, row


def lengths(runs: Mapping[str, Summary]) -> list[Row]:
    """Tokens of the responses of each view of each run.

    The median, and the 10th to the 90th percentile.
    """
    rows: list[Row] = []
    for name, view, colour, row in _answered(runs):
        low, middle, high = (
            row.completion_tokens.p10,
            row.completion_tokens.p50,
            row.completion_tokens.p90,
        )
        words = f"{low:.0f} to {high:.0f}"
        label = f"{view}, median {middle:.0f} tokens, 10th to 90th percentile {words}"
        rows.append(
            Row(
                name,
                (Mark(middle, low, high, label, colour),),
                f"{middle:.0f}",
                words,
                f"{view} view",
            )
        )
    return rows


def truncation(runs: Mapping[str, Summary]) -> list[Row]:
    """The share of responses that was cut, of each view of each run."""
    rows: list[Row] = []
    for name, view, colour, row in _answered(runs):
        share = 100 * (row.truncation_rate or 0.0)
        mark = Mark(share, 0.0, share, f"{view}, {share:.1f} percent cut", colour)
        words = f"{row.truncated} of {row.n_samples}"
        rows.append(Row(name, (mark,), f"{share:.1f}", words, f"{view} view"))
    return rows


def reading_bars(reading: ReadingSummary) -> list[Bar]:
    """How problems were read, as bars of 100 percent.

    The bars are the problems lost in the image, and those solved in both views.
    """
    bars: list[Bar] = []
    for part, words in ((reading, "lost in the image"), (reading.solved, "solved in both views")):
        if not part.n_problems:
            continue
        numbers = part.values.misread
        counts = (numbers, part.misread - numbers, part.read_right, part.unreadable)
        pieces: list[Piece] = []
        start = 0.0
        for (kind, label), count in zip(KINDS.items(), counts, strict=True):
            share = 100 * count / part.n_problems
            pieces.append(Piece(kind, count, start, share, f"{count} {label}"))
            start += share
        bars.append(Bar(words, part.n_problems, tuple(pieces)))
    return bars


def readings(runs: Mapping[str, Summary]) -> list[Part]:
    """How problems were read in words, run by run."""
    parts: list[Part] = []
    for name, summary in runs.items():
        if summary.reading:
            parts.append(
                Part(name, reading_words(summary.reading)[0], source=summary.reading.source)
            )
    return parts
