"""MathVerse's breakdown as tables."""

from __future__ import annotations

from collections.abc import Mapping

from modgap.analysis.results import Bucket, MathverseSets, Summary
from modgap.core.text import interval, percent, signed
from modgap.core.view import VERSIONS
from modgap.reporting import tables as t

_TITLES = {view: version for version, view in VERSIONS.items()}


def mathverse_tables(
    runs: Mapping[str, Summary], *, named: bool = True, narrow: bool = False
) -> list[t.Table]:
    """The breakdown of each MathVerse run as tables; empty if there is no such run.

    Args:
        runs: Name -> summary.
        named: Whether the runs' names are shown.
        narrow: For a terminal: versions by their initials, fewer columns.
    """
    found = {
        name: (summary.mathverse, summary.gap)
        for name, summary in runs.items()
        if summary.mathverse
    }
    if not found:
        return []
    sets: list[tuple[str, ...]] = []
    versions: list[tuple[str, ...]] = []
    shown = [view for view in _TITLES if any(view in whole.versions for whole, _ in found.values())]
    for name, (whole, gap_of_all) in found.items():
        first = (name,) if named else ()
        parts = whole.question_types | whole.subjects
        gaps = {"all": gap_of_all} | {part: of_part.gap for part, of_part in parts.items()}
        everything: dict[str, MathverseSets] = {"all": whole, **parts}
        for part, of_part in everything.items():
            for which, bucket in (
                ("overall", of_part.overall),
                ("text", of_part.text),
                ("vision", of_part.vision),
            ):
                if bucket.n_samples:
                    sets.append((*first, part, which, *_cells(bucket, narrow)))
            accuracies = (
                percent(of_part.versions[view].accuracy if view in of_part.versions else None)
                for view in shown
            )
            gap = gaps[part]
            points = (signed(gap.points), interval(gap.ci_low, gap.ci_high)) if gap else ("–", "–")
            versions.append((*first, part, *accuracies, *points))
    titles = [_TITLES[view] for view in shown]
    short = ["".join(word[0] for word in title.split()) for title in titles]
    legend = (
        f" ({', '.join(f'{a} {title}' for a, title in zip(short, titles, strict=True))})"
        if narrow
        else ""
    )
    run = ("run",) if named else ()
    spread = ("accuracy %",) if narrow else ("accuracy %", "95% interval", "problems")
    left = len(run) + 1
    tables = [
        t.Table(
            "MathVerse by side, question type and subject (95% intervals clustered by problem)",
            (*run, "part", "versions", *spread, "correct", "of"),
            tuple(sets),
            left=left + 1,
        ),
        t.Table(
            f"MathVerse by version, accuracy in percent, and the gap in points{legend}",
            (*run, "part", *(short if narrow else titles), "gap", "95% interval"),
            tuple(versions),
            left=left,
        ),
    ]
    return [table for table in tables if table.rows]  # a Text Only run has no sides


def _cells(row: Bucket, narrow: bool) -> tuple[str, ...]:
    value, spread = percent(row.accuracy), interval(row.ci_low, row.ci_high, 100)
    shown = (f"{value} ({spread})",) if narrow else (value, spread, str(row.n_problems))
    return (*shown, str(row.correct), str(row.n_samples))
