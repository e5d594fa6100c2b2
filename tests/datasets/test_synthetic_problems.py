"""Synthetic problems, judged from outside: clauses are parsed here and measured in the figure."""

from __future__ import annotations

import cmath
import io
import itertools
import json
import math
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from PIL import Image

from modgap.datasets.synthetic import LEVELS, TYPES, SyntheticProblem, make_problem

PER_TYPE = 30
Values = dict[str, complex | float]  # points by capital letter, unknowns by small letter


@cache
def problems(type: str) -> list[SyntheticProblem]:
    return [make_problem(11, index, types=[type]) for index in range(PER_TYPE)]


def every() -> list[SyntheticProblem]:
    return [problem for type in TYPES for problem in problems(type)]


# --- a second reading of the grammar
# --------------------------------------------------------------------------------
def number(text: str, values: Values) -> float:
    r"""The value of `3x-5`, `16\sqrt{2}`, `12*12`, `2(x+3)`, `25\pi`."""
    code = re.sub(r"\\sqrt\{(.+?)\}", r"*sqrt(\1)", text).replace(r"\pi", "*pi")
    code = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)", code)
    code = re.sub(r"(?<=\d)(?=[a-z(](?!qrt|i))", "*", code)
    code = re.sub(r"(^|[-+*/( ])\*", r"\1", code.replace("**", "*")).strip()
    assert re.fullmatch(r"[-+*/(). \da-z]+", code), text
    names = {name: value for name, value in values.items() if name.islower()}
    return float(eval(code, {"__builtins__": {}}, {**names, "sqrt": math.sqrt, "pi": math.pi}))


def angle(name: str, values: Values) -> float:
    a, v, b = (values[letter] for letter in name)
    return math.degrees(abs(cmath.phase((a - v) / (b - v))))


def distance(name: str, values: Values) -> float:
    return abs(values[name[0]] - values[name[1]])


def cross(u: complex, w: complex) -> float:
    return (u.conjugate() * w).imag / (abs(u) * abs(w))


def dot(u: complex, w: complex) -> float:
    return (u.conjugate() * w).real / (abs(u) * abs(w))


def circles(problem: SyntheticProblem) -> dict[str, list[str]]:
    found = (
        re.fullmatch(r"\\odot (\w) lieson (.+)", clause)
        for clause in problem.record["parsing_stru_seqs"]
    )
    return {m[1]: m[2].split() for m in found if m}


def lines(problem: SyntheticProblem) -> list[list[str]]:
    seqs = problem.record["parsing_stru_seqs"]
    return [re.sub(r"line (\w lieson )?", "", c).split() for c in seqs if c.startswith("line ")]


def line_names(problem: SyntheticProblem) -> dict[str, tuple[str, str]]:
    """The ends of each line that has a small letter."""
    found = (
        re.fullmatch(r"line (\w) lieson (\w).* (\w)", clause)
        for clause in problem.record["parsing_stru_seqs"]
    )
    return {f"line {m[1]}": (m[2], m[3]) for m in found if m}


def arc(name: str, problem: SyntheticProblem, values: Values) -> float:
    center = next(c for c, on in circles(problem).items() if set(name) <= set(on))
    return angle(name[0] + center + name[1], values)


def quantity(text: str, problem: SyntheticProblem, values: Values) -> float:
    """One side of an equation in a semantic clause; angles in degrees."""
    if m := re.fullmatch(r"m \\angle ([A-Z]{3})", text):
        return angle(m[1], values)
    if m := re.fullmatch(r"m \\widehat ([A-Z]{2})", text):
        return arc(m[1], problem, values)
    if re.fullmatch(r"[A-Z]{2}", text):
        return distance(text, values)
    return number(text, values)


def is_label(text: str) -> bool:
    return re.fullmatch(r"m \\angle \d", text) is not None


def residuals(problem: SyntheticProblem, values: Values) -> list[float]:
    """Everything that structural clauses, semantic clauses and the question state, as numbers that
    should be zero.
    """
    out = []
    for names in lines(problem):
        ends = values[names[-1]] - values[names[0]]
        out += [cross(ends, values[inner] - values[names[0]]) for inner in names[1:-1]]
    for center, on in circles(problem).items():
        radii = [distance(center + name, values) for name in on]
        out += [r / radii[0] - 1 for r in radii[1:]]
    for clause in problem.record["parsing_sem_seqs"]:
        if m := re.fullmatch(r"(\w)(\w) \\perp (\w)(\w) on (\w)", clause):
            a, b, c, d, at = (values[name] for name in m.groups())
            out.append(dot(b - a, d - c))
            for end, other in ((a, b), (c, d)):
                if at not in (end, other):
                    out.append(cross(other - end, at - end))
        elif r"\parallel" in clause:
            sides = [line_names(problem).get(side, side) for side in clause.split(r" \parallel ")]
            (a, b), (c, d) = ([values[name] for name in side] for side in sides)
            out.append(cross(b - a, d - c))
        else:
            sides = [
                quantity(part, problem, values)
                for part in clause.split(" = ")
                if not is_label(part)
            ]
            out += [(side - sides[0]) / abs(sides[0]) for side in sides[1:]]
    return out + stated(problem, values)


