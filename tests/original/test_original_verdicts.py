"""Imported runs have the original's verdicts and figures, and plan as pilots.

The original's own `eval.py` runs on the same folder where `MODGAP_ORIGINAL` names a checkout of
it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from answer_folders import FULL, IMAGE, both_views, gold_file, write_answers
from original_scripts import CAUSES, FORMS, GOLDS, OUTSIDE, ask_the_original, original_eval

from modgap.analysis import power
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.grading.answer import grade
from modgap.original.import_pgps9k import import_answers
from modgap.original.importing import Imported
from modgap.workflows.power import Assumptions, measure, plan

# ---- against the original ------------------------------------------------------------------------


def our_verdicts(run: Imported) -> dict[str, bool]:
    return {
        f"q{row.problem_id}_attempt{row.sample}.txt": row.outcome == "correct"
        for row in RunFolder(run.path).grades("paper")
    }


def test_verdicts_and_figures_equal_the_originals_file_by_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original_eval()
    responses = [
        f"<think>so</think> \\boxed{{{form}}}"
        for form in FORMS
        if form not in CAUSES["code is run"]
    ]
    responses += OUTSIDE
    golds = {f"p{number}": gold for number, gold in enumerate(GOLDS, start=1)}
    gt = gold_file(tmp_path / "data", **golds)
    answers = {
        f"qprob_{problem.removeprefix('p')}_attempt{attempt}.txt": text
        for problem in golds
        for attempt, text in enumerate(responses)
    }
    answers |= {
        "qprob_99_attempt0.txt": "no such problem",
        "notes.txt": "x",
        "qprob_1_again.txt": "\\boxed{25}",
    }
    folder = write_answers(tmp_path / IMAGE, answers)
    theirs, printed = ask_the_original(tmp_path, folder, gt)
    (run,) = import_answers([folder], gt, tmp_path / "run")
    ours = our_verdicts(run)
    del theirs["qprob_1_again.txt"]  # no response of the run, but in the figures
    assert (
        theirs.keys() == ours.keys()
        and len(ours) > 500
        and 0.1 < sum(ours.values()) / len(ours) < 0.5
    )
    assert {name: answers[name] for name in ours if ours[name] != theirs[name]} == {}
    capsys.readouterr()
    assert main(["grade", str(run.path), "--mode", "paper"]) == 0
    figures = printed.partition("===\n")[2].strip()
    assert figures.startswith("Accuracy: 0.") and figures in capsys.readouterr().out


def test_known_differences_have_the_documented_causes(tmp_path: Path) -> None:
    original_eval()
    boxes = [box for boxes in CAUSES.values() for box in boxes]
    names = {
        f"qprob_1_attempt{attempt}.txt": f"\\boxed{{{box}}}" for attempt, box in enumerate(boxes)
    }
    gt = gold_file(tmp_path / "data", p1="25.000")
    folder = write_answers(tmp_path / IMAGE, names)
    theirs, _ = ask_the_original(tmp_path, folder, gt)
    (run,) = import_answers([folder], gt, tmp_path / "run")
    ours = our_verdicts(run)
    assert [names[name] for name in names if not theirs[name] or ours[name]] == []


@pytest.mark.parametrize("gold", ["7.070", "25.000", "0.000"])
def test_a_number_that_no_float_holds_is_wrong(gold: str) -> None:
    assert grade("\\boxed{1e400}", gold, "paper").outcome == "wrong"


# ---- planning ------------------------------------------------------------------------------------


def pilot(tmp_path: Path, problems: int, samples: int, seed: int) -> tuple[Path, np.ndarray]:
    """An imported run of two views whose chances vary as `analysis.power` assumes, with
    correlation.
    """
    rng = np.random.default_rng(seed)
    shared, own = rng.random(problems), rng.random((2, problems))
    chance_VP = 0.6 * shared + 0.4 * own - np.array([[0.0], [0.15]])
    right_VPS = rng.random((2, problems, samples)) < np.clip(chance_VP, 0, 1)[:, :, None]
    gt = gold_file(tmp_path / "data", **{f"p{number}": "25.000" for number in range(problems)})
    folders = [
        write_answers(
            tmp_path / name,
            {
                f"qprob_{p}_attempt{s}.txt": "\\boxed{25}" if right_VPS[v, p, s] else ""
                for p in range(problems)
                for s in range(samples)
            },
        )
        for v, name in enumerate((FULL, IMAGE))
    ]
    import_answers(folders, gt, tmp_path / "run")
    return tmp_path / "run", right_VPS


def test_a_pilot_run_gives_the_assumptions_that_describe_it(tmp_path: Path) -> None:
    run, right_VPS = pilot(tmp_path, problems=120, samples=4, seed=3)
    measured = measure(run)
    rates_VP = right_VPS.mean(axis=2)
    assert measured["text_accuracy"] == pytest.approx(rates_VP[0].mean())
    assert 0 < measured["consistency"] < 1 and 0 < measured["correlation"] <= 1
    points = 100 * float(rates_VP[0].mean() - rates_VP[1].mean())
    expected = 100 * float(np.std(rates_VP[0] - rates_VP[1], ddof=1))
    assert power.difference_sd(points, 4, **measured) == pytest.approx(expected, rel=0.02)
    mine = plan(10, Assumptions(consistency=0.1), run=run)
    assert (
        mine.assumptions == measured | {"consistency": 0.1}
        and mine.sources["consistency"] == "given"
    )
    assert mine.sources["correlation"] == str(run)


def test_a_run_of_one_view_cannot_say(tmp_path: Path, gt: Path) -> None:
    (run,) = import_answers(both_views(tmp_path)[:1], gt, tmp_path / "run")
    with pytest.raises(UserError, match="one text-centric and one vision-centric view"):
        measure(run.path)


def test_power_prints_a_table_that_agrees_with_planning(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["power", "--gap", "5", "--problems", "400", "--samples", "16", "--alpha", "0.01"])
        == 0
    )
    rows = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()
    ]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16"]
    for row in rows:
        needed = power.problems_needed(5, int(row[0]), 0.8, 0.99)
        assert row[1:3] == [f"{needed:,}", f"{2 * int(row[0]) * needed:,}"]
        assert row[3] == f"{100 * power.power(5, 400, int(row[0]), 0.99):.1f}%"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--gap 0", "--gap 0: no number of problems can show a gap of 0"),
        ("--gap 500", "--gap 500: give percentage points between 0 and 100"),
        ("--gap nan", "--gap nan: give percentage points"),
        (
            "--gap 70",
            (
                "--gap 70: with a text accuracy of 60% (guess) the image accuracy would be -10%,"
                " below 0"
            ),
        ),
        ("--gap -50 --text-accuracy 0.7", "(given) the image accuracy would be 120%, above 100%"),
        (
            "--gap 5 --text-accuracy 60",
            "--text-accuracy 60: give a number from 0 to 1; did you mean 0.6?",
        ),
        ("--gap 5 --power 1.5", "--power 1.5: give a share between 0 and 1, such as 0.8."),
        ("--gap 5 --power 80", "--power 80: give a share between 0 and 1; did you mean 0.8?"),
        ("--gap 5 --power 1", "--power 1: "),
        ("--gap 5 --alpha 0", "--alpha 0: give a share between 0 and 1, such as 0.05."),
        ("--gap 5 --problems 0", "--problems 0: give at least 1."),
        ("--gap 5 --samples 0", "--samples 0: give at least 1."),
        (
            "--gap 5 --consistency 2",
            "--consistency 2: give a number from 0 to 1; did you mean 0.02?",
        ),
        ("--gap 5 --correlation -1.5", "--correlation -1.5: give a number from -1 to 1."),
        ("--gap 5 --run /nowhere", "/nowhere"),
    ],
)
def test_power_names_the_option_that_it_cannot_plan_with(
    options: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["power", *options.split()]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_power_plans_for_a_gap_that_is_all_of_the_text_accuracy() -> None:
    assert plan(30, Assumptions(text_accuracy=0.3)).needed[1] > 1
    assert plan(-40, Assumptions(text_accuracy=0.6)).needed[1] > 1
