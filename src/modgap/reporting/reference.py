"""Rows of `docs/results/` from runs, studies and `cells.json` files: `modgap results write`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modgap.analysis.cells import Sweep
from modgap.analysis.reference import Accuracy, Gap, Measured, ResultsFile, Row, read_results
from modgap.analysis.results import GapSummary, SeedRow, Summary
from modgap.analysis.seeds import SeedsEstimate
from modgap.core.errors import UserError
from modgap.core.json_files import write_json
from modgap.reporting.collect import EvalRun, collect
from modgap.reporting.page import numbers_of


@dataclass(frozen=True, slots=True)
class Given:
    """What the runs may not say of themselves.

    Attributes:
        source: Where their records are.
        benchmark: Of runs that do not record it.
    """

    source: str
    benchmark: str = ""


def write_results(runs: Sequence[Path], out: Path, given: Given) -> ResultsFile:
    """Write the results of runs to a file; rows that it has of other models and recipes stay.

    With several seeds of a recipe the rows are those of the table over seeds, else one for each
    evaluation.

    Args:
        runs: What `modgap report` takes.
        out: The file.
        given: What the runs do not say.

    Raises:
        UserError: A run has no gap, or does not say what it was measured on; or the file is no such
            file.
    """
    found = collect(runs)
    numbers, _ = numbers_of(found)
    rows: list[Row] = []
    for sweep, table in zip(found.sweeps, numbers.seeds, strict=True):
        rows += [_of_seeds(sweep, row, given) for row in table.rows]
    if not rows:
        rows = [_of_run(run, numbers.runs[run.name], given) for run in found.evals]
    if not rows:
        raise UserError(f"{runs[0]} holds no evaluation: give the --out of modgap eval or study.")
    before = read_results(out).rows if out.exists() else []
    new = {_key(row) for row in rows}
    file = ResultsFile(rows=[*(row for row in before if _key(row) not in new), *rows])
    write_json(out, file.model_dump(mode="json"))
    return file


def _key(row: Row) -> tuple[str, str, str]:
    return row.model, row.recipe, row.benchmark


def _of_seeds(sweep: Sweep, row: SeedRow, given: Given) -> Row:
    """A row of a table over seeds."""
    how = sweep.evaluation
    measured = Measured(
        problems=len(sweep.problems),
        samples=sweep.samples,
        seeds=len(row.seeds),
        text=_accuracy(row.text),
        image=_accuracy(row.vision),
        gap=Gap(
            value=round(row.gap.value, 2),
            low=round(row.gap.ci_low, 2),
            high=round(row.gap.ci_high, 2),
        ),
        text_views=sweep.sides["text"],
        image_views=sweep.sides["vision"],
        **_how(how, str(how.get("mode", ""))),
        data=str(how.get("data_fingerprint") or ""),
        weights="" if row.seeds else sweep.base,
        source=given.source,
    )
    return Row(
        model=sweep.model,
        recipe=row.recipe if row.seeds else "",
        benchmark=_benchmark("the table over seeds", "", given),
        measured=measured,
    )


def _of_run(run: EvalRun, summary: Summary, given: Given) -> Row:
    """A row of one evaluation."""
    gap = summary.gap
    if gap is None:
        raise UserError(
            f"{run.path} has no gap: it needs answers of both sides that are graded (modgap grade)."
        )
    manifest = run.manifest
    samples = sum(view.n_samples for view in summary.views.values())
    errors = sum(view.error for view in summary.views.values())
    cut = sum(view.truncated for view in summary.views.values())
    recorded = str(manifest.given.get("benchmark") or "")
    measured = Measured(
        problems=gap.n_problems,
        samples=summary.samples_per_problem,
        text=_side(gap, "text"),
        image=_side(gap, "vision"),
        gap=Gap(
            value=round(gap.points, 2),
            low=None if gap.degenerate else round(gap.ci_low, 2),
            high=None if gap.degenerate else round(gap.ci_high, 2),
        ),
        text_views=gap.text_views,
        image_views=gap.vision_views,
        **_how(manifest.resolved, summary.mode),
        error_rate=round(errors / samples, 4),
        truncation_rate=round(cut / samples, 4),
        data=str(manifest.fingerprints.get("data_fingerprint") or ""),
        weights=str(manifest.resolved.get("model_fingerprint") or ""),
        version=str(manifest.whole.get("versions", {}).get("modgap") or ""),
        date=manifest.created[:10],
        source=given.source,
    )
    recipe = run.name.rpartition("/")[2] if run.base else ""
    if recipe not in ("", "base"):
        measured = measured.model_copy(update={"seeds": 1})
    return Row(
        model=run.model,
        recipe="" if recipe == "base" else recipe,
        benchmark=_benchmark(str(run.path), recorded, given),
        command=_command(str(manifest.given.get("command") or "")),
        measured=measured,
    )


def _how(settings: dict[str, Any], mode: str) -> dict[str, Any]:
    """How a run was sampled and graded."""
    return {
        "mode": mode,
        "style": settings.get("style", "aligned"),
        "engine": str(settings.get("engine") or "imported"),
        "temperature": settings.get("temperature"),
        "max_tokens": settings.get("max_tokens"),
    }


def _benchmark(where: str, recorded: str, given: Given) -> str:
    if found := recorded or given.benchmark:
        return found
    raise UserError(f"{where} does not record its benchmark: give --benchmark.")


def _command(text: str) -> str:
    """The command of a run without the path of the program, which is of one machine."""
    parts = shlex.split(text)
    return shlex.join(["modgap", *parts[1:]]) if parts else ""


def _accuracy(estimate: SeedsEstimate) -> Accuracy:
    value, low, high = (
        round(100 * share, 2) for share in (estimate.value, estimate.ci_low, estimate.ci_high)
    )
    return Accuracy(value=value, low=low, high=high)


def _side(gap: GapSummary, side: str) -> Accuracy:
    value, low, high = (
        round(100 * getattr(gap, f"{side}_{part}"), 2) for part in ("accuracy", "ci_low", "ci_high")
    )
    return Accuracy(value=value, low=low, high=high)
