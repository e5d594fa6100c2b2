"""The original's answer folders as runs: what is read, and what is odd is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answer_folders import FULL, IMAGE, both_views, write_answers
from folders import png, record, write_folder

from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.original.import_pgps9k import import_answers
from modgap.original.pgps9k import describe
from modgap.workflows.grade import grade_run

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


def test_the_options_in_force_are_recorded(tmp_path: Path, gt: Path) -> None:
    folders = both_views(tmp_path)
    (run,) = import_answers(folders, gt, tmp_path / "run")
    assert RunFolder(run.path).manifest()["options"] == {
        "folders": [str(folder) for folder in folders], "gt": str(gt), "out": str(run.path),
        "view": None, "results_root": None, "views": ["full-text", "image-only"],
    }  # fmt: skip


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
        (lambda root: {"folders": [root / "absent"]}, "absent is not a folder"),
        (lambda root: {"folders": [root / "data"]}, "holds no qprob_N_attemptJ.txt"),
        (
            lambda root: {"folders": [], "results_root": root / "data"},
            "no folder with qprob_N_attemptJ.txt below",
        ),
        (lambda root: {"folders": [], "results_root": root / "absent"}, "absent is not a folder"),
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
    assert "1 problem with a diagram out of Diagram_Visual/" in " ".join(run.strict.warnings)
    assert json.loads((run.path / "import.json").read_text())["diagrams_outside"] == ["prob_1"]
