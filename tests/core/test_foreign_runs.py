"""A folder's files belong to one run: what was lost, copied from another run or begun by two at
once is refused.
"""

from __future__ import annotations

import json
import multiprocessing
import queue
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import evaluate, spec
from folders import record, write_folder
from reported_runs import report_numbers

from modgap.analysis.results import read_summary
from modgap.core.engine import Request, Sampling
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.record import RunFolder
from modgap.core.rows import Response
from modgap.engines.scripted import ScriptedEngine
from modgap.original.import_pgps9k import import_answers
from modgap.reporting.page import build_report
from modgap.workflows.grade import grade_run

PROBLEMS = [Problem(f"p{n}", "Find x.", f"{n}.000", semantic=(f"AB = {n}",)) for n in range(3)]
VIEWS = "text-only,question-only"  # no diagram is needed


def answer(request: Request, sample: int) -> str:
    return f"\\boxed{{{request.problem_id[1:]}}}"


def ask(out: Path, problems: list[Problem] = PROBLEMS, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "views": VIEWS,
        "samples": 2,
        "identity": {"model_fingerprint": "m"},
    } | changes
    return evaluate(problems, ScriptedEngine(answer), out, **options)


def edit(run: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the responses as an older version would have written them: without marks."""
    path = run / "responses.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["run"]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != ".lock"}


# ---- a lost manifest -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eval", "import", "train", "study", "demo"])
@pytest.mark.parametrize(
    "trace",
    ["responses.jsonl", "grades.jsonl", "grades.paper.jsonl", "judge.jsonl", "train_log.jsonl",
     "rollouts.jsonl", "state.pt", "result.json", "checkpoints/step_3/config.json",
     "verl/global_step_2/data.pt"],
)  # fmt: skip
def test_no_run_begins_on_what_another_one_left(tmp_path: Path, kind: str, trace: str) -> None:
    path = tmp_path / "run" / trace
    path.parent.mkdir(parents=True)
    path.write_text("something\n")
    name = re.escape(trace.rpartition("/")[0] or trace)
    with pytest.raises(
        UserError, match=rf"lost its manifest\.json: it holds {name},.*another --out"
    ):
        RunFolder(tmp_path / "run").start(kind, {})
    assert path.read_text() == "something\n" and not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("kind", "trace"),
    [("train", "stage1/train_log.jsonl"), ("train", "stage2/state.pt"),
     ("study", "base/eval/responses.jsonl"),
     ("study", "kl/stage1/rollouts.jsonl"), ("demo", "data/train.json")],
)  # fmt: skip
def test_nor_on_its_parts_unless_they_are_links_to_another_runs(
    tmp_path: Path, kind: str, trace: str
) -> None:
    path = tmp_path / "run" / trace
    path.parent.mkdir(parents=True)
    path.write_text("something\n")
    with pytest.raises(UserError, match=rf"it holds {re.escape(trace)}"):
        RunFolder(tmp_path / "run").start(kind, {})
    part = tmp_path / "run" / trace.partition("/")[0]
    shutil.move(part, tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert RunFolder(tmp_path / "run").start(kind, {}) is False


def test_an_empty_file_and_other_files_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "responses.jsonl").touch()
    (tmp_path / "notes.txt").write_text("x")
    assert RunFolder(tmp_path).start("eval", {}) is False


def test_commands_on_a_run_that_lost_its_manifest(tmp_path: Path) -> None:
    ask(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    before = files(tmp_path / "run")
    for act in (lambda: ask(tmp_path / "run"), lambda: grade_run(RunFolder(tmp_path / "run"))):
        with pytest.raises(UserError, match=r"lost its manifest\.json: it holds responses\.jsonl"):
            act()
    assert files(tmp_path / "run") == before
    numbers = report_numbers([tmp_path / "run"])
    assert (
        "run has no manifest.json: its model, data and sampling are not known"
        in numbers.warnings[0]
    )


# ---- another run's manifest ----------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"sampling": Sampling(seed=7)},
    "temperature": {"sampling": Sampling(temperature=1.0)},
    "model": {"identity": {"model_fingerprint": "another"}},
    "style": {"style": "paper"},
    "samples": {"samples": 3},
    "views": {"views": "question-only,text-only"},
    "data": {"problems": [replace(problem, answer="9.000") for problem in PROBLEMS]},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_manifest_of_another_run_adopts_nothing(tmp_path: Path, what: str) -> None:
    ask(tmp_path / "run")
    ask(tmp_path / "other", **OTHERS[what])
    shutil.copy(tmp_path / "other" / "manifest.json", tmp_path / "run" / "manifest.json")
    before = files(tmp_path / "run")
    for act in (
        lambda: ask(tmp_path / "run", **OTHERS[what]),
        lambda: grade_run(RunFolder(tmp_path / "run")),
        lambda: build_report([tmp_path / "run"], tmp_path / "r.html"),
    ):
        with pytest.raises(
            UserError,
            match=r"of another run than the manifest\.json beside it: line 1 \(p0, text-|"
            r"problems\.jsonl is not the file that the manifest\.json beside it was written with",
        ):
            act()
    assert files(tmp_path / "run") == before


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "a problem": ({"problem_id": "p9"}, "the run has no such problem"),
    "a view": ({"view": "image-only"}, "the run's views are text-only, question-only"),
    "a sample": ({"sample": 2}, "the run has samples 0 to 1"),
    "a sample below 0": ({"sample": -1}, "the run has samples 0 to 1"),
    "a seed": ({"seed": 12345}, "its seed does not follow from the run's seed 42"),
    "the words": ({"prompt": "What is x?"}, "the run asks in other words"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_the_first_response_that_is_of_another_run_is_named(tmp_path: Path, what: str) -> None:
    change, why = FOREIGN[what]
    ask(tmp_path / "run")
    edit(tmp_path / "run", lambda rows: [row.update(change) for row in rows[4:6]])
    before = files(tmp_path / "run")
    with pytest.raises(UserError, match=rf"line 5 \(.*\): {re.escape(why)}\. Remedy"):
        ask(tmp_path / "run")
    if what != "the words":  # which only who has the data set knows
        with pytest.raises(UserError, match=r"line 5 \("):
            grade_run(RunFolder(tmp_path / "run"))
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize("seeds", ["recorded", "not recorded"])
def test_a_run_from_before_there_were_marks_goes_on(tmp_path: Path, seeds: str) -> None:
    ask(tmp_path / "run")
    straight = list(RunFolder(tmp_path / "run").responses())

    def older(rows: list[dict[str, Any]]) -> None:
        del rows[5:]
        for row in rows:
            row["seed"] = row["seed"] if seeds == "recorded" else 0

    edit(tmp_path / "run", older)
    manifest = tmp_path / "run" / "manifest.json"
    told = json.loads(manifest.read_text())
    del told["sampling"]
    manifest.write_text(json.dumps(told))
    ask(tmp_path / "run")
    rows = list(RunFolder(tmp_path / "run").responses())
    assert [(row.key, row.response) for row in rows] == [
        (row.key, row.response) for row in straight
    ]
    assert [bool(row.run) for row in rows] == [False] * 5 + [True] * 7
    grade_run(RunFolder(tmp_path / "run"), "paper")


@pytest.mark.parametrize("kind", ["train", "study", "demo", None])
def test_a_manifest_of_another_kind_of_run_has_no_responses(
    tmp_path: Path, kind: str | None
) -> None:
    ask(tmp_path / "run")
    edit(tmp_path / "run", lambda rows: None)
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(json.dumps({"kind": kind, "resolved": {}}))
    for act in (
        lambda: grade_run(RunFolder(tmp_path / "run")),
        lambda: build_report([tmp_path / "run"], tmp_path / "r"),
    ):
        with pytest.raises(UserError, match=rf"line 1 .*another kind of run, {kind!r}"):
            act()
    with pytest.raises(UserError, match=rf"kind was {kind!r}, now 'eval'"):
        ask(tmp_path / "run")


def test_an_import_does_not_replace_responses_of_another_run(tmp_path: Path) -> None:
    gold, (folder, *_) = made_answers(tmp_path, ["a"])
    import_answers([folder], gold, tmp_path / "run")
    import_answers([folder], gold, tmp_path / "run")
    ask(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "responses.jsonl", tmp_path / "run" / "responses.jsonl")
    before = files(tmp_path / "run")
    with pytest.raises(UserError, match=r"of another run .*: the run has no such problem"):
        import_answers([folder], gold, tmp_path / "run")
    assert files(tmp_path / "run") == before


def test_what_is_begun_anew_keeps_no_grades(tmp_path: Path) -> None:
    ask(tmp_path / "run")
    (tmp_path / "run" / "responses.jsonl").write_text("")
    RunFolder(tmp_path / "run").start("eval", {"samples": 9})
    assert (
        not list((tmp_path / "run").glob("grades*"))
        and not (tmp_path / "run" / "summary.json").exists()
    )


# ---- two at once ---------------------------------------------------------------------------------

IMPORTS, STUDIES = 8, 4


def made_answers(folder: Path, names: list[str]) -> tuple[Path, list[Path]]:
    data = write_folder(
        folder / "data", test={f"prob_{n}": record(answer="5.000") for n in range(40)}, diagrams={}
    )
    folders = [folder / f"new_9k_m{name}_4096_tmp_0.6" for name in names]
    for path in folders:
        path.mkdir()
        for number in range(40):
            (path / f"qprob_{number}_attempt0.txt").write_text(f"\\boxed{{5}} {path.name}")
    return data / "test.json", folders


def import_in_turns(barrier: Any, told: Any, folder: Path, gold: Path, out: Path) -> None:
    """Imports one folder into run after run, each at the same moment as another."""
    for number in range(IMPORTS):
        barrier.wait()
        try:
            import_answers([folder], gold, out / str(number))
            told.put((number, folder.name, ""))
        except UserError as error:
            told.put((number, folder.name, str(error)))


def begin_studies_in_turns(barrier: Any, told: Any, style: Any, data: Path, out: Path) -> None:
    """The same with studies, which are only begun."""
    from modgap.core.options import EvalOptions
    from modgap.workflows.study import prepare_study

    options = EvalOptions(style=style)
    for number in range(STUDIES):
        barrier.wait()
        try:
            with prepare_study(
                spec(
                    data, "tiny", ["kl"], out / str(number), benchmark="synthetic", options=options
                )
            ):
                told.put((number, style, ""))
        except UserError as error:
            told.put((number, style, str(error)))


Outcomes = dict[int, dict[str, str]]
"""Of each folder: by who tried, the error, empty for the winner."""


def raced(told: Any, rounds: int) -> Outcomes:
    """What two reported of as many rounds."""
    found: Outcomes = {}
    for _ in range(2 * rounds):
        number, who, error = told.get(timeout=120)
        found.setdefault(number, {})[who] = error
    return found


def the_one_winner(outcome: dict[str, str]) -> str:
    (winner,) = (who for who, error in outcome.items() if not error)
    (error,) = filter(None, outcome.values())
    assert re.search(
        r"another process is writing .*: wait|holds a run with other arguments: ", error
    ), error
    return winner


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_of_two_imports_at_once_one_wins_and_its_folder_is_whole(kind: str, tmp_path: Path) -> None:
    """A lock belongs to an open file, not to a process: two threads exclude each other as two
    processes do, and need no seconds to start.
    """
    gold, folders = made_answers(tmp_path, ["a", "b"])
    context = multiprocessing.get_context("spawn")
    threads = kind == "threads"
    start: Any = threading.Thread if threads else context.Process
    barrier = threading.Barrier(2) if threads else context.Barrier(2)
    told = queue.Queue() if threads else context.Queue()
    for folder in folders:
        given = (barrier, told, folder, gold, tmp_path / "imports")
        start(target=import_in_turns, args=given, daemon=True).start()
    outcomes = raced(told, IMPORTS)
    assert len(outcomes) == IMPORTS
    for number, outcome in outcomes.items():
        winner, run = the_one_winner(outcome), RunFolder(tmp_path / "imports" / str(number))
        assert run.manifest()["resolved"]["model"] == re.sub("new_9k_(.*)_4096.*", r"\1", winner)
        assert {row.response for row in run.responses()} == {f"\\boxed{{5}} {winner}"}
        assert len(run.grades()) == 40 and read_summary(run.path).views["image-only"].correct == 40


@pytest.mark.slow  # quick: `sweep` is refused where a study is held, in workflows/test_sweep.py
def test_of_two_studies_at_once_one_wins_and_the_manifest_is_its_own(tmp_path: Path) -> None:
    from modgap.datasets.synthetic import write_dataset

    write_dataset(data := tmp_path / "synthetic", 2, 2, seed=3, workers=1)
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(2), context.Queue()
    for style in ("paper", "aligned"):
        given = (barrier, told, style, data, tmp_path / "studies")
        context.Process(target=begin_studies_in_turns, args=given, daemon=True).start()
    outcomes = raced(told, STUDIES)
    assert len(outcomes) == STUDIES
    for number, outcome in outcomes.items():
        run = RunFolder(tmp_path / "studies" / str(number))
        assert run.manifest()["resolved"]["style"] == the_one_winner(outcome)


def test_several_models_and_one_do_not_share_a_folder(tmp_path: Path) -> None:
    gold, folders = made_answers(tmp_path, ["a", "b"])
    with (
        RunFolder(tmp_path / "out").lock(),
        pytest.raises(UserError, match="another process is writing"),
    ):
        import_answers(folders, gold, tmp_path / "out")
    assert len(import_answers(folders, gold, tmp_path / "out")) == 2
    import_answers(folders[:1], gold, tmp_path / "one")
    with pytest.raises(UserError, match="is a run, and 2 models need a folder of runs"):
        import_answers(folders, gold, tmp_path / "one")


def test_the_mark_is_that_of_the_arguments_alone(tmp_path: Path) -> None:
    for name, given in (("a", {"device": "cpu"}), ("b", None)):
        RunFolder(tmp_path / name).start(
            "eval", {"samples": 2, "views": ["x"]}, given, data_fingerprint="d"
        )
    RunFolder(tmp_path / "c").start("eval", {"samples": 2, "views": ["x"]}, data_fingerprint="e")
    a, b, c = (RunFolder(tmp_path / name).mark() for name in "abc")
    assert a == b != c and re.fullmatch("[0-9a-f]{16}", a)
    with RunFolder(tmp_path / "a").appending() as writer:
        writer.write(
            Response(
                problem_id="p", view="x", sample=0, prompt="", response="", finish_reason="stop"
            )
        )
    assert [row.run for row in RunFolder(tmp_path / "a").own_responses()] == [a]


def test_problems_of_another_run_change_no_grade(tmp_path: Path) -> None:
    """Their ids are the same, and their answers are not."""
    ask(tmp_path / "run")
    ask(tmp_path / "other", [replace(problem, answer="9.000") for problem in PROBLEMS])
    theirs, mine = (tmp_path / name / "problems.jsonl" for name in ("other", "run"))
    before = files(tmp_path / "run")
    shutil.copy(theirs, mine)
    for act in (
        lambda: grade_run(RunFolder(tmp_path / "run")),
        lambda: build_report([tmp_path / "run"], tmp_path / "r.html"),
    ):
        with pytest.raises(UserError, match=r"problems\.jsonl is not the file .* command .* again"):
            act()
    ask(tmp_path / "run")
    assert files(tmp_path / "run") == before


def test_a_sample_that_is_there_twice_is_kept_once(tmp_path: Path) -> None:
    ask(tmp_path / "run")
    path = RunFolder(tmp_path / "run").responses_path
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[0])
    ask(tmp_path / "run")
    assert path.read_bytes() == whole
