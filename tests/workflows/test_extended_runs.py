"""A finished run is extended by its own command with more of it, and cut to a part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asking import evaluate, spec
from PIL import Image

from modgap.cli.main import main
from modgap.core.engine import Request
from modgap.core.errors import UsageError, UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.record import RunFolder
from modgap.engines.scripted import ScriptedEngine
from modgap.reporting.page import build_report
from modgap.workflows.cut import cut
from modgap.workflows.evaluate import as_in
from modgap.workflows.evaluate import evaluate as evaluate_by_options
from modgap.workflows.grade import grade_run
from modgap.workflows.study import Study, StudySets

TWO, THREE = ["full-text", "image-only"], ["full-text", "image-only", "text-only"]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    folder = tmp_path_factory.mktemp("images")
    made: list[Problem] = []
    for n in range(6):
        Image.new("RGB", (30 + n, 20), "black").save(folder / f"{n}.png")
        made.append(Problem(f"p{n}", "Find x.", f"{n}.000", folder / f"{n}.png",
                            semantic=(f"AB = {n}",)))  # fmt: skip
    return made


class Asked:
    """What an engine was asked, with its answers."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, str, int]] = []
        self.engine = ScriptedEngine(self.answer)

    def answer(self, request: Request, sample: int) -> str:
        self.keys.append((request.problem_id, request.view, sample))
        right = request.view != "image-only" or (int(request.problem_id[1:]) + sample) % 3 == 0
        return f"\\boxed{{{request.problem_id[1:] if right else 99}}}"


def ask(problems: list[Problem], out: Path, **plan: Any) -> tuple[Any, list[Any]]:
    asked = Asked()
    plan = {"views": TWO, "samples": 2, "identity": {"model_fingerprint": "m"}} | plan
    return evaluate(problems, asked.engine, out, **plan), asked.keys


def keys_of(out: Path) -> list[tuple[str, str, int]]:
    return [row.key for row in RunFolder(out).responses()]


MORE: list[dict[str, Any]] = [
    {"views": THREE}, {"samples": 5}, {"count": 6}, {"views": THREE, "samples": 3, "count": 5},
    {"views": ["text-only", "image-only", "full-text"]},
]  # fmt: skip


@pytest.mark.parametrize("more", MORE)
def test_more_is_made_once_and_the_run_is_the_one_made_at_once(
    problems: list[Problem], tmp_path: Path, more: dict[str, Any]
) -> None:
    count, plan = more.get("count", 4), {k: v for k, v in more.items() if k != "count"}
    _, first = ask(problems[:4], tmp_path / "run")
    extended, second = ask(problems[:count], tmp_path / "run", **plan)
    at_once, all_keys = ask(problems[:count], tmp_path / "at-once", **plan)
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(all_keys) == sorted(keys_of(tmp_path / "run"))
    assert extended == at_once
    texts = [{row.key: (row.seed, row.prompt) for row in RunFolder(tmp_path / name).responses()}
             for name in ("run", "at-once")]  # fmt: skip
    assert texts[0] == texts[1]
    again, third = ask(problems[:count], tmp_path / "run", **plan)
    assert not third and again == extended
    grade_run(RunFolder(tmp_path / "run"))  # every response belongs to the run
    sampling = [
        RunFolder(tmp_path / name).manifest().get("sampling") for name in ("run", "at-once")
    ]
    assert sampling[0] == sampling[1]


