"""Evaluation as a whole, with an engine that says what it is told: counts, controls, resume,
grading again.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import evaluate, evaluate_model
from folders import write_folder
from PIL import Image
from reported_runs import report_numbers

from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core.engine import Completion, Request, Sampling
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.record import RunFolder
from modgap.core.view import VIEWS
from modgap.engines.scripted import ScriptedEngine
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.grade import grade_run
from modgap.workflows.problems import read_problems


@pytest.fixture
def problems(tmp_path: Path) -> list[Problem]:
    made = []
    for number in range(6):
        path = tmp_path / f"img_{number}.png"
        Image.new("RGB", (30 + number, 20), "black").save(path)
        made.append(
            Problem(
                f"prob_{number}",
                "Find x.",
                f"{number + 3}.000",
                path,
                semantic=(f"AB = {number}",),
                type="Angle",
            )
        )
    return made


def right_from_text(request: Request, sample: int) -> str:
    """Right from text; from the image right on the first sample of an even problem only."""
    number = int(request.problem_id.split("_")[1])
    right = request.view == "full-text" or (sample == 0 and number % 2 == 0)
    return f"<think>so</think>\\boxed{{{number + 3 if right else 999}}}"


class Stopping:
    """Answers like another engine, but is killed after so many completions."""

    def __init__(self, inner: ScriptedEngine, after: int) -> None:
        self.inner, self.after = inner, after

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for number, completion in enumerate(self.inner.generate(requests, sampling)):
            if number == self.after:
                raise KeyboardInterrupt
            yield completion


def test_the_summary_is_the_arithmetic_of_the_answers(
    problems: list[Problem], tmp_path: Path
) -> None:
    summary = evaluate(problems, ScriptedEngine(right_from_text), tmp_path / "run", samples=2)
    text, image = summary.views["full-text"], summary.views["image-only"]
    assert (text.n_problems, text.n_samples, text.correct, text.accuracy) == (6, 12, 12, 1.0)
    assert (image.correct, image.wrong, image.no_answer, image.error) == (3, 9, 0, 0)
    assert summary.gap.points == pytest.approx(75.0)
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary.model_dump(
        mode="json"
    )


@pytest.mark.parametrize("after", [0, 1, 7, 23])
def test_a_killed_run_goes_on_with_each_sample_exactly_once(
    problems: list[Problem], tmp_path: Path, after: int
) -> None:
    engine = ScriptedEngine(right_from_text)
    with pytest.raises(KeyboardInterrupt):
        evaluate(problems, Stopping(engine, after), tmp_path / "run", samples=2)
    path = RunFolder(tmp_path / "run").responses_path
    before = path.read_bytes()
    resumed = evaluate(problems, engine, tmp_path / "run", samples=2)
    assert path.read_bytes().startswith(before), "what was there is left as it was"
    counts = Counter(row.key for row in RunFolder(tmp_path / "run").responses())
    assert set(counts.values()) == {1} and len(counts) == 6 * 2 * 2
    assert resumed == evaluate(problems, engine, tmp_path / "straight", samples=2)


def test_another_order_or_batch_gives_the_same_seeds(
    problems: list[Problem], tmp_path: Path
) -> None:
    for name, order in (("a", problems), ("b", problems[::-1])):
        evaluate(order, ScriptedEngine(right_from_text), tmp_path / name, samples=3)
    seeds = [{row.key: row.seed for row in RunFolder(tmp_path / name).responses()} for name in "ab"]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0].values())) == len(seeds[0])


def test_each_view_shows_what_it_says(problems: list[Problem], tmp_path: Path) -> None:
    seen: dict[str, tuple[str, object]] = {}

    def answer(request: Request, sample: int) -> str:
        if request.problem_id == "prob_2":
            image = request.image() if request.image else None
            seen[request.view] = (
                request.prompt.text,
                image and (image.size, image.getextrema()[0]),
            )
            assert request.prompt.has_image == (image is not None)
        return "\\boxed{1}"

    evaluate(problems, ScriptedEngine(answer), tmp_path / "run", views=list(VIEWS), samples=1)
    own, black, white = (32, 20), (0, 0), (255, 255)
    for name, view in VIEWS.items():
        text, image = seen[name]
        assert ("AB = 2" in text) == view.conditions, name
        assert "Find x." in text
        expected = {
            "own": (own, black),
            "blank": (own, white),
            "swapped": ((33, 20), black),
            "none": None,
            # The words are below the diagram, and wider.
            "rendered": ((448, 20 + 2 * 19 + 32), (0, 255)),
        }
        assert image == expected[view.picture], name


def test_grading_again_needs_no_model_and_keeps_every_sample(
    problems: list[Problem], tmp_path: Path
) -> None:
    evaluate(problems, ScriptedEngine(right_from_text), tmp_path / "run", samples=2)
    for mode in ("paper", "relative", "exact", "strict"):
        summary = grade_run(RunFolder(tmp_path / "run"), mode)
        assert summary.views["full-text"].correct == 12
        rows = RunFolder(tmp_path / "run").grades()
        assert {row.mode for row in rows} == {mode} and len({row.key for row in rows}) == len(
            rows
        ) == 24


def test_an_engine_error_is_an_error_not_a_wrong_answer(
    problems: list[Problem], tmp_path: Path
) -> None:
    class Failing(ScriptedEngine):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            for request in requests:
                for sample in request.samples:
                    yield Completion(request, sample, "", "error", 0, 0, seed=0, error="timeout")

    summary = evaluate(problems, Failing(right_from_text), tmp_path / "run", samples=1)
    assert (summary.views["image-only"].error, summary.views["image-only"].wrong) == (6, 0)
    again = evaluate(problems, ScriptedEngine(right_from_text), tmp_path / "run", samples=1)
    assert again.views["image-only"].error == 0


def test_no_earlier_grade_counts_for_a_sample_that_is_made_again(
    problems: list[Problem], tmp_path: Path
) -> None:
    class Failing(ScriptedEngine):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            for made in super().generate(requests, sampling):
                lost = made.request.view == "image-only"
                yield replace(made, finish_reason="error", error="timeout") if lost else made

    def moved() -> dict[str, float | None]:
        found = report_numbers([run.path]).robustness
        assert found is not None
        return {variant.name: variant.moved for variant in found["run"].variants[1:]}

    run = RunFolder(tmp_path / "run")
    evaluate(problems, Failing(right_from_text), run.path, samples=1)
    grade_run(run, "relative")
    earlier = (run.path / "grades.relative.jsonl").read_bytes()
    evaluate(problems, ScriptedEngine(right_from_text), run.path, samples=1)
    assert moved() and not any(moved().values())
    assert not (run.path / "grades.relative.jsonl").exists()
    # A run of an earlier version may still have it.
    (run.path / "grades.relative.jsonl").write_bytes(earlier)
    assert not any(moved().values())


def test_half_a_surrogate_pair_does_not_kill_the_run(
    problems: list[Problem], tmp_path: Path
) -> None:
    class Odd(ScriptedEngine):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            for completion in super().generate(requests, sampling):
                failed = completion.request.view == "image-only"
                error = "lost \udfff" if failed else None
                yield replace(completion, finish_reason="error" if failed else "stop", error=error)

    summary = evaluate(problems, Odd(lambda *_: "x\ud800 \\boxed{3}"), tmp_path / "run", samples=1)
    rows = {row.key: row for row in RunFolder(tmp_path / "run").responses()}
    assert rows["prob_0", "full-text", 0].response == "x? \\boxed{3}"
    assert rows["prob_0", "image-only", 0].error == "lost ?"
    assert summary.views["full-text"].correct == 1


@pytest.mark.parametrize(
    "change", [{"id": "p\ud800"}, {"answer": "\udfff"}, {"semantic": ("\ud800",)}]
)
def test_half_a_surrogate_pair_in_a_problem_is_refused(
    problems: list[Problem], tmp_path: Path, change: dict[str, Any]
) -> None:
    problems[3] = replace(problems[3], **change)
    with pytest.raises(UserError, match=r"problem 'p.*' holds half of a surrogate pair"):
        evaluate(problems, ScriptedEngine(right_from_text), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Blind(ScriptedEngine):
    """Cannot see the diagram of prob_2, as if it were broken."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for made in super().generate(requests, sampling):
            broken = made.request.problem_id == "prob_2" and made.request.image is not None
            yield replace(made, finish_reason="error", error="no image") if broken else made


