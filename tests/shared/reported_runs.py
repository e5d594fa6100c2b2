"""Summaries of written runs, lost problems and what a terminal prints, for the tests of reports."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from written_runs import SAID, both

from modgap.analysis.results import ReportSummary, Summary
from modgap.analysis.summary import summarise
from modgap.core.record import RunFolder
from modgap.reporting.collect import collect
from modgap.reporting.page import numbers_of
from modgap.reporting.terminal import print_summary


def summary_of(run: RunFolder, samples: int | None = None) -> Summary:
    return summarise(run.problems(), run.responses(), run.grades(), samples)


def report_numbers(paths: Sequence[Path | str]) -> ReportSummary:
    """What `build_report` returns, without its page: drawing the charts takes most of its time."""
    return numbers_of(collect(paths))[0]


def printed(summary: Summary, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(summary, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


LOST = {name: both("cc", "ww") for name in SAID}
MORE_SAID = {f"{name}-{i}": words for name, words in SAID.items() for i in range(4)}
MORE_LOST = {name: both("cc", "ww") for name in MORE_SAID}
