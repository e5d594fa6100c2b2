"""The first screen of a report, and the axes of its charts."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from reported_runs import report_numbers
from written_runs import HOSTILE, both, write_run, write_stage

from modgap.analysis.results import CausalPart, CausalSummary, LoggedStage
from modgap.reporting import panels
from modgap.reporting.curves import training
from modgap.reporting.figures import DASHES, RECIPES, dashes_of, draw
from modgap.reporting.opening import splits
from modgap.reporting.page import build_report


def part(points: float, gap: float) -> CausalPart:
    share = points / gap
    return CausalPart(
        points=points, ci_low=points - 1, ci_high=points + 1,
        share=share, share_low=share - 0.1, share_high=share + 0.1,
    )  # fmt: skip


def test_the_page_says_what_was_measured_before_the_gap(tmp_path: Path) -> None:
    verdicts = {f"p{n}": both("cccc", "wwww") for n in range(6)}
    write_run(
        tmp_path / "run", verdicts, model="Qwen/X-3B",
        resolved={"benchmark": "pgps9k", "temperature": 0.6, "max_tokens": 256},
    )  # fmt: skip
    build_report([tmp_path / "run"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    shown = html.unescape(re.sub(r"<[^>]+>", " ", page[page.index('id="answer"') :]))
    before, _, _ = shown.partition("gap 100.0 points")
    for words in ("Qwen/X-3B", "pgps9k, 6 problems", "4 samples", "temperature 0.6", "strict",
                  "(full-text) minus", "(image-only), on the same problems"):  # fmt: skip
        assert words in before


def test_the_bar_is_shared_by_the_parts_that_widen_the_gap(tmp_path: Path) -> None:
    numbers = build_report(
        [write_run(tmp_path / "run", {"a": both("cc", "ww"), "b": both("cc", "cc")}).path],
        tmp_path / "r.html",
    )
    parts = {"writing": part(-4, 20), "reading": part(18, 20), "integration": part(6, 20)}
    causal = CausalSummary(
        n_problems=40,
        left_out=0,
        accuracies={},
        gap=part(20, 20),
        parts=parts,
        use=part(6, 20),
        prefilling=part(0, 20),
    )
    [split] = splits({"run": numbers.runs["run"].model_copy(update={"causal": causal})})
    widths = {segment.kind: segment.width for segment in split.segments}
    assert widths == pytest.approx({"writing": 0, "reading": 75, "integration": 25})
    assert all(segment.words in split.label for segment in split.segments)
    assert "% of the gap" not in split.label  # the widths are no shares of the gap


def test_types_of_few_problems_are_one_row(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {f"p{n}": both("cc", "ww") for n in range(10)})
    kinds = ["many"] * 6 + ["x", "x", "y", "z"]
    run.write_problems(
        row.model_copy(update={"type": kind})
        for row, kind in zip(run.problems().values(), kinds, strict=True)
    )
    numbers = build_report([run.path], tmp_path / "r.html")
    rows = panels.types(numbers.runs["run"])
    assert [row.name for row in rows] == ["many", "3 types of fewer than 5 problems"]
    assert rows[1].shown == "+100.0" and rows[1].note == "4 problems" and rows[1].range == "–"
    assert (tmp_path / "r.html").read_text().count('<th scope="row">x</th>') == 1  # in the table


def test_axes_of_shares_and_constants_are_sensible(tmp_path: Path) -> None:
    numbers = build_report(
        [write_run(tmp_path / "run", {"a": both("cc", "ww"), "b": both("cc", "cc")}).path],
        tmp_path / "r.html",
    )
    metrics = {
        "accuracy": [(1, 0.41), (2, 0.43)],
        "length_mean": [(1, 512.0), (2, 512.0)],
        "refills": [(1, 0.0), (2, 0.0)],
        "loss": [(1, -2.0), (2, -2.0)],
    }
    logged = {"kl": [LoggedStage(stage="stage1", after=0, metrics=metrics)]}
    charts = draw(numbers.model_copy(update={"training": logged}))
    limits = {name: charts[f"training-{name}"].figure.axes[0].get_ylim() for name in metrics}
    assert limits["accuracy"] == (0, 1)
    assert limits["length_mean"][0] == 0 and limits["length_mean"][1] > 512
    assert limits["refills"] == (0, 1)
    assert limits["loss"][0] < -2 and limits["loss"][1] == 0
    assert charts["accuracy"].figure.axes[0].get_xlim() == (0, 100)
    assert charts["truncation"].figure.axes[0].get_xlim() == (0, 100)
    assert training(logged)


def test_charts_are_drawn_however_little_was_measured(tmp_path: Path) -> None:
    """Most tests of pages draw none."""
    odd = {
        "errors": both("ee", "ee"), "one": both("c", "w"), "cut": both("CN", "WN"),
        "alike": both("cc", "cc"), "text": {"full-text": "cw"}, "image": {"image-only": "nn"},
    }  # fmt: skip
    paths = [write_run(tmp_path / name, {"a": odd[name], HOSTILE: odd[name]}).path for name in odd]
    write_stage(stage := tmp_path / "stage", steps=1, loss=-0.0)
    for chosen in (*([path] for path in paths), [stage], [*paths, stage]):
        charts = draw(report_numbers(chosen))
        assert all(chart.label for chart in charts.values())
        assert ("lengths" in charts) == (chosen != [stage])
        assert any(name.startswith("training-") for name in charts) == (stage in chosen)


def test_no_two_recipes_have_the_same_line() -> None:
    count = len(RECIPES) * len(DASHES)
    lines = {(number % len(RECIPES), dashes_of(number)) for number in range(count)}
    assert len(lines) == count
    # Neighbours are told apart without their colours.
    assert all(dashes_of(number) != dashes_of(number + 1) for number in range(6))
