"""Charts and tables, judged from outside: the picture is read by its layout, steps are computed."""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modgap.core.errors import UserError
from modgap.core.prompt import training_question
from modgap.core.transcripts import writable
from modgap.datasets import pgps9k
from modgap.datasets.synthetic import Label, SyntheticProblem, write_dataset
from modgap.datasets.synthetic.chart_scene import ASKED, KINDS
from modgap.datasets.synthetic.charts import make_problem
from modgap.datasets.synthetic.draw import extent, font


@cache
def problems(kind: str) -> list[SyntheticProblem]:
    return [make_problem(7, index, types=[kind]) for index in range(60)]


def every() -> list[SyntheticProblem]:
    return [problem for kind in KINDS for problem in problems(kind)]


def middle(label: Label) -> tuple[float, float]:
    return label.x + label.w / 2, label.y + label.h / 2


def nearest(labels: list[Label], place: tuple[float, float]) -> Label:
    return min(labels, key=lambda label: math.dist(middle(label), place))


def read_picture(problem: SyntheticProblem) -> list[str]:
    """The conditions as a reader of the picture finds them, in reading order."""
    of = {kind: [label for label in problem.labels if label.kind == kind]
          for kind in ("name", "value", "tick", "column")}  # fmt: skip
    found: list[str] = []
    for name in of["name"]:
        if of["column"]:
            for column in of["column"]:
                value = nearest(of["value"], (middle(column)[0], middle(name)[1]))
                found.append(f"{name.text} in {column.text} {value.text}")
            continue
        end = problem.pixels[name.text]
        if of["tick"]:
            value = min(of["tick"], key=lambda tick: abs(middle(tick)[1] - end[1]))
        else:
            value = nearest(of["value"], end)
        found.append(f"{name.text} {value.text}")
    return found


def test_the_numbers_of_the_picture_are_those_of_the_text() -> None:
    for problem in every():
        assert read_picture(problem) == problem.record["parsing_sem_seqs"]


def test_bars_end_where_their_values_say() -> None:
    """Lengths are in proportion to values: a pixel for rounding."""
    for problem in [*problems("bars"), *problems("axis"), *problems("rows")]:
        values = [int(str(c).split()[-1]) for c in problem.record["parsing_sem_seqs"]]  # type: ignore[union-attr]
        lying = problem.record["type"] == "rows"
        ends = [at[0] if lying else -at[1] for at in problem.pixels.values()]
        slope = (max(ends) - min(ends)) / (max(values) - min(values))
        for value, end in zip(values, ends, strict=True):
            assert abs(min(ends) + slope * (value - min(values)) - end) <= 1.5


def test_every_text_stands_alone_and_as_the_font_draws_it() -> None:
    for problem in every():
        image = np.asarray(Image.open(io.BytesIO(problem.png)))
        assert image.shape == (224, 224)
        for label in problem.labels:
            alone = Image.new("L", (label.w, label.h), 255)
            left, top, *size = extent(label.text)
            assert size == [label.w, label.h]
            ImageDraw.Draw(alone).text((-left, -top), label.text, fill=0, font=font())
            box = image[label.y : label.y + label.h, label.x : label.x + label.w]
            assert np.array_equal(box, np.asarray(alone)), (problem.record, label)
        for a, b in combinations(problem.labels, 2):
            apart = a.x >= b.x + b.w or b.x >= a.x + a.w or a.y >= b.y + b.h or b.y >= a.y + a.h
            assert apart, (a, b)


def value(name: str, problem: SyntheticProblem) -> int:
    found = dict(str(c).rsplit(" ", 1) for c in problem.record["parsing_sem_seqs"])  # type: ignore[union-attr]
    return int(found[name])