def stated(problem: SyntheticProblem, values: Values) -> list[float]:
    """What the question says in words."""
    text, out = problem.record["text"], []
    word = kind = ""
    if m := re.search(r"([A-Z]{4}) is a (\w+)\.", text):
        word, kind = m.groups()
    elif m := re.search(r"of (\w+) ([A-Z]{4})[.?]", text):
        kind, word = m.groups()
    elif (m := re.search(r"of the (rectangle|rhombus|square)", text)) and len(problem.points) == 4:
        middle = sum(complex(*at) for at in problem.points.values()) / 4
        word, kind = (
            "".join(
                sorted(
                    problem.points, key=lambda n: cmath.phase(complex(*problem.points[n]) - middle)
                )
            ),
            m[1],
        )
    if kind in ("parallelogram", "rectangle", "rhombus", "square"):
        a, b, c, d = (values[name] for name in word)
        out += [((b - a) - (c - d)).real / abs(b - a), ((b - a) - (c - d)).imag / abs(b - a)]
        if kind in ("rectangle", "square"):
            out.append(dot(b - a, d - a))
        if kind in ("rhombus", "square"):
            out.append(abs(b - a) / abs(d - a) - 1)
    if m := re.search(r"triangle (\w{3}) \\sim \\triangle (\w{3})", text):
        pairs = [
            distance(m[1][k] + m[1][k - 1], values) / distance(m[2][k] + m[2][k - 1], values)
            for k in range(3)
        ]
        out += [pairs[0] / pairs[1] - 1, pairs[0] / pairs[2] - 1]
    if m := re.match(r"(\w\w)(?: and (\w\w))? (?:is|are) tangent to \\odot (\w)", text):
        on = circles(problem)[m[3]]
        for side in filter(None, m.groups()[:2]):
            touch, outer = (side[0], side[1]) if side[0] in on else (side[1], side[0])
            out.append(dot(values[touch] - values[m[3]], values[touch] - values[outer]))
    if m := re.match(r"\\odot (\w) is inscribed in", text):
        for name in circles(problem)[m[1]]:
            ends = next((names[0], names[-1]) for names in lines(problem) if name in names[1:-1])
            out.append(dot(values[name] - values[m[1]], values[ends[1]] - values[ends[0]]))
    return out


def hull(points: list[complex]) -> list[complex]:
    """Gift wrapping."""
    start = min(points, key=lambda p: (p.real, p.imag))
    out, at = [], start
    while not out or at != start:
        out.append(at)
        ahead = next(p for p in points if p != at)
        for p in points:
            turn = ((ahead - at).conjugate() * (p - at)).imag
            if turn < -1e-9 or (abs(turn) <= 1e-9 and abs(p - at) > abs(ahead - at)):
                ahead = p
        at = ahead
    return out


def asked(problem: SyntheticProblem, values: Values) -> float:
    """The quantity that the question asks for."""
    text = problem.record["text"].split(". ")[-1].rstrip(".?")
    points = {name: value for name, value in values.items() if name.isupper()}
    if m := re.search(r"(?:Find|for|value of) ([a-z])$", text):
        return float(values[m[1]])
    if m := re.search(r"\\angle (\d)$", text):
        name = next(
            c for c in problem.record["parsing_sem_seqs"] if c.endswith(rf"= m \angle {m[1]}")
        )
        return angle(re.search(r"[A-Z]{3}", name)[0], values)
    if m := re.search(r"\\angle ([A-Z]{3})$", text):
        return angle(m[1], values)
    if m := re.search(r"length of \\widehat ([A-Z]{2})$", text):
        center, on = next(iter(circles(problem).items()))
        return math.radians(arc(m[1], problem, values)) * distance(center + on[0], values)
    if m := re.search(r"\\widehat ([A-Z]{2})$", text):
        return arc(m[1], problem, values)
    if m := re.search(r"area of sector ([A-Z])([A-Z])([A-Z])$", text):
        radius = distance(m[1] + m[2], values)
        return math.radians(angle("".join(m.groups()), values)) * radius**2 / 2
    if m := re.search(r"(area|circumference|diameter) of (?:the circle|\\odot [A-Z])$", text):
        center, on = next(iter(circles(problem).items()))
        r = distance(center + on[0], values)
        return {"area": math.pi * r * r, "circumference": 2 * math.pi * r, "diameter": 2 * r}[m[1]]
    if m := re.search(r"(area|perimeter) of .*?([A-Z]{3,4})?$", text):
        corners = [points[name] for name in m[2]] if m[2] else hull(list(points.values()))
        pairs = list(zip(corners, corners[1:] + corners[:1], strict=True))
        area = abs(sum((p.conjugate() * q).imag for p, q in pairs)) / 2
        return area if m[1] == "area" else sum(abs(p - q) for p, q in pairs)
    m = re.search(r"(?:Find|for|length of) ([A-Z]{2})$", text)
    assert m, text
    return distance(m[1], values)


