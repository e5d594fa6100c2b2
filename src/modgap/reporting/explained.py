"""An explanation in a terminal and as Markdown: the sentence, the parts, the problems that flip."""

from __future__ import annotations

from collections.abc import Iterator

from modgap.analysis.explained import Difference, Explanation
from modgap.core.text import interval, percent, signed
from modgap.reporting import tables as t

MOST_FLIPS = 20
"""Problems that the terminal and the Markdown name; the JSON has all."""
_LONG = 24


def explained_tables(found: Explanation, *, most: int = MOST_FLIPS) -> Iterator[t.Table]:
    """The parts of the difference, over all views and in each, and the problems that flip."""
    yield _parts_table(found.accuracy)
    if found.views:
        yield _views_table(found)
    if found.flips:
        yield _flips_table(found, most)


def notes(found: Explanation) -> list[str]:
    """What is to be said of single parts, and of the runs."""
    of_parts = [f"{part.name}: {part.note}." for part in found.accuracy.parts if part.note]
    return [*found.warnings, *of_parts]


def markdown(found: Explanation) -> str:
    """The explanation as Markdown."""
    lines = [
        f"# {found.run_a} and {found.run_b}",
        f"A: {found.run_a}, graded {found.graded_a}. B: {found.run_b}, graded {found.graded_b}.",
        found.sentence,
        *(f"Note: {words}" for words in notes(found)),
        found.method,
    ]
    parts = [f"**{table.caption}**\n\n{table.markdown()}" for table in explained_tables(found)]
    return "\n\n".join([*lines, *parts]) + "\n"


def _parts_table(found: Difference) -> t.Table:
    rows = [
        (part.name, signed(part.points), interval(part.ci_low, part.ci_high),
         f"{part.n_problems:,}")
        for part in found.parts
    ]  # fmt: skip
    total = found.total
    rows.append(
        ("all", signed(total.points), interval(total.ci_low, total.ci_high),
         f"{found.n_problems:,}")
    )  # fmt: skip
    caption = f"Accuracy, B {percent(found.b)} minus A {percent(found.a)}, in points"
    return t.Table(caption, ("part", "points", "95% interval", "problems"), tuple(rows))


def _views_table(found: Explanation) -> t.Table:
    """The parts in each view and of the gap; the JSON has their intervals."""
    columns = [*found.views, *([found.gap] if found.gap else [])]
    rows = [
        (part.name, *(signed(column.parts[n].points) for column in columns))
        for n, part in enumerate(found.accuracy.parts)
    ]
    rows.append(("all", *(signed(column.total.points) for column in columns)))
    head = ("part", *(column.name for column in columns))
    return t.Table("The same in each view, and of the gap", head, tuple(rows))


def _flips_table(found: Explanation, most: int) -> t.Table:
    rows = [
        (flip.problem_id, flip.view, f"only {flip.right_in.upper()}", flip.because,
         _short(flip.answer_a), _short(flip.answer_b), _short(flip.gold))
        for flip in found.flips[:most]
    ]  # fmt: skip
    count = len(found.flips)
    caption = f"{count:,} problems and views that flip"
    if count > most:
        caption += f", the first {most}"
    return t.Table(
        caption, ("problem", "view", "solved by", "because of", "A's answer", "B's answer", "gold"),
        tuple(rows), left=7,
    )  # fmt: skip


def _short(text: str) -> str:
    line = t.one_cell(text)
    return line if len(line) <= _LONG else f"{line[: _LONG - 3]}..."
