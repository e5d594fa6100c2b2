"""`import modgap`: what it offers, and that a notebook can do what the command line does."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from folders import record, write_folder

import modgap
from modgap.core.engine import Completion, Request, Sampling
from modgap.core.errors import UserError
from modgap.engines.scripted import ScriptedEngine

ASKED = (
    "evaluate", "train", "grade", "study", "report", "load_problems", "load_run", "grade_answer",
    "Problem", "View", "Recipe", "Settings",
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", test={f"prob_{n}": record() for n in range(3)})


def right_from_text(request: Request, sample: int) -> str:
    return (
        "<think>x</think> \\boxed{25}"
        if request.view == "full-text"
        else "<think>x</think> \\boxed{3}"
    )


def names_for_editors() -> set[str]:
    """The names that the package imports for type checkers only."""
    tree = ast.parse(Path(modgap.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_every_name_is_offered_typed_and_listed() -> None:
    assert set(ASKED) <= set(modgap.__all__) <= set(dir(modgap))
    assert names_for_editors() == set(modgap.__all__) - {"__version__"} == set(modgap._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        modgap.evalute  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("first", ["names", "modules"])
def test_every_name_is_callable_whatever_was_imported_before(first: str) -> None:
    """No module of the package hides a name of the same spelling."""
    modules = """
import importlib, pkgutil
for found in pkgutil.iter_modules(modgap.__path__, "modgap."):  # only these become its attributes
    if not found.name.endswith("__main__"):  # which runs the command line
        importlib.import_module(found.name)
"""
    names = "[getattr(modgap, name) for name in modgap.__all__]"
    check = """
