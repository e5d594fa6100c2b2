"""What a reader must know before the numbers of a run: one line for each kind of trouble."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modgap.core.text import degenerate, percent

MUCH_CUT = 0.05
"""The share of truncated responses from which a report warns."""


def warnings(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know before the numbers: one line for each kind of trouble, over all runs.

    Args:
        runs: Name -> summary; a single run is not named.
    """
    several = len(runs) > 1
    rows = [
        (f"{name} {view}" if several else view, row, summary)
        for name, summary in runs.items()
        for view, row in summary["views"].items()
    ]
    words: list[str] = []
    for what, row, summary in rows:
        has_view = summary["n_problems"] - row.get("absent_problems", 0)  # older summaries do not say
        if row["missing_samples"]:
            words.append(
                f"{what} is not finished: {row['missing_samples']:,} of "
                f"{has_view * summary['samples_per_problem']:,} samples are missing or not graded; its "
                f"numbers are over the {row['n_problems']:,} of {has_view:,} problems that are complete."
            )
        if has_view < summary["n_problems"]:
            words.append(
                f"{what} is over {has_view:,} of {summary['n_problems']:,} problems: the data has no such version of "
                "the others."
            )
    for name, summary in runs.items():
        paired = summary["gap"]["n_problems"] if summary["gap"] else 0
        if failed := _failed_sides(summary):
            of = f" of {name}" if several else ""
            words.append(f"There is no gap{of}: no sample of the {' and '.join(failed)} side could be graded.")
        elif summary["pairable"] and paired < summary["n_problems"]:
            of = f" of {name}" if several else ""
            words.append(
                f"The gap{of} is over the {paired:,} of {summary['n_problems']:,} problems that are complete in both "
                "views."
            )
        gap = summary["gap"]
        if gap and seen(gap) and degenerate(gap["ci_low"], gap["ci_high"]):
            of = f" of {name}" if several else ""
            words.append(
                f"The gap{of} has no interval (–): all {gap['n_problems']:,} problems have the same difference between "
                "the views; too few are distinct for resampling to show a spread."
            )
    if some := [f"{what} {row['error']:,} of {row['n_samples']:,}" for what, row, _ in rows if row["error"]]:
        words.append(f"Samples that could not be graded, which count as not right: {', '.join(some)}.")
    cut = [(what, row["truncation_rate"]) for what, row, _ in rows if (row["truncation_rate"] or 0) >= MUCH_CUT]
    if cut:
        words.append(
            f"Responses cut at the token limit, which lowers accuracy (a larger --max-tokens shows by how much): "
            f"{', '.join(f'{what} {percent(share)}%' for what, share in cut)}."
        )
    return words


def _failed_sides(summary: Mapping[str, Any]) -> list[str]:
    """The sides of the gap of which every sample failed."""
    sides = {side: [row for row in summary["views"].values() if row["side"] == side] for side in ("text", "vision")}
    return [
        side
        for side, rows in sides.items()
        if any(row["n_samples"] for row in rows) and all(row["error"] == row["n_samples"] for row in rows)
    ]


def seen(gap: Mapping[str, Any]) -> bool:
    """Whether any sample is right, so that a gap could be seen."""
    return bool(gap["text_accuracy"] or gap["vision_accuracy"])