def test_the_manifest_keeps_what_the_run_was(problems: list[Problem], tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    ask(problems[:3], run.path, given={"limit": 3})
    begun = run.manifest()
    assert "history" not in begun
    ask(problems[:4], run.path, given={"limit": 4})
    ask(problems[:4], run.path, views=THREE, given={"views": "three"})
    now = run.manifest()
    history = now.get("history", [])
    assert [part["given"] for part in history] == [{"limit": 3}, {"limit": 4}]
    assert history[0]["resolved"] == begun["resolved"] and "until" in history[0]
    assert history[0]["fingerprints"] == begun["fingerprints"]
    assert now["created"] == begun["created"]
    assert now["resolved"]["views"] == THREE and now["resolved"]["problems"] == 4


def test_a_command_without_views_takes_those_that_the_run_has(
    problems: list[Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, run = Asked(), tmp_path / "run"

    def bare(out: Path = run, **options: Any) -> Any:
        asked.keys.clear()
        capsys.readouterr()
        given = EvalOptions(samples=1, **options)
        return evaluate_by_options(problems[:3], asked.engine, out, options=given).summary

    bare()
    extended = bare(views=",".join(THREE))
    assert bare() == extended and not asked.keys, "all that it asks for is there"
    assert f"more views than the default ones: {','.join(THREE)}" in capsys.readouterr().err
    assert len(RunFolder(run).manifest().get("history", [])) == 1
    with pytest.raises(UserError, match=r"views was .*modgap cut"):
        bare(views=",".join(TWO))
    bare(tmp_path / "other", views="text-only")
    with pytest.raises(UserError, match=r"views was \['text-only'\], now \['full-text'"):
        bare(tmp_path / "other")


def test_a_new_recipe_of_a_study_is_asked_the_views_of_the_extended_base(
    problems: list[Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def views(name: str, **options: Any) -> str | None:
        asked = spec(tmp_path, "tiny", ["kl", "mix"], tmp_path, options=EvalOptions(**options))
        sets = StudySets([], problems, {}, [])
        return Study(asked, tmp_path, tmp_path, {}, sets, {}, None).options_for(name).views

    base = tmp_path / "base" / "eval"
    ask(problems[:2], base)
    ask(problems[:2], tmp_path / "mix" / "eval")
    assert views("kl") is None, "the default ones"
    ask(problems[:2], base, views=THREE)
    assert views("kl") == ",".join(THREE)
    assert f"the views are those of {base}: {','.join(THREE)}" in capsys.readouterr().err
    assert views("mix") is None, "measured already: it keeps its own"
    assert views("kl", views="text-only") == "text-only" and not views("kl", controls="causal")
    ask(problems[:2], tmp_path / "other" / "base" / "eval", views=["text-only"])
    assert as_in(tmp_path / "other" / "base" / "eval", EvalOptions(), ",".join(TWO)).views is None


def test_an_interrupted_extension_goes_on(problems: list[Problem], tmp_path: Path) -> None:
    ask(problems[:3], tmp_path / "run")
    asked = Asked()

    def stop(request: Request, sample: int) -> str:
        if len(asked.keys) == 3:
            raise KeyboardInterrupt
        return asked.answer(request, sample)

    plan = {"views": TWO, "samples": 4, "identity": {"model_fingerprint": "m"}}
    with pytest.raises(KeyboardInterrupt):
        evaluate(problems[:3], ScriptedEngine(stop), tmp_path / "run", **plan)
    _, rest = ask(problems[:3], tmp_path / "run", samples=4)
    assert not set(asked.keys) & set(rest) and len(asked.keys + rest) == 3 * 2 * 2
    assert len(RunFolder(tmp_path / "run").manifest().get("history", [])) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 1}, "samples was 2, now 1.*modgap cut"),
        ({"views": ["full-text", "text-only"]}, "views was"),
        (
            {"samples": 4, "style": "paper"},
            "style was 'aligned', now 'paper'. Give .* or another --out: only --views, --samples",
        ),
        (
            {"views": THREE, "identity": {"model_fingerprint": "other"}},
            "weights have changed \(--model\)",
        ),
        ({"count": 2}, r"problems was 3, now 2 \(--limit, --data\)\. Give"),
    ],
)
def test_any_other_difference_is_refused_and_nothing_changes(
    problems: list[Problem], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    ask(problems[:3], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}
    plan = {k: v for k, v in change.items() if k != "count"}
    with pytest.raises(UserError, match=words):
        ask(problems[: change.get("count", 3)], tmp_path / "run", **plan)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}


def test_problems_that_changed_or_views_that_depend_on_others_are_not_extended(
    problems: list[Problem], tmp_path: Path
) -> None:
    ask(problems[:3], tmp_path / "run")
    other = Problem("p1", "Find y.", "1.000", problems[1].image, semantic=("AB = 1",))
    with pytest.raises(UserError, match=r"cannot be extended: the data set has changed.*p1"):
        ask([problems[0], other, *problems[2:]], tmp_path / "run")
    ask(problems[:3], tmp_path / "swapped", views=["swapped-image"])
    with pytest.raises(UserError, match="'swapped-image' shows the diagram of the next problem"):
        ask(problems, tmp_path / "swapped", views=["swapped-image"])
    _, more = ask(problems[:3], tmp_path / "swapped", views=["swapped-image"], samples=3)
    assert len(more) == 3


@pytest.mark.parametrize(
    "part",
    [{"views": "image-only,full-text"}, {"samples": 2}, {"limit": 3}, {"limit": 3, "samples": 1}],
)
def test_a_part_is_the_run_that_was_asked_for_that_much(
    problems: list[Problem], tmp_path: Path, part: dict[str, Any]
) -> None:
    ask(problems, tmp_path / "whole", views=THREE, samples=3)
    made = cut(tmp_path / "whole", tmp_path / "part", **part)
    plan: dict[str, Any] = {"views": TWO if "views" in part else THREE,
                            "samples": part.get("samples", 3)}  # fmt: skip
    count = part.get("limit", 6)
    alone, keys = ask(problems[:count], tmp_path / "alone", **plan)
    assert made.summary.model_copy(update={"sampling": None}) == alone.model_copy(
        update={"sampling": None}
    )
    assert sorted(keys_of(tmp_path / "part")) == sorted(keys)
    assert RunFolder(tmp_path / "part").manifest()["cut_from"]["resolved"]["problems"] == 6  # pyright: ignore[reportTypedDictNotRequiredAccess, reportGeneralTypeIssues]
    numbers = build_report([tmp_path / "part"], tmp_path / "report.html")
    assert numbers.runs["part"].gap == alone.gap
    # The part resumes and is extended like any run.
    _, none = ask(problems[:count], tmp_path / "part", **plan)
    assert none == []
    whole, rest = ask(problems, tmp_path / "part", views=THREE, samples=3)
    assert sorted(rest + keys) == sorted(keys_of(tmp_path / "whole"))
    assert whole.gap == made.__class__(tmp_path / "whole").summary.gap


def test_a_part_that_is_none_is_refused_in_one_line(
    problems: list[Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(problems[:3], tmp_path / "whole")
    for wrong, words in (
        ({"samples": 9}, "--samples 9: give 1 to 2"),
        ({"limit": 0}, "--limit 0: give 1 to 3"),
        ({"views": "transcribe"}, "view 'transcribe'"),
    ):
        with pytest.raises(UserError, match=words):
            cut(tmp_path / "whole", tmp_path / "part", **wrong)
    with pytest.raises(UsageError, match="nothing is cut"):
        cut(tmp_path / "whole", tmp_path / "part", samples=2)
    with pytest.raises(UserError, match="is the run itself"):
        cut(tmp_path / "whole", tmp_path / "whole", samples=1)
    assert not (tmp_path / "part").exists()
    command = ["cut", str(tmp_path / "whole"), "--out", str(tmp_path / "part"), "--samples", "1"]
    assert main(command) == 0 and "gap" in capsys.readouterr().out
    assert json.loads((tmp_path / "part" / "summary.json").read_text())["samples_per_problem"] == 1


def test_a_part_that_is_there_already_is_said_and_stays(
    problems: list[Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(problems[:3], tmp_path / "whole")
    ask(problems[1:4], tmp_path / "other")
    part = tmp_path / "part"
    command = ["cut", str(tmp_path / "whole"), "--out", str(part), "--limit", "2"]
    assert main(command) == 0
    first = capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in part.glob("*.json*")}
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out == first and said.err == f"{part} holds this part already\n"
    for wrong, words in (
        ([*command[:-1], "1"], "problems was 2, now 1"),
        (["cut", str(tmp_path / "other"), *command[2:]], "holds another run's part"),
    ):
        assert main(wrong) == 1 and words in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in part.glob("*.json*")}
    for lost in ("summary.json", "responses.jsonl"):  # as an interrupted call leaves it
        (part / lost).unlink()
        assert main(command) == 0 and capsys.readouterr().out == first
    ask(problems[:2], part)  # resumes it, and finds nothing to do
    assert "is extended" not in capsys.readouterr().err
    assert main(command) == 0 and "holds this part already" in capsys.readouterr().err


def test_a_part_of_a_run_that_was_finished_since_is_refused(
    problems: list[Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, part, asked = tmp_path / "whole", tmp_path / "part", Asked()

    def stop(request: Request, sample: int) -> str:
        if len(asked.keys) == 4:
            raise KeyboardInterrupt
        return asked.answer(request, sample)

    with pytest.raises(KeyboardInterrupt):
        evaluate(problems[:3], ScriptedEngine(stop), whole, views=TWO, samples=2,
                 identity={"model_fingerprint": "m"})  # fmt: skip
    command = ["cut", str(whole), "--out", str(part), "--limit", "2"]
    assert main(command) == 0
    ask(problems[:3], whole)
    capsys.readouterr()
    assert main(command) == 1
    assert f"finished or had failed samples made again: give another --out, or remove {part}." in (
        " ".join(capsys.readouterr().err.split())
    )
    assert len(keys_of(part)) < 8 and main([*command[:3], f"{part}-anew", *command[4:]]) == 0
    assert len(keys_of(Path(f"{part}-anew"))) == 8