def test_a_corrected_diagram_is_accepted_where_nothing_was_answered(
    problems: list[Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, asked = tmp_path / "run", {"samples": 1, "views": "full-text,image-only,text-only"}
    evaluate(problems, Blind(right_from_text), out, **asked)
    before = RunFolder(out).manifest()["fingerprints"]
    Image.new("RGB", (40, 40), "red").save(tmp_path / "img_2.png")
    summary = evaluate(problems, ScriptedEngine(right_from_text), out, **asked)
    assert summary.views["image-only"].error == 0 and summary.views["text-only"].n_samples == 6
    assert "the data set was corrected: nothing was answered yet" in (
        said := capsys.readouterr().err
    )
    assert "what changed: prob_2\n" in said
    assert RunFolder(out).manifest()["fingerprints"] == before
    evaluate(problems, ScriptedEngine(right_from_text), out, **asked)  # and again
    assert "corrected" not in capsys.readouterr().err
    # Now it is answered, and so are the words of all.
    Image.new("RGB", (40, 40), "blue").save(tmp_path / "img_2.png")
    with pytest.raises(UserError, match=r"has changed since .*answered already: prob_2\. Put the"):
        evaluate(problems, ScriptedEngine(right_from_text), out, **asked)
    problems[4] = replace(problems[4], answer="9.000")
    with pytest.raises(UserError, match=r"answered already: prob_2, prob_4\."):
        evaluate(problems, ScriptedEngine(right_from_text), out, **asked)


def test_another_problems_diagram_counts_where_it_was_shown(
    problems: list[Problem], tmp_path: Path
) -> None:
    evaluate(problems, ScriptedEngine(right_from_text), tmp_path / "run", views="swapped-image")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "img_2.png")
    with pytest.raises(UserError, match=r"answered already: prob_\d"):
        evaluate(problems, ScriptedEngine(right_from_text), tmp_path / "run", views="swapped-image")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"prob_0": 5}'])
