"""One page over a folder of runs: `modgap report --index`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from modgap.core.errors import UserError
from modgap.core.json_files import write_text
from modgap.core.places import check_writable
from modgap.core.text import as_utf8
from modgap.reporting.frame import frame, is_a_report, page_template
from modgap.reporting.listing import DEPTH, Listed, list_runs


@dataclass(frozen=True, slots=True)
class Row:
    """A run of the page, and the bar of its gap in percent of the chart's width."""

    name: str
    run: Listed
    left: float = 0.0
    width: float = 0.0


def write_index(folder: Path, out: Path, *, force: bool = False) -> Path:
    """Write a page over all runs in a folder: what they are of, their state, and their gaps.

    Only manifests and summaries are read, as by `modgap ls`. Reports below the folder are linked.

    Args:
        folder: Runs are looked for in it and below it.
        out: The page.
        force: Replace a file that modgap did not write.

    Returns:
        The page.

    Raises:
        UserError: No run is there, or a file is in the way.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file, such as {out / 'index.html'}.")
    check_writable(out.absolute().parent)
    if out.exists() and not is_a_report(out) and not force:
        raise UserError(
            f"{out} was not written by modgap report: give another --out, or --force to replace it."
        )
    runs = list_runs(folder)
    ends = [0.0, *(end for run in runs if run.gap for end in (run.gap.ci_low, run.gap.ci_high))]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    rows: list[Row] = []
    for run in runs:
        name = os.path.relpath(run.path, folder)
        if run.gap is None:
            rows.append(Row(name, run))
            continue
        left = 100 * (run.gap.ci_low - low) / span
        width = 100 * (run.gap.ci_high - run.gap.ci_low) / span
        rows.append(Row(name, run, left, width))
    page = page_template("index").render(
        **frame(),
        folder=str(folder),
        rows=rows,
        zero=-100 * low / span,
        reports=_reports(folder, out),
    )
    write_text(out, as_utf8(page))
    return out


def _reports(folder: Path, out: Path) -> list[tuple[str, str]]:
    """The pages of `modgap report` below a folder: the name and the link from `out`."""
    found: list[tuple[str, str]] = []
    depth = len(folder.parts) + DEPTH
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if len(Path(place).parts) < depth else []
        for name in sorted(names):
            page = Path(place) / name
            if name.endswith(".html") and is_a_report(page) and page.resolve() != out.resolve():
                link = quote(os.path.relpath(page, out.absolute().parent))
                found.append((os.path.relpath(page, folder), link))
    return found