absent = [n for n in modgap.__all__ if n != "__version__" and not callable(getattr(modgap, n))]
assert not absent, absent
"""
    code = f"import modgap\n{names if first == 'names' else ''}\n{modules}\n{check}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_notebook_measures_grades_and_reports(data: Path, tmp_path: Path) -> None:
    problems = modgap.load_problems(data, limit=2)
    assert [problem.id for problem in problems] == ["prob_0", "prob_1"]
    options = modgap.EvalOptions(samples=2, views="full-text,image-only")
    run = modgap.evaluate(
        problems, ScriptedEngine(right_from_text), tmp_path / "run", options=options
    )
    assert run.summary.views["full-text"].accuracy == 1.0
    assert run.summary.views["image-only"].accuracy == 0.0
    assert len(run.responses) == len(run.grades) == 8 and set(run.problems) == {"prob_0", "prob_1"}
    assert run.manifest["resolved"]["engine"] == "modgap.engines.scripted:ScriptedEngine"
    assert run.manifest["options"]["samples"] == 2 and run.manifest["options"]["seed"] == 42
    again = modgap.load_run(run.path)
    assert again.summary == run.summary
    graded = modgap.grade(again, mode="relative")
    assert graded.summary.mode == "relative" and {grade.mode for grade in graded.grades} == {
        "relative"
    }
    numbers = modgap.report(graded, out=tmp_path / "page.html")
    assert (tmp_path / "page.html").exists() and numbers


def test_an_engine_with_an_identity_of_its_own_is_told_from_others(
    data: Path, tmp_path: Path
) -> None:
    class Named(ScriptedEngine):
        identity: dict[str, Any] = {"model": "a"}  # noqa: RUF012

    problems = modgap.load_problems(data, limit=1)
    options = modgap.EvalOptions(samples=1)
    modgap.evaluate(problems, Named(right_from_text), tmp_path / "run", options=options)
    Named.identity = {"model": "b"}
    with pytest.raises(UserError, match="model was 'a', now 'b'"):
        modgap.evaluate(problems, Named(right_from_text), tmp_path / "run", options=options)


def test_an_engine_object_stays_open_and_runs_of_older_versions_resume(
    data: Path, tmp_path: Path
) -> None:
    class Closing(ScriptedEngine):
        def close(self) -> None:
            raise AssertionError("the caller closes what it opened")

    problems, options = modgap.load_problems(data, limit=1), modgap.EvalOptions(samples=1)
    run = modgap.evaluate(problems, Closing(right_from_text), tmp_path / "run", options=options)
    rows = [response.model_copy(update={"run": ""}) for response in run.responses]
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["resolved"]["engine"], manifest["options"]
    path.write_text(json.dumps(manifest))
    (run.path / "responses.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    more = modgap.EvalOptions(samples=1)
    again = modgap.evaluate(
        problems, Closing(lambda *_: "never asked"), tmp_path / "run", options=more
    )
    assert again.summary.views == run.summary.views and "engine" not in again.manifest["resolved"]
    with pytest.raises(UserError, match="an engine object answers alone"):
        modgap.evaluate(
            problems,
            Closing(right_from_text),
            tmp_path / "x",
            options=modgap.EvalOptions(replicas=2),
        )


def test_a_table_has_a_row_for_each_sample(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = modgap.evaluate(
        modgap.load_problems(data), ScriptedEngine(right_from_text), tmp_path / "run",
        options=modgap.EvalOptions(samples=1),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        run.to_pandas()
    monkeypatch.undo()
    pytest.importorskip("pandas", reason="pandas is optional")
    table = run.to_pandas()
    assert list(table.columns) == [
        "problem",
        "view",
        "sample",
        "outcome",
        "answer",
        "gold",
        "response",
        "tokens",
    ]
    assert len(table) == 6
    assert set(table[table["view"] == "full-text"]["outcome"]) == {"correct"}
    assert set(table["gold"]) == {"25.000"}


def test_what_is_no_evaluation_is_one_clear_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        modgap.load_run(data)
    (tmp_path / "study" / "base" / "eval").mkdir(parents=True)
    for path, kind in (
        (tmp_path / "study", "study"),
        (tmp_path / "study" / "base" / "eval", "eval"),
    ):
        (path / "manifest.json").write_text(json.dumps({"kind": kind}))
    with pytest.raises(
        UserError, match=r"another kind \(study\): give one of its evaluations: .*base/eval"
    ):
        modgap.load_run(tmp_path / "study")
    with pytest.raises(UserError, match="unknown mode 'strickt'"):
        modgap.grade(tmp_path, mode="strickt")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no run given"):
        modgap.report()
    with pytest.raises(UserError, match="--data is missing"):
        modgap.load_problems()


def test_the_tiny_model_is_measured_and_trained(tmp_path: Path) -> None:
    from modgap.datasets.synthetic import write_dataset

    write_dataset(tmp_path / "data", 8, 2, seed=1)
    problems = modgap.load_problems(tmp_path / "data", "synthetic")
    options = modgap.EvalOptions(samples=1, max_tokens=8)
    run = modgap.evaluate(problems, "tiny", tmp_path / "run", options=options)
    assert run.summary.samples_per_problem == 1 and len(run.responses) == 4
    train = modgap.load_problems(tmp_path / "data", "synthetic", split="train")
    settings = {
        "steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2, "mini_batch": 2,
        "max_response_tokens": 8, "overlong_buffer": 0, "max_refills": 0, "validation_problems": 0,
        "eval_every": 0, "save_every": 0,
    }  # fmt: skip
    trained = modgap.train("full-text", train, "tiny", tmp_path / "trained", settings=settings)
    assert (trained.final / "config.json").exists()
    again = modgap.evaluate(problems, trained.final, tmp_path / "after", options=options)
    assert set(again.summary.views) == set(run.summary.views)


# Engines and views from outside the package

OUTSIDE = '''
from modgap.core.engine import Completion, sample_seed
from modgap.core.view import View

class Echo:
    """Says the same to everything."""

    said = "25"

    def generate(self, requests, sampling):
        for request in requests:
            for sample in request.samples:
                seed = sample_seed(sampling.seed, request.problem_id, request.view, sample)
                yield Completion(request, sample, f"\\\\boxed{{{self.said}}}", "stop", 1, 1, seed)

class Chosen(Echo):
    """Says what its options name."""

    def __init__(self, model, temperature):
        self.said = model if temperature == 0.25 else "0"

    @classmethod
    def from_options(cls, model, options):
        return cls(model, options.temperature)

class Needy(Echo):
    def __init__(self, key):
        self.key = key

READY = Echo()
WRONG = 7

def words(problem):
    return f"Without a picture and in my words: {problem.question}"

hint = View("hint", "control", conditions=False, picture="none", words=words)
cheat = View("cheat", "text", conditions=True)
taken = View("full-text", "control", conditions=True)
'''


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OUTSIDE)
    return path


@pytest.mark.parametrize("name", ["Echo", "READY"])
def test_an_engine_in_a_file_answers(
    outside: Path, data: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from modgap.cli.main import main

    asked = [
        "eval",
        "--data",
        str(data),
        "--model",
        "any",
        "--out",
        str(tmp_path / "run"),
        "--samples",
        "1",
    ]
    assert main([*asked, "--engine", f"{outside}:{name}"]) == 0, capsys.readouterr().err
    run = modgap.load_run(tmp_path / "run")
    assert {grade.outcome for grade in run.grades} == {"correct"}
    assert run.manifest["resolved"]["engine"] == f"{outside}:{name}"
    assert run.manifest["resolved"]["model"] == "any"


def test_an_engine_is_given_the_model_and_the_options(
    outside: Path, data: Path, tmp_path: Path
) -> None:
    problems = modgap.load_problems(data, limit=1)
    options = modgap.EvalOptions(engine=f"{outside}:Chosen", samples=1, temperature=0.25)
    assert (
        modgap.evaluate(problems, "25", tmp_path / "a", options=options)
        .summary.views["full-text"]
        .accuracy
        == 1
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Needy", "cannot be made without arguments .*from_options"),
        ("WRONG", "is a int without `generate"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_is_no_engine_is_one_clear_line(
    outside: Path, data: Path, tmp_path: Path, name: str, words: str
) -> None:
    problems = modgap.load_problems(data, limit=1)
    with pytest.raises(UserError, match=words):
        modgap.evaluate(
            problems, "m", tmp_path / "a", options=modgap.EvalOptions(engine=f"{outside}:{name}")
        )
    with pytest.raises(UserError, match=r"unknown engine 'hff': choose from hf, openai, vllm"):
        modgap.evaluate(problems, "m", tmp_path / "a", options=modgap.EvalOptions(engine="hff"))
    with pytest.raises(UserError, match=r"--base-url x: only --engine openai asks a server"):
        modgap.EvalOptions(engine=f"{outside}:Echo", base_url="x").check()


def test_an_engine_may_be_an_entry_point(
    outside: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[modgap.engines]\necho = {outside.stem}:Echo\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = modgap.evaluate(
        modgap.load_problems(data, limit=1),
        "m",
        tmp_path / "run",
        options=modgap.EvalOptions(engine="echo", samples=1),
    )
    assert run.summary.views["full-text"].accuracy == 1
    sys.modules.pop(outside.stem)


def test_a_view_in_a_file_is_asked_in_its_own_words(
    outside: Path, data: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    class Looking(ScriptedEngine):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            seen.extend(request.prompt.text for request in requests if request.view == "hint")
            assert all(request.image is None for request in requests if request.view == "hint")
            return super().generate(requests, sampling)

    problems = modgap.load_problems(data, limit=1)
    options = modgap.EvalOptions(samples=1, views=f"full-text,{outside}:hint")
    engine = Looking(right_from_text)
    run = modgap.evaluate(problems, engine, tmp_path / "run", options=options)
    assert seen[0].startswith("Without a picture and in my words: Find x.\n")
    assert run.manifest["resolved"]["views"] == ["full-text", "hint"]
    assert run.summary.views["hint"].side == "control"
    resumed = modgap.evaluate(problems, engine, tmp_path / "run", options=options)
    assert len(resumed.responses) == 2 and len(seen) == 1
    modgap.report(run, out=tmp_path / "page.html")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cheat", "is on the side 'text': a view of your own must be a 'control'"),
        ("taken", "is named 'full-text': give it another name"),
        ("READY", "is a Echo: give a `modgap.View`"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_is_no_view_of_ones_own_is_one_clear_line(
    outside: Path, name: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        modgap.EvalOptions(views=f"{outside}:{name}").check()