def state(problem: SyntheticProblem) -> Values:
    return {**{name: complex(*at) for name, at in problem.points.items()}, **problem.unknowns}


# --- the properties
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("type", TYPES)
def test_what_the_record_says_holds_in_the_figure(type: str) -> None:
    for problem in problems(type):
        values = state(problem)
        assert max(map(abs, residuals(problem, values)), default=0.0) < 1e-9, problem.record
        for names in lines(problem):
            along = [distance(names[0] + name, values) for name in names]
            assert along == sorted(along), f"{names} are not in this order"
        answer = float(problem.record["answer"])
        assert asked(problem, values) == pytest.approx(answer, abs=6e-4), problem.record


@pytest.mark.parametrize("type", TYPES)
def test_the_answer_follows_from_the_clauses(type: str) -> None:
    """No small motion of points and unknowns that keeps every clause changes the quantity asked
    for.
    """
    for problem in problems(type)[: PER_TYPE // 2]:
        values = state(problem)
        points = [name for name in values if name.isupper()]
        unknowns = [name for name in values if name.islower()]
        size = max(abs(values[a] - values[b]) for a, b in itertools.combinations(points, 2))

        def moved(
            step: np.ndarray, values=values, points=points, unknowns=unknowns, size=size
        ) -> Values:
            out: Values = {
                n: values[n] + size * complex(*step[2 * k : 2 * k + 2])
                for k, n in enumerate(points)
            }
            return out | {
                n: values[n] * (1 + step[2 * len(points) + k]) for k, n in enumerate(unknowns)
            }

        def rows(step: np.ndarray, problem=problem, moved=moved) -> np.ndarray:
            values = moved(step)
            return np.array(
                [
                    *residuals(problem, values),
                    asked(problem, values) / float(problem.record["answer"]),
                ]
            )

        count = 2 * len(points) + len(unknowns)
        h = 1e-5
        columns = [(rows(h * unit) - rows(-h * unit)) / (2 * h) for unit in np.eye(count)]
        jacobian = np.stack(columns, axis=1)
        constraints, gradient = jacobian[:-1], jacobian[-1]
        _, sizes, directions = np.linalg.svd(constraints)
        free = directions[int(np.sum(sizes > 1e-6)) :]
        assert np.abs(free @ gradient).max() < 1e-4, problem.record


def test_questions_carry_no_numbers() -> None:
    for problem in every():
        assert not re.search(r"\d", re.sub(r"\\angle \d", "", problem.record["text"])), (
            problem.record["text"]
        )


def test_what_the_clauses_say_is_in_the_diagram() -> None:
    for problem in every():
        texts = Counter(label.text for label in problem.labels)
        assert all(texts[name] for name in problem.points)
        wanted: Counter[str] = Counter(
            [*problem.points, *(name[-1] for name in line_names(problem))]
        )
        for clause in problem.record["parsing_sem_seqs"]:
            value = clause.split(" = ")[-1]
            if (
                r"\perp" in clause
                or r"\parallel" in clause
                or re.fullmatch(r"[A-Z]{2}|m \\angle [A-Z]{3}", value)
            ):
                continue
            shown = value.removeprefix(r"m \angle ").replace(r"\sqrt{", "√").replace("}", "")
            if clause.startswith("m ") and not is_label(value):
                shown = f"({shown})°" if re.search(r"[-+]", shown) else f"{shown}°"
            wanted[shown] += 1
        assert texts == wanted, problem.record


def test_labels_are_on_the_canvas_and_apart() -> None:
    for problem in every():
        for label in problem.labels:
            assert (
                label.x >= 1
                and label.y >= 1
                and label.x + label.w <= 223
                and label.y + label.h <= 223
            )
        for a, b in itertools.combinations(problem.labels, 2):
            apart = a.x + a.w <= b.x or b.x + b.w <= a.x or a.y + a.h <= b.y or b.y + b.h <= a.y
            assert apart, (problem.record, a, b)


def test_label_boxes_hold_the_ink_of_their_text() -> None:
    for problem in every()[::7]:
        ink = np.asarray(Image.open(io.BytesIO(problem.png)))
        assert ink.shape == (224, 224) and ink.dtype == np.uint8
        for label in problem.labels:
            assert ink[label.y : label.y + label.h, label.x : label.x + label.w].min() < 128, label


def test_point_letters_stand_by_their_points() -> None:
    for problem in every():
        for label in problem.labels:
            if label.kind == "point":
                x, y = problem.pixels[label.text]
                mine = math.hypot(label.x + label.w / 2 - x, label.y + label.h / 2 - y)
                assert mine < 20


def test_the_diagram_is_to_scale() -> None:
    for problem in every():
        names = list(problem.points)
        true = np.array([complex(*problem.points[n]) for n in names])
        drawn = np.array([complex(*problem.pixels[n]) for n in names])
        pairs = np.abs(true[:, None] - true[None]), np.abs(drawn[:, None] - drawn[None])
        ratio = pairs[1][pairs[0] > 0] / pairs[0][pairs[0] > 0]
        assert ratio.max() / ratio.min() < 1 + 1e-9
        assert pairs[1][pairs[0] > 0].min() > 20, "points too close to read"


def test_solutions_transcribe_then_work_then_answer() -> None:
    for problem in every():
        m = re.fullmatch(r"<think>(.*?)\. (.+)\.</think>\\boxed\{(.+)\}", problem.solution)
        assert m, problem.solution
        assert m[1] == ", ".join(problem.record["parsing_sem_seqs"])
        values, last = state(problem), ""
        for step in m[2].split(", "):
            sides = step.split(" = ")
            results = [number(side, values) for side in sides]
            assert len(sides) == 2 and results[0] == pytest.approx(results[1], rel=1e-9), (
                step,
                problem.solution,
            )
            last = sides[1]
        assert number(m[3], values) == pytest.approx(float(problem.record["answer"]), abs=6e-4)
        assert last == m[3], problem.solution


def test_records_have_the_layout_of_pgps9k() -> None:
    keys = ["diagram", "text", "parsing_stru_seqs", "parsing_sem_seqs", "expression", "answer"]
    keys += ["type", "book", "page", "choices"]
    for problem in every():
        record = problem.record
        assert list(record) == keys
        assert re.fullmatch(r"\d+\.\d{3}", record["answer"]) and float(record["answer"]) > 0
        assert len(record["choices"]) == 4 and sorted(record["choices"]) == record["choices"]
        assert min(abs(c - float(record["answer"])) for c in record["choices"]) < 1e-3
        assert json.loads(json.dumps(record)) == record


def test_programs_refer_to_values_that_exist() -> None:
    for problem in every():
        values = [
            c
            for c in problem.record["parsing_sem_seqs"]
            if re.search(r" = [^A-Z]*$", c) and not is_label(c)
        ]
        for place in re.findall(r"\bN(\d+)", problem.record["expression"]):
            assert int(place) < len(values), problem.record


def test_a_problem_is_a_function_of_its_arguments() -> None:
    again = make_problem(3, 17, "test")
    make_problem(4, 1)
    assert make_problem(3, 17, "test") == again
    assert make_problem(3, 18, "test") != again and make_problem(4, 17, "test") != again


def test_no_test_problem_is_a_train_problem_with_other_letters() -> None:
    def content(problem: SyntheticProblem) -> tuple:
        clauses = sorted(re.sub(r"[A-Z]+", "", c) for c in problem.record["parsing_sem_seqs"])
        return problem.template, tuple(clauses), problem.record["answer"]

    train = {content(make_problem(0, index)) for index in range(350)}
    test = {content(make_problem(1, index, "test")) for index in range(120)}
    assert not train & test


def test_levels_and_types_can_be_chosen() -> None:
    for level in LEVELS:
        assert {make_problem(0, index, levels=[level]).level for index in range(20)} == {level}
    assert {p.record["type"] for p in problems("Tangent")} == {"Tangent"}
    assert len(
        {problem.record["type"] for problem in (make_problem(0, index) for index in range(400))}
    ) == len(TYPES)


def test_guessing_from_the_question_does_not_pay() -> None:
    answers = Counter(p.record["answer"] for p in every())
    assert max(answers.values()) / sum(answers.values()) < 0.05
    for type in TYPES:
        common = Counter(p.record["answer"] for p in problems(type)).most_common(1)[0][1]
        assert common <= 0.2 * PER_TYPE, type


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "train, test"),
        ({"levels": [4]}, "levels"),
        ({"types": ["Cube"]}, "'Cube' does not exist"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_problem(0, 0, **arguments)
