"""Does the conclusion survive? The gap under other gradings, votes, judges and fewer problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from written_runs import both

from modgap.analysis.resampling import SEED, bootstrap_interval
from modgap.analysis.results import Robustness, Variant
from modgap.core.json_files import write_text
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow, Response, line_of
from modgap.grading.judge import Undecided as Open
from modgap.grading.judge import VerdictFile, VerdictRow, question_id
from modgap.grading.mathverse import Case, grade_by_rule
from modgap.reporting import robustness as section
from modgap.reporting.page import build_report
from modgap.workflows.grade import grade_run

RIGHT, NEAR, WRONG = (rf"<think>x</think>\boxed{{{x}}}" for x in ("70.71", "71", "9"))
SAYS = {"c": RIGHT, "n": NEAR, "w": WRONG}


def write(path: Path, said: dict[str, dict[str, str]], **fields: dict[str, bool]) -> Path:
    """A run that says what its letters stand for, graded strict."""
    run = RunFolder(path)
    samples = len(next(iter(next(iter(said.values())).values())))
    run.start("eval", {"views": ["full-text", "image-only"], "samples": samples})
    leaky = fields.get("leaky", {})
    run.write_problems(
        ProblemRow(id=name, answer="70.710", question="Find x.", leaky=leaky.get(name, False))
        for name in said
    )
    run.write_responses(
        Response(problem_id=name, view=view, sample=s, prompt="", response=SAYS[letter],
                 finish_reason="stop")
        for name, views in said.items()
        for view, letters in views.items()
        for s, letter in enumerate(letters)
    )  # fmt: skip
    grade_run(run)
    return path


def of(path: Path, out: Path) -> Robustness:
    found = build_report([path], out).robustness
    assert found is not None
    return found[path.name]


def named(found: Robustness) -> dict[str, Variant]:
    return {variant.name: variant for variant in found.variants}


def points(variant: Variant) -> float:
    return round(variant.gap.points, 1)


def test_the_gap_under_each_tolerance_and_the_original_s_grader(tmp_path: Path) -> None:
    """Ten problems that the image side rounds: strict and exact call them wrong."""
    said = {f"p{n}": both("c", "n" if n < 10 else "c") for n in range(20)}
    found = of(write(tmp_path / "run", said), tmp_path / "r.html")
    assert {name: points(variant) for name, variant in named(found).items()} == {
        "as graded: within 0.005 (strict)": 50.0,
        "or within 1% (relative)": 0.0,
        "the original's grader (paper)": 0.0,
        "no tolerance (exact)": 50.0,
    }
    assert not found.survives
    assert "does not survive 2 of 3" in found.sentence
    near = named(found)["or within 1% (relative)"]
    assert near.moved == -50.0 and not near.survives and near.moved_high < 0
    page = (tmp_path / "r.html").read_text()
    assert 'id="robustness"' in page and "or within 1% (relative)" in page


def test_modes_agree_with_a_grading_in_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    said = {f"p{n}": both(*("".join(rng.choice([*"cnw"], 2)) for _ in range(2))) for n in range(30)}
    run = write(tmp_path / "run", said)
    before = {name: variant.gap for name, variant in named(of(run, tmp_path / "r.html")).items()}
    for mode, words in (
        ("relative", "or within 1% (relative)"),
        ("paper", "the original's grader (paper)"),
    ):
        summary = grade_run(RunFolder(run), mode)
        assert summary.gap is not None and before[words] is not None
        assert summary.gap.points == pytest.approx(before[words].points)
    # The last grading is the run's own; the others are read from their files now.
    grade_run(RunFolder(run))
    after = {name: variant.gap for name, variant in named(of(run, tmp_path / "r.html")).items()}
    assert after == before


def test_votes_and_problems_that_state_their_conditions(tmp_path: Path) -> None:
    said = {f"p{n}": both("ccw", "wwc") for n in range(10)} | {"q": both("ccc", "ccc")}
    found = named(of(write(tmp_path / "run", said, leaky={"q": True}), tmp_path / "r.html"))
    assert points(found["as graded: within 0.005 (strict)"]) == pytest.approx(30.3)
    assert points(found["majority vote of 3 samples"]) == pytest.approx(90.9)
    assert points(found["without the 1 problem whose question states a condition"]) == 33.3


def test_a_variant_is_compared_with_the_run_paired_by_problem(tmp_path: Path) -> None:
    """The gap's interval crosses 0 in a variant that moves it by one problem of thirty."""
    letters = ["cw"] * 5 + ["cn"] + ["cc"] * 24  # six lost, one of them by rounding
    said = {f"p{n}": both(text, image) for n, (text, image) in enumerate(letters)}
    found = of(write(tmp_path / "run", said), tmp_path / "r.html")
    base, near = found.variants[0], named(found)["or within 1% (relative)"]
    assert base.moved is None and near.moved == pytest.approx(-100 / 30)
    # By hand: the differences of the gap by problem, resampled with the same seed.
    change = np.array([-100.0 if pair == "cn" else 0.0 for pair in letters])
    low, high = bootstrap_interval(change, None, 10_000, SEED, 0.95, (-200, 200))
    assert (near.moved_low, near.moved_high) == (low, high)
    assert near.survives == (near.gap.ci_low > 0)
    width = near.gap.ci_high - near.gap.ci_low
    assert near.moved_high - near.moved_low < width / 1.5  # pairing cancels what both share


