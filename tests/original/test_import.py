"""The original's answer folders as runs: its figures to the digit, its verdicts file by file,
nothing lost in silence.

The last part runs the original's own `eval.py` on the same folder where `MODGAP_ORIGINAL` names a
checkout of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import png, record, write_folder

from modgap.analysis import power
from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.grading.answer import grade
from modgap.original.import_pgps9k import import_answers
from modgap.original.importing import Imported
from modgap.original.pgps9k import describe
from modgap.workflows.grade import grade_run
from modgap.workflows.power import measure, plan

FULL, IMAGE = "new_9k_m_full_cond_max4096_n4_tmp_0.6_bs16", "new_9k_m_4096_tmp_0.6"


def write_answers(folder: Path, answers: Mapping[str, str | bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, text in answers.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def gold_file(folder: Path, **golds: str) -> Path:
    records = {
        f"prob_{name.removeprefix('p')}": record(answer=gold) for name, gold in golds.items()
    }
    return write_folder(folder, test=records, diagrams={}) / "test.json"


@pytest.fixture
def gt(tmp_path: Path) -> Path:
    """Golds of problems 1 and 2."""
    return gold_file(tmp_path / "data", p1="25.000", p2="7.070")


def both_views(tmp_path: Path) -> list[Path]:
    """Two attempts each at problems 1 and 2 in both views; strictly, 3 of 4 are right from text and
    1 of 4 else.
    """
    texts = {
        "qprob_1_attempt0.txt": "\\boxed{25}",
        "qprob_1_attempt1.txt": "\\boxed{25.004}",
        "qprob_2_attempt0.txt": "\\boxed{7.1}",  # within 1%, not within 0.005
        "qprob_2_attempt1.txt": "\\boxed{7.07}",
    }
    images = {
        "qprob_1_attempt0.txt": "no box",
        "qprob_1_attempt1.txt": "\\boxed{24}",
        "qprob_2_attempt0.txt": "",
        "qprob_2_attempt1.txt": "π \\boxed{7.07°}",
    }
    return [write_answers(tmp_path / FULL, texts), write_answers(tmp_path / IMAGE, images)]


# ---- figures by hand -----------------------------------------------------------------------------


def test_two_folder_kinds_are_the_two_views_of_one_run(
    tmp_path: Path, gt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = both_views(tmp_path)
    out = tmp_path / "run"
    assert main(["import", *map(str, folders), "--gt", str(gt), "--out", str(out)]) == 0
    summary = read_summary(out)
    assert {view: (row.correct, row.n_samples) for view, row in summary.views.items()} == {
        "full-text": (3, 4),
        "image-only": (1, 4),
    }
    assert summary.gap.points == pytest.approx(50.0)
    # By hand: 10 + 14 + 11 + 12 characters; 6 + 10 + 0 + 15.
    expected = {
        "full-text": {
            "total": 4,
            "correct": 4,
            "none": 0,
            "accuracy": 1.0,
            "average_length": 11.75,
            "pass_at_1": 1.0,
        },
        "image-only": {
            "total": 4,
            "correct": 1,
            "none": 2,
            "accuracy": 0.25,
            "average_length": 7.75,
            "pass_at_1": 0.25,
        },
    }
    assert json.loads((out / "summary.json").read_text())["original"] == expected
    printed = capsys.readouterr().out
    assert (
        "Accuracy: 0.2500\nTotal   : 4\nCorrect : 1\nNone    : 2\navg len: 7.75\nPass@1  : 0.2500\n"
        in printed
    )
    assert "50.0 points" in printed and str(folders[0]) in printed

    assert main(["grade", str(out), "--mode", "paper"]) == 0
    assert json.loads((out / "summary.json").read_text())["original"] == expected
    assert "avg len: 11.75" in capsys.readouterr().out
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_records_are_those_of_the_original(tmp_path: Path, gt: Path) -> None:
    (run,) = import_answers(both_views(tmp_path), gt, tmp_path / "run")
    rows = {row.key: row for row in RunFolder(run.path).responses()}
    assert len(rows) == 8
    row = rows["prob_2", "image-only", 1]
    assert (
        row.response == "π \\boxed{7.07°}"
        and row.finish_reason == "stop"
        and row.completion_tokens == 0
    )
    assert row.prompt.startswith("Based on these conditions, answer the question: Find x.You ")
    assert rows["prob_1", "full-text", 0].prompt.startswith(
        "In this problem, B is on line AC, AB = 7, BC = x.\n"
    )
    resolved = RunFolder(run.path).manifest()["resolved"]
    assert resolved["model"] == "m" and resolved["samples"] == 2 and resolved["style"] == "paper"
    assert resolved["temperature"] == 0.6 and resolved["max_tokens"] == 4096


def test_importing_again_changes_nothing_and_other_arguments_are_refused(
    tmp_path: Path, gt: Path
) -> None:
    folders = both_views(tmp_path)
    import_answers(folders, gt, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    import_answers(folders, gt, tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    with pytest.raises(UserError, match="other arguments"):
        import_answers(folders[:1], gt, tmp_path / "run")
    (folders[1] / "qprob_2_attempt0.txt").write_text("\\boxed{7.07}")
    with pytest.raises(UserError, match="other arguments: image_only_answers was "):
        import_answers(folders, gt, tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


# ---- nothing in silence --------------------------------------------------------------------------


def test_whatever_is_odd_is_named_and_still_in_the_originals_figures(
    tmp_path: Path, gt: Path
) -> None:
    folder = write_answers(
        tmp_path / IMAGE,
        {
            "qprob_1_attempt0.txt": "\\boxed{25}",
            "qprob_1_attempt2.txt": (
                "\\boxed{25}\r\n"
            ),  # attempt 1 is missing; text mode reads one line end
            "qprob_2_attempt0.txt": b"\xff \\boxed{7.07}",
            "qprob_3_attempt0.txt": "1234",  # no such problem: only its length counts
            "qprob_2_copy.txt": "\\boxed{7}",  # eval.py grades it
            "notes.txt": "no underscore, so eval.py passes it over",
            "qprob_1_attempt99999.txt": "no box",
        },
    )
    (folder / "folder_1_x").mkdir()
    (run,) = import_answers([folder], gt, tmp_path / "run")
    assert run.strict.views["image-only"].missing_samples == 3
    figures = run.strict.original["image-only"]
    assert (figures.total, figures.correct, figures.none) == (5, 4, 1)
    assert figures.average_length == (10 + 11 + 14 + 4 + 9 + 6) / 5
    warnings = " ".join(run.strict.warnings)
    for name in (
        "prob_1_attempt1",
        "prob_2_attempt1",
        "prob_2_attempt2",
        "prob_3_attempt0",
        "prob_2_copy",
        "notes",
    ):
        assert f"{name}.txt" in warnings, name
    assert (
        "not UTF-8" in warnings
        and "qprob_2_attempt0.txt" in warnings
        and "attempt99999" in warnings
    )
    assert "Only image-only answers" in warnings
    assert warnings in " ".join(grade_run(RunFolder(run.path), "relative").warnings)


def test_a_warning_is_short_and_the_note_is_complete(tmp_path: Path, gt: Path) -> None:
    names = [f"qprob_{number}_attempt0.txt" for number in range(1, 40)]
    (run,) = import_answers(
        [write_answers(tmp_path / IMAGE, dict.fromkeys(names, "x"))], gt, tmp_path / "run"
    )
    note = json.loads((run.path / "import.json").read_text())
    named = [name for some in note["files"]["image-only"].values() for name in some]
    assert sorted(named) == sorted(names[2:])
    assert max(map(len, run.strict.warnings)) < 300


def test_attempts_that_the_other_view_lacks_are_left_out_and_named(
    tmp_path: Path, gt: Path
) -> None:
    folders = both_views(tmp_path)
    for number in (1, 2):
        (folders[0] / f"qprob_{number}_attempt2.txt").write_text("\\boxed{7.07}")
    (run,) = import_answers(folders, gt, tmp_path / "run")
    assert run.strict.gap.n_problems == 2 and run.strict.views["full-text"].n_samples == 4
    assert (
        run.strict.original["full-text"].total == 6
        and run.strict.original["full-text"].correct == 5
    )
    assert "qprob_2_attempt2.txt" in " ".join(run.strict.warnings)


def test_different_sampling_of_the_two_views_is_said(tmp_path: Path, gt: Path) -> None:
    full, image = both_views(tmp_path)
    image = image.rename(tmp_path / "new_9k_m_512_tmp_1.0")
    (run,) = import_answers([full, image], gt, tmp_path / "run")
    assert "temperature full-text 0.6, image-only 1.0" in " ".join(run.strict.warnings)


# ---- whose answers, and to which view ------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "model", "view"),
    [
        (FULL, "m", "full-text"),
        (IMAGE, "m", "image-only"),
        (
            "new_9k_qwen3b_with_text_240_kl_280_4096_tmp_0.6",
            "qwen3b_with_text_240_kl_280",
            "image-only",
        ),
        ("new_9k_yaogy/qwen_full_cond_max4096_n4_tmp_0.6_bs16", "yaogy/qwen", "full-text"),
        ("new_9k_/ckpt/step_200_4096_tmp_0.6", "/ckpt/step_200", "image-only"),
        ("m_full_cond", "m", "full-text"),
        ("new_9k_m_full_cond_again", "m", "full-text"),
        ("full_cond", "", "full-text"),
        ("m", "m", "image-only"),
        ("new_9k_m_4096_tmp_warm", "m", "image-only"),
    ],
)
def test_what_a_folders_name_says(path: str, model: str, view: str) -> None:
    folder = describe(Path("results") / path.replace("_/", "_//"))
    assert (folder.model.replace("//", "/"), folder.view) == (model, view)
    assert describe(Path(path), "text-only").view == "text-only"


def test_every_folder_below_a_root_and_a_run_for_each_model(tmp_path: Path, gt: Path) -> None:
    root = tmp_path / "results"
    for name in (FULL, IMAGE, "new_9k_org/b_4096_tmp_0.6"):
        write_answers(
            root / name, {"qprob_1_attempt0.txt": "\\boxed{25}", "qprob_2_attempt0.txt": ""}
        )
    write_answers(root / "_parallel_logs_split", {"gpu0.log": ""})
    (root / "loop").symlink_to(root)
    runs = import_answers([], gt, tmp_path / "out", results_root=root)
    assert [(run.path.relative_to(tmp_path), run.model) for run in runs] == [
        (Path("out/m"), "m"),
        (Path("out/org--b"), "org/b"),
    ]
    assert set(runs[0].strict.views) == {"full-text", "image-only"} and set(
        runs[1].strict.views
    ) == {"image-only"}
    alone = import_answers([root / FULL, root / FULL], gt, tmp_path / "alone", results_root=None)
    assert [run.path for run in alone] == [tmp_path / "alone"]
    with pytest.raises(UserError, match="give another --out"):
        import_answers([], gt, tmp_path / "alone", results_root=root)


def bad_twins(root: Path) -> dict[str, Any]:
    return {
        "folders": [
            write_answers(root / name, {"qprob_1_attempt0.txt": ""})
            for name in (IMAGE, f"{IMAGE}5")
        ]
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda root: {"folders": []}, "--results-root"),
        (lambda root: {"folders": [root / "absent"]}, "absent is no folder"),
        (lambda root: {"folders": [root / "data"]}, "holds no qprob_N_attemptJ.txt"),
        (
            lambda root: {"folders": [], "results_root": root / "data"},
            "no folder with qprob_N_attemptJ.txt below",
        ),
        (lambda root: {"folders": [], "results_root": root / "absent"}, "absent is no folder"),
        (
            lambda root: {"folders": [write_answers(root / IMAGE, {"qprob_9_attempt0.txt": ""})]},
            "same data set",
        ),
        (lambda root: {"folders": both_views(root), "view": "image-only"}, "both image-only"),
        (lambda root: {"folders": both_views(root), "view": "imageonly"}, "image-only"),
        (bad_twins, rf"{IMAGE} and .*{IMAGE}5 are both image-only answers of m.* not pooled"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    tmp_path: Path, gt: Path, arguments: Callable[[Path], dict[str, Any]], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        import_answers(**arguments(tmp_path), gt=gt, out=tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty file"),
        ("{}", "holds no problem"),
        ('{"prob_1": {"text": "Find x."}}', "prob_1: has no answer"),
        ('{"prob_1": {"answer": 25}}', "prob_1: has no answer"),
        ('{"prob_1": {"answer": "25", "text": 3}}', "PGPS9K"),
        ('{"prob_1": {"answer": "25"}, "prob_1": {"answer": "26"}}', "twice"),
    ],
)
def test_a_bad_gold_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    gt = tmp_path / "test.json"
    gt.write_text(content)
    with pytest.raises(UserError, match=words):
        import_answers(
            [write_answers(tmp_path / IMAGE, {"qprob_1_attempt0.txt": ""})], gt, tmp_path / "run"
        )


def test_a_gold_file_needs_nothing_but_answers(tmp_path: Path) -> None:
    gt = tmp_path / "gold.json"
    gt.write_text('{"prob_1": {"answer": "25.000"}}')
    (run,) = import_answers(
        [write_answers(tmp_path / IMAGE, {"qprob_1_attempt0.txt": "\\boxed{25}"})],
        gt,
        tmp_path / "r",
    )
    assert run.strict.views["image-only"].accuracy == 1.0


@pytest.mark.parametrize("absolute", [False, True])
def test_a_diagram_out_of_its_folder_is_left_out_and_named(tmp_path: Path, absolute: bool) -> None:
    """A report embeds what a run names: a gold file from elsewhere must not name any file of this
    machine.
    """
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    name = str(secret) if absolute else "../../secret.png"
    golds = {"prob_1": record(diagram=name), "prob_2": record()}
    gt = write_folder(tmp_path / "data", test=golds) / "test.json"
    assert (gt.parent / "Diagram_Visual" / name).exists()
    (run,) = import_answers(
        [write_answers(tmp_path / IMAGE, {"qprob_1_attempt0.txt": "25"})], gt, tmp_path / "run"
    )
    recorded = RunFolder(run.path).problems()
    assert recorded["prob_1"].image is None and str(recorded["prob_2"].image).endswith("img_1.png")
    assert "1 problems name a diagram out of Diagram_Visual/" in " ".join(run.strict.warnings)
    assert json.loads((run.path / "import.json").read_text())["diagrams_outside"] == ["prob_1"]


# ---- against the original ------------------------------------------------------------------------

# Box contents for a gold of 25.000, harmless to run: plain, LaTeX, units, degrees, braces, words,
# code that is but arithmetic. The original evaluates them.
FORMS = (
    "25", "25.0", "25.2", "24.76", "24.75", "24.74", "25.25", "25.26", "-25", "+25", " 25 ", "25.",
    "2.5e1", "25,000", "25%", "25°", "25 °", "25^\\circ", "25^{\\circ}", "\\text{25}",
    "25\\text{ cm}", "25 cm", "25\\,\\mathrm{cm}^2", "x = 25", "x=25", "\\angle A = 25",
    "\\frac{50}{2}", "\\dfrac{50}{2}", "\\frac{100}{4}", "50/2", "5*5", "5**2", "5 + 20",
    "(20 + 5)", "5(5)", "(5)(5)", "(5)5", "5 (5)", "\\sqrt{625}", "5\\sqrt{25}",
    "\\sqrt{25}\\sqrt{25}", "\\sqrt{25}*5", "(5)\\sqrt{25}", "5 \\times 5", "5 \\cdot 5",
    "\\boxed{25}", "{25}", "{{25}}", "$25$", "\\$25", "", "None", "none", "twenty-five", "25 or 26",
    "25 and 26", "25, 26", "(25, 26)", "[25]", "25 if 1 else 2", "\\approx 25", "24 < 25", "1 == 1",
    "25;", "25j", "\\pi", "8\\pi", "7.957747\\pi", "25 \\quad", "2 5", "25\n", "25\\%", "0.25",
    "2\\frac{1}{2}", "22\\frac{6}{2}", "2 1/2", "25/0", "1e400", "nan", "inf", "٢٥", "２５", "25′",
    "√625", "25²", "二十五", "50//2", "51%26", "-(-25)", "--25", "5*-5", "25 # x", "'25'", "x", "e",
    "abs(-25)", "int(25)", "print(25)", "math.sqrt(625)", "5*math.sqrt(25)", "\\sqrt{(625)}",
    "\\sqrt[2]{625}", "3\\sqrt{69.4}", "25.000000000001",
)  # fmt: skip
# Where the original runs what the model wrote: cause -> boxes that it takes for 25 and we do not.
CAUSES = {
    "`^` is XOR in eval": ("26^3", "5^28"),
    "hexadecimal, octal, binary, underscores": ("0x19", "0b11001", "0o31", "2_5.2"),
    "code is run": ("25 if 1 else 2", "math.sqrt(625)*1.0 if 1 else 0", "math.pi*8", "[25][0]"),
}
OUTSIDE = (
    "no box at all", "", "\\boxed{25", "\\boxed{1} \\boxed{25}", "\\boxed{25} \\boxed{1}",
    "</think>\\boxed{25}", "\\boxed{25}</think>", "\\boxed 25", "\\fbox{25}", "\\\\boxed{25}",
    "text \\boxed{\\text{a}} {", "\\boxed{}", "line\r\nend \\boxed{25}\r\n",
    "\u2028\\boxed{25}\u2029", "\ufeff\\boxed{25}", "ünïcode 🙂 \\boxed{25}", "x" * 9000,
)  # fmt: skip
GOLDS = ("25.000", "0.000", "7.070", "25", "-25.000")


def original_eval() -> Path:
    """The original's `eval.py`, below the checkout that `MODGAP_ORIGINAL` names."""
    if not (name := os.environ.get("MODGAP_ORIGINAL")):
        pytest.skip("MODGAP_ORIGINAL names no checkout of the original repository")
    return next(
        path
        for path in (Path(name) / "eval" / "pgps9k" / "eval.py", Path(name) / "eval.py")
        if path.is_file()
    )


