"""Responses are graded and reported line by line; the numbers are those of a plain computation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from modgap.analysis.run import Run
from modgap.analysis.scores import Scores
from modgap.analysis.summary import summarise
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow, ProblemRow, Response, line_of
from modgap.grading.graders import grade_answer
from modgap.reporting.collect import collect
from modgap.reporting.page import build_report, numbers_of
from modgap.reporting.viewer import viewer_data
from modgap.workflows.cut import cut
from modgap.workflows.grade import grade_run

VIEWS = ("full-text", "image-only", "own-view")
SAYS = (
    r"\boxed{5}", r"<think>AB = 7</think>\boxed{6}", "no box", r"<think>\boxed{5}",
    r"\boxed{5.001}", r"AB = 8 \boxed{x}",
)  # fmt: skip


def write(path: Path, seed: int, problems: int = 12, samples: int = 3) -> RunFolder:
    """Random responses in random order, some of them again, and half a line at the end."""
    rng = np.random.default_rng(seed)
    run = RunFolder(path)
    run.start("eval", {"views": list(VIEWS), "samples": samples})
    run.write_problems(
        ProblemRow(id=f"p{n}", answer="5.000", question="Find x.", conditions=("AB = 7",),
                   type="ab"[n % 2], leaky=n % 5 == 0)
        for n in range(problems)
    )  # fmt: skip
    keys = [(f"p{n}", v, s) for n in range(problems) for v in VIEWS for s in range(samples)]
    order = [*rng.permutation(len(keys)), *rng.integers(0, len(keys), 20)]
    rows: list[Response] = []
    for position in order:
        name, view, sample = keys[position]
        end = cast("Any", rng.choice(["stop", "stop", "length", "error"], p=[0.4, 0.4, 0.15, 0.05]))
        rows.append(
            Response(problem_id=name, view=view, sample=sample, prompt=f"{view} {name}",
                     response="" if end == "error" else str(rng.choice(SAYS)),
                     error="HTTP 500" if end == "error" else None, finish_reason=end,
                     completion_tokens=int(rng.integers(1, 99)), prompt_tokens=7)
        )  # fmt: skip
    text = "".join(map(line_of, rows))
    run.responses_path.write_text(text + line_of(rows[0])[:40])
    return run


@pytest.mark.parametrize("seed", range(4))
def test_grades_are_those_of_each_line_graded_alone(tmp_path: Path, seed: int) -> None:
    run = write(tmp_path, seed)
    grade_run(run)
    lines = run.responses_path.read_text().splitlines()[:-1]
    for line, row in zip(map(json.loads, lines), run.grades(), strict=True):
        assert (line["problem_id"], line["view"], line["sample"]) == row.key
        if line["finish_reason"] == "error":
            assert (row.outcome, row.stage, row.reason) == ("error", "engine", "HTTP 500")
        else:
            alone = grade_answer(line["response"], "5.000")
            assert (row.outcome, row.answer, row.value) == (
                alone.outcome, alone.answer, alone.value
            )  # fmt: skip
    assert (tmp_path / "grades.jsonl").read_bytes() == (
        tmp_path / "grades.strict.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_the_last_line_of_each_sample(tmp_path: Path, seed: int) -> None:
    run = write(tmp_path, seed)
    summary = grade_run(run)
    last = {row.key: row for row in run.grades()}
    cut = {row.key: row.finish_reason == "length" for row in run.responses()}
    tokens = {row.key: row.completion_tokens for row in run.responses()}
    for name, view in summary.views.items():
        keys = [key for key in last if key[1] == name]
        counts = Counter(last[key].outcome for key in keys)
        assert view.by_outcome() == tuple(
            counts[outcome] for outcome in ("correct", "wrong", "no_answer", "error")
        )
        assert view.truncated == sum(cut[key] for key in keys)
        assert view.mean_completion_tokens == pytest.approx(np.mean([tokens[key] for key in keys]))
        # The majority: the first of the values with the most samples, graded.
        right: list[bool] = []
        for problem in run.problems():
            rows = [last[problem, name, sample] for sample in range(3)]
            values = [row.value for row in rows if row.value is not None]
            words = [row.answer for row in rows if row.answer is not None]
            votes = [sum(abs(a - b) <= 5e-3 for b in values) for a in values]
            if values:
                best = values[votes.index(max(votes))]
                right.append(next(r.outcome == "correct" for r in rows if r.value == best))
            elif words:
                most = max(words.count(word) for word in words)
                best = next(word for word in words if words.count(word) == most)
                right.append(next(r.outcome == "correct" for r in rows if r.answer == best))
            else:
                right.append(False)
        assert view.maj_at_k == pytest.approx(np.mean(right))


def test_a_stored_run_and_its_records_in_memory_have_the_same_summary(tmp_path: Path) -> None:
    folders = [write(tmp_path / f"run{seed}", seed).path for seed in (5, 6)]
    for folder in folders:
        grade_run(RunFolder(folder))
    found = collect(folders)
    numbers, _ = numbers_of(found)
    for folder in folders:
        run = RunFolder(folder)
        plain = summarise(run.problems(), run.responses(), run.grades(), 3)
        shown = numbers.runs[folder.name].model_copy(update={"judge": None})
        assert shown.model_dump() == plain.model_dump()


def test_problems_and_samples_that_no_manifest_names_are_arranged(tmp_path: Path) -> None:
    rows = [
        Response(problem_id=name, view=view, sample=sample, prompt="", response=f"{name} {view}",
                 finish_reason="stop")
        for name in ("a", "b", "c")
        for view in ("text-only", "image-only", "full-text")
        for sample in (9, 4)
    ]  # fmt: skip
    run = RunFolder(tmp_path)
    run.responses_path.write_text("".join(map(line_of, rows)))
    run.write_grades(
        [GradeRow(problem_id="b", view="image-only", sample=4, outcome="correct", answer="1",
                  gold="1", stage="number", mode="strict")],
        "strict",
    )  # fmt: skip
    scores = Scores.stored(run, {})
    assert scores.views == ("full-text", "image-only", "text-only")
    assert scores.samples == (4, 9) and [row.id for row in scores.problems] == ["b", "a", "c"]
    assert scores.codes_PVS[0, 1].tolist() == [0, -1] and (scores.codes_PVS >= 0).sum() == 1
    said = scores.responses(2, np.ones((3, 2), np.bool_))
    assert {row.response for row in said} == {f"c {view}" for view in scores.views}


@pytest.mark.parametrize("seed", range(2))
def test_a_part_has_the_last_line_of_each_sample_and_no_text_is_kept(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path / "run", seed)
    grade_run(run)
    wanted = {row.key: row.response for row in run.responses()}
    monkeypatch.delattr(Run, "responses")  # all of them, in memory
    part = cut(run.path, tmp_path / "part", views="image-only", samples=2, limit=7).folder
    names = {f"p{n}" for n in range(7)}
    texts = [(row.key, row.response) for row in part.responses()]
    assert sorted(texts) == sorted(
        (key, text) for key, text in wanted.items()
        if key[0] in names and key[1] == "image-only" and key[2] < 2
    )  # fmt: skip


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    run = write(tmp_path, 1)
    grade_run(run)
    scores = Scores.stored(run, run.problems(), 3)
    lines = run.responses_path.read_bytes().splitlines(keepends=True)
    run.responses_path.write_bytes(b"".join(reversed(lines[:-1])))
    with pytest.raises(UserError, match="changed while"):
        for p in range(len(scores.problems)):
            scores.responses(p, scores.codes_PVS[p] >= 0)


def test_the_page_says_how_many_of_the_responses_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path / "run", 2)
    grade_run(run)
    found = collect([run.path])
    numbers, readings = numbers_of(found)
    assert viewer_data(found.evals, readings, 0).words == ""
    monkeypatch.setattr("modgap.reporting.viewer.MOST_RESPONSES", 72)
    shown = viewer_data(found.evals, readings, 0)
    held = [view["s"] for row in json.loads(shown.blocks[0]) for view in row["r"][0]["v"]]
    assert sum(map(len, held)) == 72 and {len(samples) for samples in held} == {2}
    assert "holds 72 of 108 responses" in shown.words and "first 2 samples" in shown.words
    monkeypatch.setattr("modgap.reporting.viewer.MOST_RESPONSES", 16)
    shown = viewer_data(found.evals, readings, 0)
    assert "first 1 sample of each view of 5 of 12 problems" in shown.words
    again = build_report([run.path], tmp_path / "r.html")
    assert again.runs == numbers.runs  # the numbers are of all responses
    assert "holds 15 of 108 responses" in (tmp_path / "r.html").read_text()
