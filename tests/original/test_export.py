"""Runs written back as the original's files: read again they are the same, and the original's own
scripts say of them what we do.

Those scripts run where `MODGAP_ORIGINAL` names a checkout of either public original.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from answer_folders import both_views
from asking import evaluate
from folders import png
from mathverse_data import rows as mathverse_rows
from mathverse_data import write_parquet
from mathverse_rows import with_images
from original_scripts import FORMS, ask_the_original, original_eval

from modgap.cli.main import main
from modgap.core.engine import Completion, Request, Sampling
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.record import RunFolder
from modgap.original.export import export_runs
from modgap.original.import_mathverse import import_generations
from modgap.original.import_pgps9k import import_answers
from modgap.original.mathverse import generation_files
from modgap.workflows.grade import grade_run
from modgap.workflows.problems import read_problems

ODD = (
    "",
    "no box",
    "\\boxed{25}\r\n",
    "ünïcode 🙂 \\boxed{25}",
    "\\boxed{25\r",
    "\u2028\\boxed{24.9}",
)
SAID = [f"<think>so</think> \\boxed{{{form}}}" for form in FORMS[:40]] + list(ODD)


class Says:
    """Answers sample n of every prompt with text n; the last sample of prob_2 fails."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            for sample in request.samples:
                failed = request.problem_id == "prob_2" and sample == len(self._texts) - 1
                text = "" if failed else request.prompt.prefill + self._texts[sample]
                yield Completion(
                    request=request, sample=sample, text=text,
                    finish_reason="error" if failed else "stop", prompt_tokens=1,
                    completion_tokens=1, seed=0, error="no memory" if failed else None,
                )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Answers of every kind to three problems, with a control view and a failed sample."""
    problems = [
        Problem(f"prob_{n}", f"Find x{n}.", gold, png(), semantic=("AB = 7",))
        for n, gold in enumerate(("25.000", "7.070", "0.000"), start=1)
    ]
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "mine")
    views = "full-text,image-only,text-only"
    sampling = Sampling(temperature=0.6, max_tokens=4096, seed=42)
    evaluate(problems, Says(SAID), folder.path, views=views, samples=len(SAID), sampling=sampling)
    return folder


def texts(run: RunFolder) -> dict[tuple[str, str, int], str]:
    """What the original reads from a file of each response."""
    return {
        row.key: row.response.replace("\r\n", "\n").replace("\r", "\n")
        for row in run.responses()
        if row.finish_reason != "error" and row.view != "text-only"
    }


def verdicts(run: RunFolder) -> dict[tuple[str, str, int], str]:
    grade_run(run, "paper")
    return {row.key: row.outcome for row in run.grades("paper") if row.key in texts(run)}


def test_an_export_that_is_imported_again_has_the_same_responses_and_verdicts(
    run: RunFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    exported = export_runs([run.path], out)
    folders = [out / f"new_9k_mine_full_cond_max4096_n{len(SAID)}_tmp_0.6",
               out / "new_9k_mine_4096_tmp_0.6"]  # fmt: skip
    assert sorted(path for path in out.iterdir() if path.is_dir()) == sorted(folders)
    (back,) = import_answers(folders, out / "gold.json", tmp_path / "back")
    again = RunFolder(back.path)
    assert back.model == "mine"
    assert texts(again) == texts(run)
    assert verdicts(again) == verdicts(run)
    resolved = again.manifest()["resolved"]
    assert (resolved["temperature"], resolved["max_tokens"]) == (0.6, 4096)
    assert [note for note in exported.notes if "text-only" in note or "2 samples" in note] == (
        exported.notes
    )
    assert len(exported.notes) == 2, "the control view and the failed samples are named"


def test_an_import_is_written_back_as_it_was(tmp_path: Path, gt: Path) -> None:
    given = both_views(tmp_path)
    (imported,) = import_answers(given, gt, tmp_path / "run")
    export_runs([imported.path], tmp_path / "out")
    for folder in given:
        written = tmp_path / "out" / folder.name.removesuffix("_bs16").replace("_n4_", "_n2_")
        assert {path.name: path.read_bytes() for path in written.iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }


def test_the_original_says_of_an_export_what_we_do(run: RunFolder, tmp_path: Path) -> None:
    original_eval()
    out = tmp_path / "out"
    export_runs([run.path], out)
    ours = verdicts(run)
    for folder in (path for path in out.iterdir() if path.is_dir()):
        view = "full-text" if "full_cond" in folder.name else "image-only"
        theirs, _ = ask_the_original(tmp_path, folder, out / "gold.json")
        mine = {
            f"q{problem}_attempt{sample}.txt": outcome == "correct"
            for (problem, of, sample), outcome in ours.items()
            if of == view
        }
        assert theirs == mine
        assert 0.1 < sum(mine.values()) / len(mine) < 0.9


def test_the_text_summary_is_what_the_original_writes(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_runs([run.path], out)
    subprocess.run(
        [sys.executable, "-X", "utf8", str(original_eval()), "--scan-all-results", "--answer-dir",
         "x", "--results-root", str(out), "--gt-file", str(out / "gold.json"), "--scan-output",
         str(tmp_path / "theirs.txt")],
        check=True, capture_output=True,
    )  # fmt: skip
    assert (out / "summary.txt").read_bytes() == (tmp_path / "theirs.txt").read_bytes()


def test_an_import_writes_the_originals_summary_of_every_folder(
    tmp_path: Path, gt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in both_views(tmp_path / "results"):
        (folder / "qprob_9_attempt0.txt").write_text("a file that only the original counts")
    scan = tmp_path / "ours.txt"
    command = ["import", "--gt", str(gt), "--results-root", str(tmp_path / "results"), "--out",
               str(tmp_path / "run"), "--scan-output", str(scan)]  # fmt: skip
    assert main(command) == 0
    assert str(scan) in capsys.readouterr().out
    words = scan.read_text().splitlines()
    assert [line for line in words if line.startswith("Directory")] == [
        "Directory: new_9k_m_4096_tmp_0.6",
        "Directory: new_9k_m_full_cond_max4096_n4_tmp_0.6_bs16",
    ]
    assert words[1:5] == ["=== Overall ===", "Accuracy: 0.2500", "Total   : 4", "Correct : 1"]
    subprocess.run(
        [sys.executable, "-X", "utf8", str(original_eval()), "--scan-all-results", "--answer-dir",
         "x", "--results-root", str(tmp_path / "results"), "--gt-file", str(gt), "--scan-output",
         str(tmp_path / "theirs.txt")],
        check=True, capture_output=True,
    )  # fmt: skip
    assert scan.read_bytes() == (tmp_path / "theirs.txt").read_bytes()


# ---- MathVerse -----------------------------------------------------------------------------------


def mathverse_run(tmp_path: Path, style: str, views: str | None = None) -> RunFolder:
    """A run with right and wrong letters and numbers, no box, nothing."""
    data = write_parquet(tmp_path / "m.parquet", with_images(mathverse_rows(6)))
    said = (
        "reason</think> \\boxed{A}",
        "</think>\\boxed{B}",
        "no box </think> 12",
        "\\boxed{40.1}",
    )
    run = RunFolder(tmp_path / "runs" / "7b")
    more: dict[str, Any] = {"views": views} if views else {"views": "text-dominant,vision-only"}
    evaluate(read_problems("mathverse", data), Says(said), run.path, samples=4, style=style, **more)
    return run


@pytest.mark.parametrize("style", ["paper", "paper-author", "aligned"])
def test_generations_that_are_imported_again_are_the_same(tmp_path: Path, style: str) -> None:
    run = mathverse_run(tmp_path, style)
    grade_run(run, "paper")
    out = tmp_path / "out"
    export_runs([run.path], out)
    path = out / "7b_full_tries_4_generations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(lines[0]) == [
        "problem_index", "problem_version", "question", "question_type", "answer", "prediction",
        "sample_id",
    ]  # fmt: skip
    assert not any(line["prediction"].startswith("<think>") for line in lines), "as vLLM gave it"
    (back,) = import_generations(generation_files([out]), tmp_path / "back")
    again = RunFolder(back.path)
    said = {row.key: row.response.removeprefix(row.prefill) for row in run.responses()}
    assert {row.key: row.response for row in again.responses()} == said
    outcomes = {row.key: row.outcome for row in run.grades("paper")}
    decided = {
        row.key: row.outcome for row in again.grades("paper") if outcomes[row.key] != "error"
    }
    assert decided == {key: outcome for key, outcome in outcomes.items() if outcome != "error"}
    scored = [
        json.loads(line)
        for line in path.with_name("7b_full_tries_4_generations_scored_qwen.jsonl")
        .read_text()
        .splitlines()
    ]
    assert [line["correct"] for line in scored].count(1) == list(outcomes.values()).count("correct")


@pytest.mark.parametrize(
    ("views", "kind"),
    [
        ("text-dominant,text-lite", "text"),
        ("vision-intensive,vision-dominant,vision-only", "vision"),
        ("text-lite,vision-only", "full"),
    ],
)
def test_the_file_is_named_by_its_versions(tmp_path: Path, views: str, kind: str) -> None:
    run = mathverse_run(tmp_path, "paper", views)
    exported = export_runs([run.path], tmp_path / "out")
    assert list(exported.files) == [f"7b_{kind}_tries_4_generations.jsonl"]
    assert any("not graded in mode paper" in note for note in exported.notes)


def test_the_original_sums_up_an_export_as_we_do(tmp_path: Path) -> None:
    script = original_eval().parent.parent / "mathverse" / "eval-results.py"
    run = mathverse_run(tmp_path, "paper")
    grade_run(run, "paper")
    out = tmp_path / "out"
    exported = export_runs([run.path], out)
    scored = out / "7b_full_tries_4_generations_scored_qwen.jsonl"
    printed = subprocess.run(
        [sys.executable, str(script), "--full", str(scored)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed.partition("\n")[2] == "\n".join(exported.summaries[scored.name]) + "\n"
    assert "\n".join(exported.summaries[scored.name]) in (out / "summary.txt").read_text()


# ---- several runs, and what is refused -----------------------------------------------------------


def write_small(path: Path, ids: Mapping[str, str], said: str = "\\boxed{25}") -> RunFolder:
    problems = [Problem(name, "Find x.", gold, png()) for name, gold in ids.items()]
    run = RunFolder(path)
    evaluate(problems, Says([said]), run.path, samples=1)
    return run


def test_a_study_is_exported_with_every_recipe(tmp_path: Path) -> None:
    study = tmp_path / "study"
    RunFolder(study).start("study", {"model": "m"})
    for name in ("base", "kl"):
        write_small(study / name / "eval", {"prob_1": "25.000"})
    exported = export_runs([study], tmp_path / "out")
    folders = sorted({path.partition("/")[0] for path in exported.files})
    assert [name.split("_")[2] for name in folders] == ["base", "base", "kl", "kl"]


def test_the_same_export_again_finishes_it_and_another_one_is_not_mixed_in(tmp_path: Path) -> None:
    run, out = write_small(tmp_path / "a" / "mine", {"prob_1": "25.000"}), tmp_path / "out"
    first = export_runs([run.path], out)
    gone = out / next(iter(first.files))
    gone.unlink()
    export_runs([run.path], out)
    assert gone.is_file()
    more = write_small(tmp_path / "b" / "mine", {"prob_3": "25.000"})
    with pytest.raises(UserError, match=r"qprob_1_attempt0\.txt is not of this export"):
        export_runs([more.path], out)


def no_run(tmp_path: Path) -> list[Path]:
    (tmp_path / "x").mkdir()
    return [tmp_path / "x"]


def odd_ids(tmp_path: Path) -> list[Path]:
    return [write_small(tmp_path / "r", {"my_problem": "25.000"}).path]


def other_data(tmp_path: Path) -> list[Path]:
    return [
        write_small(tmp_path / "a", {"prob_1": "25.000"}).path,
        write_small(tmp_path / "b", {"prob_1": "26.000"}).path,
    ]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (no_run, "is not a run"),
        (odd_ids, "the problem 'my_problem' has no place in the original's files"),
        (other_data, "prob_1 is another problem here than in the runs before it"),
    ],
)
def test_what_the_original_has_no_files_for_is_refused(
    tmp_path: Path,
    runs: Callable[[Path], list[Path]],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(path) for path in runs(tmp_path)]
    capsys.readouterr()
    assert main(["export", *given, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_run_folder_is_not_written_into(tmp_path: Path) -> None:
    run = write_small(tmp_path / "r", {"prob_1": "25.000"})
    with pytest.raises(UserError, match="is a run or a file"):
        export_runs([run.path], run.path)
    with pytest.raises(UserError, match="there are 2 models"):
        other = write_small(tmp_path / "s", {"prob_1": "25.000"})
        export_runs([run.path, other.path], tmp_path / "out", "name")


def test_the_command_says_how_to_run_the_originals_scripts(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.path), "--out", str(tmp_path / "o"), "--name", "qwen/7b"]) == 0
    said = capsys.readouterr().out
    assert f"python eval.py --scan-all-results --results-root {tmp_path / 'o'}" in said
    assert (tmp_path / "o" / "new_9k_qwen--7b_4096_tmp_0.6").is_dir()


def test_what_another_export_or_somebody_wrote_is_not_replaced(
    run: RunFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_runs([run.path], out)
    export_runs([run.path], out)  # the same again
    for name in ("gold.json", "summary.txt"):
        before = (out / name).read_bytes()
        (out / name).write_text("mine")
        with pytest.raises(UserError, match=f"{name} is there and is not of this export"):
            export_runs([run.path], out)
        assert (out / name).read_text() == "mine"
        (out / name).write_bytes(before)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    answer = next(path for path in out.rglob("*_attempt0.txt"))
    answer.unlink()
    answer.symlink_to(victim)
    with pytest.raises(UserError, match="is not of this export"):
        export_runs([run.path], out)
    assert victim.read_text() == "mine"


def test_a_run_that_is_not_finished_is_named(run: RunFolder, tmp_path: Path) -> None:
    lines = run.responses_path.read_bytes().split(b"\n")
    shown = [line for line in lines if b'"full-text"' in line]
    run.responses_path.write_bytes(b"\n".join(line for line in lines if line != shown[-1]))
    notes = export_runs([run.path], tmp_path / "out").notes
    assert any("full-text has " in note and "over these alone" in note for note in notes)