def test_damaged_fingerprints_are_named(problems: list[Problem], tmp_path: Path, text: str) -> None:
    evaluate(problems, ScriptedEngine(right_from_text), tmp_path / "run")
    (tmp_path / "run" / "fingerprints.json").write_text(text)
    with pytest.raises(UserError, match=r"fingerprints\.json is .*: remove it: it is"):
        evaluate(problems, ScriptedEngine(right_from_text), tmp_path / "run")


def test_a_first_try_that_failed_does_not_pin_its_arguments(
    problems: list[Problem], tmp_path: Path
) -> None:
    engine = ScriptedEngine(right_from_text)
    with pytest.raises(KeyboardInterrupt):
        evaluate(problems, Stopping(engine, 0), tmp_path / "run", samples=1)
    assert evaluate(problems, engine, tmp_path / "run", samples=2).samples_per_problem == 2
    with pytest.raises(UserError, match="samples was 2, now 1"):
        evaluate(problems, engine, tmp_path / "run", samples=1)


def test_a_run_that_somebody_writes_keeps_its_manifest(
    problems: list[Problem], tmp_path: Path
) -> None:
    """Before its first response, too: another one's arguments must not slip under it."""
    run, engine = RunFolder(tmp_path / "run"), ScriptedEngine(right_from_text)
    run.start("eval", {"samples": 9})
    with run.lock():
        with pytest.raises(UserError, match="another process"):
            evaluate(problems, engine, run.path, samples=1)
        with pytest.raises(UserError, match="another process"):
            grade_run(run)
    assert run.manifest()["resolved"] == {"samples": 9}


def test_the_fingerprint_sees_every_pixel(problems: list[Problem], tmp_path: Path) -> None:
    before = fingerprint(problems)
    assert isinstance(problems[3].image, Path)
    data = bytearray(problems[3].image.read_bytes())
    data[-20] ^= 1
    problems[3].image.write_bytes(data)
    assert fingerprint(problems) != before
    assert fingerprint([replace(problems[0], image=b"a")]) != fingerprint(
        [replace(problems[0], image=b"b")]
    )
    problems[3].image.unlink()
    with pytest.raises(UserError, match=r"prob_3: .*img_3\.png cannot be read"):
        fingerprint(problems)