def test_each_question_has_one_answer_that_its_steps_reach() -> None:
    """The names asked for are there, numbers are distinct, and each step is right."""
    for problem in every():
        clauses = [str(c) for c in problem.record["parsing_sem_seqs"]]  # type: ignore[union-attr]
        numbers = [int(c.split()[-1]) for c in clauses]
        assert len(set(numbers)) == len(numbers)
        steps = problem.solution.split(". ", 1)[1].split(".</think>")[0].split(", ")
        for step in steps:
            if word := re.fullmatch(r"(max|min) (\d+)", step):
                assert int(word[2]) in numbers
                continue
            if step in clauses:
                assert step.rsplit(" ", 1)[0] in str(problem.record["text"])
                continue
            left, right = step.split(" = ")
            assert re.fullmatch(r"[\d. +/-]+", left)
            assert float(eval(left, {"__builtins__": {}})) == pytest.approx(float(right))
        answer = problem.solution.split("\\boxed{")[1].rstrip("}")
        assert steps[-1].endswith(f" {answer}")
        assert float(answer) == pytest.approx(float(str(problem.record["answer"])), abs=5e-4)


def test_simple_questions_are_answered_by_the_numbers_they_name() -> None:
    signs = {"sum_of_two": "+", "difference": "-", "ratio": "/"}
    for problem in every():
        if problem.template not in signs:
            continue
        names = [str(c).rsplit(" ", 1)[0] for c in problem.record["parsing_sem_seqs"]]  # type: ignore[union-attr]
        asked = [n for n in names if re.search(rf"\b{n}\b", str(problem.record["text"]))]
        a, b = (value(name, problem) for name in asked)
        possible = {"+": (a + b,), "-": (abs(a - b),), "/": (a / b, b / a)}
        answer = float(str(problem.record["answer"]))
        assert any(abs(answer - right) < 5e-4 for right in possible[signs[problem.template]])


def test_a_question_states_no_number_and_can_be_asked_in_every_view(tmp_path: Path) -> None:
    write_dataset(tmp_path, 6, 6, family="charts")
    assert pgps9k.check(tmp_path).ok
    for problem in pgps9k.read(tmp_path):
        assert not problem.leaky and not re.search(r"\d", problem.question)
        assert all(clause in training_question(problem, "full-text") for clause in problem.semantic)
        assert not any(c in training_question(problem, "image-only") for c in problem.semantic)
        # The causal controls change one number of the conditions.
        assert writable("corrupted-transcription", problem.semantic, problem.question)


def test_questions_of_each_kind_and_level_are_there() -> None:
    seen = Counter((p.record["type"], p.level) for p in every())
    assert set(seen) == {(kind, level) for kind in KINDS for level in (1, 2, 3)}
    assert {asked.name for asked in ASKED} == {problem.template for problem in every()}


def test_no_answer_is_worth_guessing() -> None:
    answers = Counter(problem.record["answer"] for problem in every())
    assert max(answers.values()) <= 0.05 * len(every())


def test_numbers_of_a_test_problem_are_in_no_train_problem() -> None:
    def key(problem: SyntheticProblem) -> tuple[object, ...]:
        numbers = sorted(str(c).split()[-1] for c in problem.record["parsing_sem_seqs"])  # type: ignore[union-attr]
        return problem.template, tuple(numbers), problem.record["answer"]

    # Few distinct numbers: an axis with questions of one step.
    train, test = (
        {key(make_problem(seed, i, split, levels=[1], types=["axis"])) for i in range(60)}
        for seed, split in ((1, "train"), (2, "test"))
    )
    assert not train & test


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in "ab":
        write_dataset(tmp_path / name, 3, 2, seed=4, family="charts")
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*") if p.is_file()]
    assert len(files) >= 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    write_dataset(tmp_path / "c", 3, 2, seed=5, family="charts")
    one, other = (json.loads((tmp_path / n / "train.json").read_text()) for n in "ac")
    assert one != other


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"unknown family 'chart': choose from .*Did you mean 'charts'"
    ):
        write_dataset(tmp_path, 1, 1, family="chart")