# Runs the original's file as it is, and says its verdict on each file, too.
SPY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import eval as original
verdicts, seen = {}, []
opened, graded, close = open, original.grade_answer, original.is_close_enough
def spy_open(path, *rest):
    seen[:] = [path.rpartition("/")[2]]
    return opened(path, *rest)
def spy_graded(answer, gold):
    verdicts[seen[0]] = bool(graded(answer, gold))
    return verdicts[seen[0]]
def spy_close(answer, gold):
    verdicts[seen[0]] = bool(close(answer, gold))
    return verdicts[seen[0]]
original.open, original.grade_answer, original.is_close_enough = spy_open, spy_graded, spy_close
original.evaluate_directory(sys.argv[2], json.load(opened(sys.argv[3])))
print(json.dumps(verdicts), file=sys.stderr)
"""


def ask_the_original(tmp_path: Path, folder: Path, gt: Path) -> tuple[dict[str, bool], str]:
    """File -> verdict, and what it prints."""
    home = tmp_path / "original"
    home.mkdir(exist_ok=True)
    shutil.copy(original_eval(), home)
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", SPY, str(home), str(folder), str(gt)],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    return json.loads(done.stderr.splitlines()[-1]), done.stdout


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
    mine = plan(10, run=run, consistency=0.1)
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
    assert plan(30, text_accuracy=0.3).needed[1] > 1
    assert plan(-40, text_accuracy=0.6).needed[1] > 1