def test_dropping_problems_is_compared_in_the_same_resamples(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    said = {f"p{n}": both(*rng.choice([*"cw"], 2)) for n in range(40)}
    leaky = {f"p{n}": bool(n % 4 == 0) for n in range(40)}
    found = of(write(tmp_path / "run", said, leaky=leaky), tmp_path / "r.html")
    dropped = found.variants[-1]
    gaps = np.array([100.0 * ((v["full-text"] == "c") - (v["image-only"] == "c"))
                     for v in said.values()])  # fmt: skip
    keep = np.array([not leaky[name] for name in said])
    assert dropped.moved == pytest.approx(gaps[keep].mean() - gaps.mean())
    at = rng.integers(0, 40, (20_000, 40))
    moved = np.array([gaps[one][keep[one]].mean() - gaps[one].mean() for one in at])
    low, high = np.quantile(moved, [0.025, 0.975])
    assert dropped.moved_low == pytest.approx(low, abs=1.5)
    assert dropped.moved_high == pytest.approx(high, abs=1.5)


def test_a_conclusion_that_every_variant_shares_survives(tmp_path: Path) -> None:
    said = {f"p{n}": both("cc", "ww" if n % 3 else "cc") for n in range(30)}
    found = of(write(tmp_path / "run", said), tmp_path / "r.html")
    others = len(found.variants) - 1
    assert found.survives
    assert f"survives all {others} other variants: there is a gap" in found.sentence


def test_a_gap_that_is_the_same_in_every_problem_is_not_said_to_hold_0(tmp_path: Path) -> None:
    found = of(write(tmp_path / "run", {f"p{n}": both("c", "w") for n in range(12)}),
               tmp_path / "r.html")  # fmt: skip
    assert found.survives
    assert "a gap of 100.0 points in every problem, so no interval" in found.sentence


def test_what_only_a_judge_decides_bounds_the_gap(tmp_path: Path) -> None:
    """Four of ten image answers are for a judge, which calls them right."""
    run = RunFolder(tmp_path / "run")
    run.start("eval", {"views": ["text-dominant", "vision-only"], "samples": 1})
    views = ("text-dominant", "vision-only")
    run.write_problems(
        ProblemRow(id=f"p{n}", answer="a square", question="What is it?", views=views,
                   grader="mathverse:free-form")
        for n in range(10)
    )  # fmt: skip
    boxed = {"text-dominant": r"\boxed{a square}", "vision-only": r"\boxed{a rhombus, right}"}
    run.write_responses(
        Response(problem_id=f"p{n}", view=view, sample=0, prompt="", finish_reason="stop",
                 response=boxed[view] if n < 4 else r"\boxed{a square}")
        for n in range(10)
        for view in views
    )  # fmt: skip
    case = grade_by_rule(Case(boxed["vision-only"], "a square", "What is it?", "free-form"))
    assert isinstance(case, Open)
    file = VerdictFile(run)
    rows = [
        VerdictRow(judge=judge, mode="strict", question=question_id(case.prompt(), 16),
                   problem_id="p0", view="vision-only", sample=0, answer=case.answer,
                   gold=case.gold, said=said)
        for judge, said in (("kind", "1"), ("stern", "0"))
    ]  # fmt: skip
    write_text(file.path, "".join(map(line_of, rows)))
    file.remember("strict", {"judge": "kind", "tokens": 16, "check": 0, "seed": 0})
    grade_run(run)
    found = named(of(run.path, tmp_path / "r.html"))
    assert points(found["as graded: within 0.005 (strict)"]) == 0.0
    assert points(found["judge stern"]) == 40.0
    assert points(found["what only a judge can decide is wrong (4 samples)"]) == 40.0
    assert points(found["what only a judge can decide is right (4 samples)"]) == 0.0


def test_many_responses_are_not_graded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path / "run", {f"p{n}": both("c", "w") for n in range(6)})
    monkeypatch.setattr("modgap.analysis.robustness.MOST_REGRADED", dict.fromkeys(
        ("strict", "relative", "paper", "exact"), 5
    ))  # fmt: skip
    found = of(run, tmp_path / "r.html")
    assert found.not_graded == ["relative", "paper", "exact"]
    assert len(found.variants) == 1
    assert "grade the run in it first" in " ".join(section.sentences({"run": found}))


def test_the_json_of_a_report_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from modgap.cli.main import main

    run = write(tmp_path / "run", {f"p{n}": both("c", "w") for n in range(6)})
    out = str(tmp_path / "r.html")
    assert main(["report", str(run), "--out", out, "--json", "--figures"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["robustness"]["run"]["variants"][0]["kind"] == "base"
    assert (tmp_path / "r_figures" / "table-robustness.md").exists()
