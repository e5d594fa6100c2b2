"""The summary of runs in a terminal.

The same cells as the page, in at most 80 columns; plain text when piped.
"""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.analysis.gap import GapChange
from modgap.analysis.results import GapSummary, ReportSummary, Summary, ViewSummary
from modgap.core.progress import shown
from modgap.core.record import RunFolder
from modgap.core.text import counted, interval, percent, signed
from modgap.reporting import tables as t
from modgap.reporting.judged import doubt_words, judge_words
from modgap.reporting.mathverse import mathverse_tables
from modgap.reporting.robustness import sentences
from modgap.reporting.seed_tables import narrow_table
from modgap.reporting.words import causal_words, gap_words, meaning_words, reading_words

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = 80
"""Characters that a line of a table may have."""
VIEW_COLUMNS = 13
"""Characters from which on the name of a view has a line for each part where a table is wide."""
MANY = 8
"""With a table over seeds, the terminal shows single runs only up to this number."""


def print_numbers(numbers: ReportSummary, console: Console | None = None) -> None:
    """Print what `build_report` returns.

    Args:
        numbers: As `build_report` or `numbers_of` return them.
        console: Where to; standard output by default, without colour or box characters unless it is
            a terminal.
    """
    from rich.console import Console

    console = console or Console()
    print_line(console, numbers.headline.title, "bold")
    for sentence in numbers.headline.lede:
        print_line(console, sentence)
    for sentence in sentences(numbers.robustness):
        print_line(console, sentence)
    for warning in numbers.warnings:
        print_line(console, f"Note: {warning}", "yellow")
    for part in numbers.seeds:
        console.print()
        console.print(as_rich(narrow_table(part), plain=not console.is_terminal))
    runs = numbers.runs
    if not runs:
        return
    for name, summary in runs.items():
        for sentence in judge_words(summary.judge):
            print_line(console, f"{name}: {sentence}" if len(runs) > 1 else sentence)
    if numbers.seeds and len(runs) > MANY:
        return print_line(console, f"The {len(runs)} runs one by one are on the page.")
    for table in (
        t.sets_table(numbers, narrow=True),
        t.pooled_table(numbers, narrow=True),
        _counts(runs),
        _gaps(runs, numbers.changes, several=bool(numbers.sets)),
        t.passes_table(runs),
        *mathverse_tables(runs, narrow=True),
    ):
        if table is not None and table.rows:
            console.print()
            console.print(as_rich(table, plain=not console.is_terminal))


def print_summary(
    summary: Summary,
    name: str = "run",
    console: Console | None = None,
    run: Path | None = None,
    prices: tuple[float, float] | None = None,
) -> None:
    """Print one run's summary.json: its views and its gap.

    Args:
        summary: What to print.
        name: What the run is called.
        console: Where to; standard output by default.
        run: Its folder, to end with the tokens used and with the command that makes its report.
        prices: The cost of a million tokens of its prompts and of its responses.
    """
    from rich.console import Console

    console = console or Console()
    gap = summary.gap
    if gap:
        print_line(console, "".join(words for words, _ in gap_words(gap)), "bold")
        for sentence in [
            *meaning_words(gap),
            *causal_words(summary.causal),
            *reading_words(summary.reading),
        ]:
            print_line(console, sentence)
    for sentence in judge_words(summary.judge):
        print_line(console, sentence)
    for warning in [*doubt_words(summary.judge), *summary.warnings]:
        print_line(console, f"Note: {warning}", "yellow")
    for table in (
        _counts({name: summary}),
        *mathverse_tables({name: summary}, named=False, narrow=True),
    ):
        console.print(as_rich(table, plain=not console.is_terminal))
    if run is not None:
        _print_spent(console, run, prices)
        command = shlex.join(["modgap", "report", str(run), "--out", str(run / "report.html")])
        words = shown(f"\nreport it: {command}")
        console.print(words, markup=False, highlight=False, soft_wrap=True)


def _print_spent(console: Console, run: Path, prices: tuple[float, float] | None) -> None:
    """The tokens that the responses used, and what became of the requests that failed."""
    count, tokens, failed = 0, [0, 0], Counter[str]()
    for row in RunFolder(run).responses():
        count += 1
        tokens[0] += row.prompt_tokens
        tokens[1] += row.completion_tokens
        if row.finish_reason == "error":
            failed[row.error or "no reason given"] += 1
    console.print()
    words = f"Tokens: {tokens[0]:,} of prompts and {tokens[1]:,} of responses"
    if prices:
        cost = sum(number * price for number, price in zip(tokens, prices, strict=True)) / 1e6
        words += f", which cost {cost:.4g} at {prices[0]:g} and {prices[1]:g} a million"
    print_line(console, f"{words}.")
    if failed:
        (first, _), kinds = failed.most_common(1)[0], len(failed) - 1
        more = f" and {counted(kinds, 'other reason')}" if kinds else ""
        print_line(
            console,
            f"{failed.total():,} of {counted(count, 'request')} failed for good"
            f" ({' '.join(first.split())[:200]}{more}): the same command makes them again.",
            "yellow",
        )


