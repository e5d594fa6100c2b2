"""What a reader must know before the numbers of a run: one line for each kind of trouble."""

from __future__ import annotations

from collections.abc import Mapping

from modgap.analysis.causal import FEWEST, VIEWS
from modgap.analysis.results import GapPart, GapSummary, Summary, ViewSummary
from modgap.core.text import counted, degenerate, percent
from modgap.core.transcripts import WHOSE, WITH_TEXT
from modgap.core.view import samples_of

MUCH_CUT = 0.05
"""A report warns from this share of truncated responses."""


def warnings(runs: Mapping[str, Summary]) -> list[str]:
    """What a reader must know before the numbers: one line for each kind of trouble, over all runs.

    Args:
        runs: Name -> summary; a single run is not named.
    """
    several = len(runs) > 1
    words: list[str] = []
    rows: list[tuple[str, ViewSummary]] = []
    for name, summary in runs.items():
        if summary.n_problems and not summary.views:
            of = f" of {name}" if several else ""
            words.append(
                f"There is no response{of}: give the command that made the run again, which makes"
                " what is missing."
            )
        for view, row in summary.views.items():
            what = f"{name} {view}" if several else view
            rows.append((what, row))
            words += _incomplete(view, what, row, summary)
    for name, summary in runs.items():
        words += _unpaired(f" of {name}" if several else "", summary)
    if some := [f"{what} {row.error:,} of {row.n_samples:,}" for what, row in rows if row.error]:
        words.append(
            f"Samples that could not be graded, which count as not right: {', '.join(some)}."
        )
    cut = [
        (what, row.truncation_rate) for what, row in rows if (row.truncation_rate or 0) >= MUCH_CUT
    ]
    if cut:
        words.append(
            "Responses cut at the token limit, which lowers accuracy (a larger --max-tokens shows"
            f" by how much): {', '.join(f'{what} {percent(share)}%' for what, share in cut)}."
        )
    return words


def _failed_sides(summary: Summary) -> list[str]:
    """The sides of the gap of which every sample failed."""
    failed: list[str] = []
    for side in ("text", "vision"):
        rows = [row for row in summary.views.values() if row.side == side]
        asked = any(row.n_samples for row in rows)
        if asked and all(row.error == row.n_samples for row in rows):
            failed.append(side)
    return failed


def _incomplete(view: str, what: str, row: ViewSummary, summary: Summary) -> list[str]:
    """What a view lacks: missing samples and missing problems.

    Samples that were requested but are absent, and problems that the data lacks in the view.
    """
    words: list[str] = []
    has_view = summary.n_problems - row.absent_problems
    if row.missing_samples:
        asked = has_view * samples_of(view, summary.samples_per_problem)
        words.append(
            f"{what} is not finished: {row.missing_samples:,} of"
            f" {counted(asked, 'sample')} missing or not graded; its numbers are over"
            f" {counted(row.n_problems, 'complete problem')} of {has_view:,}."
        )
    lacking = "data has no such version of the rest"
    if has_view < summary.n_problems:
        words.append(
            f"{what} is over {has_view:,} of {counted(summary.n_problems, 'problem')}: the"
            f" {'rest has no number to read' if view in WHOSE else lacking}."
        )
    return words


def _unpaired(of: str, summary: Summary) -> list[str]:
    """What the gap of a run lacks: problems, and an interval."""
    words: list[str] = []
    gap = summary.gap
    paired = gap.n_problems if gap else 0
    if failed := _failed_sides(summary):
        words.append(
            f"There is no gap{of}: no sample of the {' and '.join(failed)} side could be graded."
        )
    elif summary.pairable and paired < summary.n_problems:
        words.append(
            f"The gap{of} is over {counted(paired, 'problem')} of {summary.n_problems:,}, complete"
            " in both views."
        )
    if gap and (lacking := set(VIEWS) - summary.views.keys()) and lacking == {WITH_TEXT}:
        words.append(
            f"The gap{of} is not split into parts: the view {WITH_TEXT} is not in this run. Without"
            " it, what words in the answer change by themselves would be mixed into reading and"
            " what follows it. Give the run's own command again, with --controls causal; what is"
            " there is not asked again."
        )
    if gap and summary.causal is None and set(VIEWS) <= summary.views.keys():
        words.append(
            f"The gap{of} is not split into parts: fewer than {FEWEST} of its"
            f" {counted(gap.n_problems, 'problem')} are complete, without a failed sample, in all"
            " views of the split. Give a larger --limit."
        )
    if gap and seen(gap) and degenerate(gap.ci_low, gap.ci_high):
        words.append(
            f"The gap{of} has no interval (–): all {gap.n_problems:,} problems have the same"
            " difference between the views; too few are distinct for resampling to show a spread."
        )
    return words


def seen(gap: GapSummary | GapPart) -> bool:
    """Whether any sample is right, so that a gap could be seen."""
    return bool(gap.text_accuracy or gap.vision_accuracy)
