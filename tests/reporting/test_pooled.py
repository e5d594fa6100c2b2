"""The gap of a model over several sets: the arithmetic, clusters, and where it is shown."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from reported_runs import report_numbers
from rich.console import Console
from written_runs import both, write_run

from modgap.analysis.gap import paired_gap
from modgap.analysis.results import ReportSummary
from modgap.core.record import RunFolder
from modgap.reporting.page import build_report
from modgap.reporting.tables import every_table, pooled_table
from modgap.reporting.terminal import print_numbers

LOST, SOLVED, NEITHER = both("cc", "ww"), both("cc", "cc"), both("ww", "ww")
MAIN = {f"m{n}": LOST if n < 6 else SOLVED for n in range(10)}
OTHER = {f"o{n}": LOST if n < 1 else NEITHER for n in range(4)}
CLOSED = dict.fromkeys(MAIN, SOLVED)


def write_sets(place: Path, *, shared: bool = False) -> Path:
    """A study of two sets; with `shared` the second set has images of the first one's problems."""
    RunFolder(place).start("study", {"model": "m", "benchmark": "pgps9k"}, {"model": "m"})
    for model, main in (("base", MAIN), ("kl", CLOSED)):
        write_run(place / model / "eval", main, data="d1")
        write_run(place / model / "eval-on-geometry3k", OTHER, data="d2")
    if shared:
        for model in ("base", "kl"):
            for part in ("eval", "eval-on-geometry3k"):
                run = RunFolder(place / model / part)
                rows = [
                    row.model_copy(update={"image": f"/img/{name[1:]}.png", "question": "Find x."})
                    for name, row in run.problems().items()
                ]
                run.write_problems(rows)
    return place


def test_every_problem_counts_once_and_the_sets_stand_beside_it(tmp_path: Path) -> None:
    numbers = report_numbers([write_sets(tmp_path)])
    assert numbers.pooled is not None
    base, kl = numbers.pooled["base"], numbers.pooled["kl"]
    assert base.sets == list(numbers.sets["base"]) and len(base.sets) == 2  # type: ignore[index]
    text = np.array([1.0] * 10 + [1, 0, 0, 0])
    vision = np.array([0.0] * 6 + [1] * 4 + [0] * 4)
    alone = paired_gap(text, vision, seed=42)
    assert base.n_problems == base.n_clusters == 14
    assert base.points == pytest.approx(100 * 7 / 14) == pytest.approx(alone.points)
    assert (base.ci_low, base.ci_high) == pytest.approx((alone.ci_low, alone.ci_high))
    assert base.mean_of_sets == pytest.approx((60 + 25) / 2)
    assert base.text_accuracy == pytest.approx(11 / 14) and base.change is None
    assert 0 < base.p_value < 0.05
    assert kl.change is not None
    assert kl.change.points == pytest.approx(-100 * 6 / 14)
    assert kl.change.points == pytest.approx(kl.points - base.points)


def test_a_problem_that_two_sets_hold_is_one_cluster(tmp_path: Path) -> None:
    apart = report_numbers([write_sets(tmp_path / "apart")]).pooled
    shared = report_numbers([write_sets(tmp_path / "shared", shared=True)]).pooled
    assert apart is not None and shared is not None
    assert (apart["base"].n_clusters, shared["base"].n_clusters) == (14, 10)
    assert shared["base"].n_problems == 14
    assert shared["base"].points == apart["base"].points


def test_it_is_in_table_report_and_summary(tmp_path: Path) -> None:
    study = write_sets(tmp_path / "study")
    numbers = build_report([study], tmp_path / "report.html")
    assert "All sets together, by problem" in (tmp_path / "report.html").read_text()
    assert "pooled" in every_table(numbers)
    table = pooled_table(numbers)
    assert table is not None and table.rows[0][0] == "base" and table.rows[0][2] == "14"
    console = Console(file=io.StringIO(), width=200)
    print_numbers(numbers, console)
    assert "All sets together" in console.file.getvalue()  # type: ignore[attr-defined]
    whole = json.loads(numbers.model_dump_json())
    assert ReportSummary.model_validate(whole) == numbers


def test_one_set_has_nothing_to_pool(tmp_path: Path) -> None:
    RunFolder(tmp_path).start("study", {"model": "m"}, {"model": "m"})
    write_run(tmp_path / "base" / "eval", MAIN)
    write_run(tmp_path / "base" / "eval-on-geometry3k", {"o1": {"image-only": "cc"}})
    numbers = report_numbers([tmp_path])
    assert numbers.pooled is None and pooled_table(numbers) is None
    assert "pooled" not in json.loads(numbers.model_dump_json())
