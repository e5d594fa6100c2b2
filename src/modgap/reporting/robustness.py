"""Does the conclusion survive? The section of a report, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modgap.analysis.results import ReportSummary, Robustness
from modgap.analysis.robustness import robustness
from modgap.core.record import RunFolder
from modgap.core.text import interval, percent, signed
from modgap.reporting import tables as t
from modgap.reporting.collect import EvalRun

KINDS = {
    "base": "the run's own", "tolerance": "tolerance", "mode": "grader", "judge": "judge",
    "vote": "samples", "leaky": "problems",
}  # fmt: skip
"""What a variant changes."""


def of_runs(runs: Sequence[EvalRun]) -> dict[str, Robustness] | None:
    """Name of a run -> its gap under every variant; `None` where no run has a gap."""
    found: dict[str, Robustness] = {}
    shown = sum(run.scores.n_responses for run in runs)
    for run in runs:
        one = robustness(RunFolder(run.path), run.scores, run.manifest.resolved, shown)
        if one is not None:
            found[run.name] = one
    return found or None


def robustness_table(numbers: ReportSummary) -> t.Table | None:
    """The gap of every run under every variant."""
    rows: list[tuple[str, ...]] = []
    for name, found in (numbers.robustness or {}).items():
        for variant in found.variants:
            gap = variant.gap
            own = variant.moved is None
            rows.append(
                (name, KINDS[variant.kind], variant.name, signed(gap.points),
                 interval(gap.ci_low, gap.ci_high), signed(variant.moved),
                 interval(variant.moved_low, variant.moved_high),
                 "–" if own else "yes" if variant.survives else "no",
                 percent(gap.text_accuracy), percent(gap.vision_accuracy), f"{gap.n_problems:,}")
            )  # fmt: skip
    if not rows:
        return None
    head = (
        "run", "changed", "variant", "gap", "95% interval", "moved by", "95% interval",
        "survives", "text %", "image %", "problems",
    )  # fmt: skip
    return t.Table("Does the conclusion survive?", head, tuple(rows), left=3)


def sentences(robust: Mapping[str, Robustness] | None) -> list[str]:
    """For each run whether its conclusion survives, and what was not graded for that."""
    found: list[str] = []
    for name, one in (robust or {}).items():
        head = f"{name}: " if len(robust or {}) > 1 else ""
        found.append(f"{head}{one.sentence}")
        if one.not_graded:
            found.append(
                f"{head}Too many responses to be graded again for this page in mode"
                f" {', '.join(one.not_graded)}: grade the run in it first, then in the mode that"
                " counts."
            )
    return found