def test_a_users_grading_is_kept_until_something_new_is_answered(
    problems: list[Problem], tmp_path: Path
) -> None:
    engine, run = ScriptedEngine(right_from_text), RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        evaluate(problems, Stopping(engine, 9), run.path, samples=1)
    assert grade_run(run, "relative").mode == "relative"
    assert evaluate(problems, engine, run.path, samples=1).mode == "strict"
    grade_run(run, "paper")
    assert evaluate(problems, engine, run.path, samples=1).mode == run.grades()[0].mode == "paper"
    assert evaluate(problems, engine, run.path, samples=1, mode="strict").mode == "strict"
    assert read_summary(run.path).mode == "strict"


@pytest.mark.parametrize("cut", [4, 45])
def test_a_diagram_that_cannot_be_decoded_is_named_and_answers_stay(
    problems: list[Problem], tmp_path: Path, cut: int
) -> None:
    assert isinstance(problems[4].image, Path)
    problems[4].image.write_bytes(problems[4].image.read_bytes()[:cut])

    def look(request: Request, sample: int) -> str:
        assert request.image is not None
        request.image()
        return "\\boxed{3}"

    with pytest.raises(
        UserError, match=r"problem prob_4: .*img_4\.png cannot be decoded.*modgap data check"
    ) as error:
        evaluate(problems, ScriptedEngine(look), tmp_path / "run", samples=1)
    assert "\n" not in str(error.value) and "BytesIO" not in str(error.value)
    assert len(list(RunFolder(tmp_path / "run").responses())) == 8


def test_bad_input_is_one_clear_line(problems: list[Problem], tmp_path: Path) -> None:
    engine = ScriptedEngine(right_from_text)
    with pytest.raises(UserError, match=r"unknown view 'image_only'.*Did you mean 'image-only'"):
        evaluate(problems, engine, tmp_path / "a", views="image_only")
    with pytest.raises(UserError, match="at least 1"):
        evaluate(problems, engine, tmp_path / "b", samples=0)
    with pytest.raises(UserError, match="no diagram"):
        evaluate([Problem("p", "Find x.", "3")], engine, tmp_path / "c", views="image-only")
    with pytest.raises(UserError, match="unknown benchmark"):
        read_problems("pgps", tmp_path)
    with pytest.raises(UserError, match=r"1 problem id given twice.*prob_0"):
        evaluate([*problems, problems[0]], engine, tmp_path / "b")
    data = write_folder(tmp_path / "data", test="{}")
    with pytest.raises(UserError, match="that is a data set; give another --out"):
        evaluate(problems, engine, data)
    assert sorted(path.name for path in data.iterdir()) == [
        "Diagram_Visual",
        "test.json",
        "train.json",
    ]
    with pytest.raises(
        UserError, match="no problems in the split 'test': add some, or give another --data"
    ):
        read_problems("pgps9k", data)
    with pytest.raises(UserError, match=r"img_0\.png is a file: give a folder"):
        evaluate(problems, engine, tmp_path / "img_0.png")
    with pytest.raises(UserError, match="is not a run folder"):
        grade_run(RunFolder(tmp_path / "b"))
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "option", [{"base_url": "http://x/v1"}, {"concurrency": 3}, {"api_key_env": "KEY"}]
)
def test_options_of_a_server_are_refused_where_none_is_asked(option: dict[str, Any]) -> None:
    """Else whoever forgets `--engine openai` gets the figures of another model."""
    with pytest.raises(UserError, match="only --engine openai asks a server"):
        EvalOptions(**option).check()
    EvalOptions(engine="openai", **option).check()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_an_engine_that_is_not_installed_is_refused_before_anything_starts(
    problems: list[Problem], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"vllm is not installed: .*\[vllm\]'"):
        evaluate_model(problems, "tiny", tmp_path / "run", EvalOptions(engine="vllm"))
    assert not (tmp_path / "run").exists()


def test_how_to_judge_without_a_judge_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["grade", str(tmp_path), "--judge-engine", "hf"]) == 2
    assert "give --judge" in capsys.readouterr().err
