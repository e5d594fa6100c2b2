"""Runs, trainings and studies -> one page and its numbers, from Python."""

from __future__ import annotations

from pathlib import Path

from modgap.analysis.results import ReportSummary
from modgap.analysis.run import Run
from modgap.core.errors import UserError


def report(
    *runs: Run | Path | str,
    out: Path | str = "report.html",
    images: int = 200,
    figures: bool = False,
    template: str = "full",
    data: Path | str | None = None,
    allow_outside: bool = False,
    force: bool = False,
) -> ReportSummary:
    """Write one HTML page from runs, training runs or studies.

    Args:
        runs: Runs or their folders, studies, folders of studies, or the `cells.json` of an earlier
            report; the first evaluation is the one that the others are compared with.
        out: The page.
        images: Most diagrams that the page embeds.
        figures: Also write the charts and the tables to `OUT_figures/`.
        template: `paper` also lays the numbers into the shape of the paper's tables.
        data: Where the diagrams are now, if the run or the data set was moved.
        allow_outside: Embed diagrams outside the folders that the runs record, too.
        force: Replace files that no earlier report wrote.

    Returns:
        The numbers of the page.

    Raises:
        UserError: No run is given, or a folder holds none.
    """
    from modgap.reporting.page import build_report

    if not runs:
        raise UserError("no run given: name the --out of an evaluation, a training or a study.")
    if images < 0:
        raise UserError(f"--images {images}: must not be negative; 0 embeds none.")
    folders = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    return build_report(
        folders, Path(out), images=images, figures=figures, template=template, data=data,
        allow_outside=allow_outside, force=force,
    )  # fmt: skip