def print_line(console: Console, words: str, style: str | None = None) -> None:
    """A line as it is: nothing in it is markup."""
    console.print(shown(words), style=style, markup=False, highlight=False)


def as_rich(table: t.Table, *, plain: bool = False) -> Any:
    """A table for rich.

    Args:
        table: The cells.
        plain: Without box characters, for a pipe or a file.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=Text(t.one_cell(shown(table.caption))),
        title_justify="left",
        title_style="dim",
        box=None if plain else box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    heads = [_head(table, number) for number in range(len(table.head))]
    cells = [[t.one_cell(shown(cell)) for cell in row] for row in table.rows]
    views = table.head.index("view") if "view" in table.head[: table.left] else None
    if views is not None and _width(heads, cells, plain=plain) > COLUMNS:
        for row in cells:
            row[views] = _parted(row[views])
    for number, head in enumerate(heads):
        left = number < table.left
        made.add_column(
            Text(head),
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=not left or number == views,
        )
    for row in cells:
        made.add_row(*map(Text, row))
    return made


def _head(table: t.Table, number: int) -> str:
    """The head of a column, in two lines where it is wider than all cells below it."""
    name = t.one_cell(shown(table.head[number]))
    wide = table.rows and all(len(name) > len(row[number]) for row in table.rows)
    return "\n".join(name.rsplit(" ", 1)) if wide and number >= table.left else name


def _width(heads: Sequence[str], cells: Sequence[Sequence[str]], *, plain: bool) -> int:
    """Characters of a line of the table as wide as it wants to be."""
    lines = [head.split("\n") for head in heads]
    for row in cells:
        for column, cell in zip(lines, row, strict=True):
            column.append(cell)
    between = 2 if plain else 3  # with the box's own character
    return sum(max(map(len, column)) + between for column in lines)


def _parted(view: str) -> str:
    """The name of a view in lines that end at a hyphen, so that no word is broken."""
    return textwrap.fill(view, VIEW_COLUMNS, break_long_words=False)


def _counts(runs: Mapping[str, Summary]) -> t.Table:
    """Accuracy and all four counts with their denominator, narrow."""
    several = len(runs) > 1
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        for view, row in summary.views.items():
            cells = (percent_with_interval(row), *map(str, row.by_outcome()), str(row.n_samples))
            rows.append((*((name,) if several else ()), view, *cells))
    head = (
        *(("run",) if several else ()),
        "view",
        "accuracy %",
        "right",
        "wrong",
        "none",
        "error",
        "of",
    )
    modes = t.modes(runs)
    graded = ", ".join(
        f"{mode} ({', '.join(names)})" if len(modes) > 1 else mode for mode, names in modes.items()
    )
    caption = (
        "Accuracy by view (95% interval), and samples by"
        f" outcome{f'; graded {graded}' if graded else ''}"
    )
    return t.Table(caption, head, tuple(rows), left=2 if several else 1)


def percent_with_interval(row: ViewSummary) -> str:
    """`61.2 (58.1 to 64.3)`."""
    return f"{percent(row.accuracy)} ({interval(row.ci_low, row.ci_high, 100)})"


def points_with_interval(value: GapSummary | GapChange) -> str:
    """`+16.4 (13.9 to 18.8)`."""
    return f"{signed(value.points)} ({interval(value.ci_low, value.ci_high)})"


def _gaps(
    runs: Mapping[str, Summary], changes: Mapping[str, GapChange], *, several: bool
) -> t.Table:
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        gap, change = summary.gap, changes.get(name)
        if gap:
            cells = [points_with_interval(value) if value else "" for value in (gap, change)]
            rows.append(
                (
                    name,
                    *(cells if changes else cells[:1]),
                    t.p_text(gap.p_value),
                    str(gap.n_problems),
                )
            )
    first = "the first on its set" if several else next(iter(runs))
    change_head = (f"change from {first}",) if changes else ()
    return t.Table(
        "Gap in points (95% interval)",
        ("run", "gap", *change_head, "p (McNemar)", "problems"),
        tuple(rows),
    )
