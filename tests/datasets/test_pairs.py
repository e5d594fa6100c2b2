"""Anybody's JSONL: what it may say, and how what it may not say is named."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from folders import png

from modgap.core.errors import UserError
from modgap.core.problem import Problem, split_grader
from modgap.core.prompt import training_question
from modgap.core.view import VIEWS, parse_views
from modgap.datasets import pairs
from modgap.datasets.pairs_line import KEYS
from modgap.grading.accepted import grade_accepted
from modgap.grading.grade import Grade
from modgap.grading.graders import find_grader
from modgap.grading.mathverse import Case

PROMPTS = {"full-text": "AB = 7. Find x.", "image-only": "Find x."}


def line(**changes: Any) -> dict[str, Any]:
    """A sound line; a value of `...` takes the key away."""
    whole = {"id": "p1", "image": "img/p1.png", "answer": "25", "prompts": PROMPTS}
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def write(folder: Path, *lines: dict[str, Any] | str) -> Path:
    (folder / "img").mkdir(parents=True)
    (folder / "img" / "p1.png").write_bytes(png())
    file = folder / "problems.jsonl"
    file.write_text(
        "".join((text if isinstance(text, str) else json.dumps(text)) + "\n" for text in lines)
    )
    return file


def found(file: Path) -> list[tuple[int, str, str]]:
    """Line, id and kind of each error."""
    return [(fault.line, fault.record, fault.kind) for fault in pairs.check(file).errors]


def test_the_canonical_form(tmp_path: Path) -> None:
    file = write(
        tmp_path / "d",
        line(type="Chord", question="What is x?"),
        line(id=2, image=None, answer=7.5),
    )
    assert [fault.kind for fault in pairs.check(file).faults] == ["no-image"]
    first, second = pairs.read(file, split="train")
    assert (first.id, first.index, first.split, first.answer) == ("p1", 0, "train", "25")
    assert (first.type, first.question) == ("Chord", "What is x?")
    assert first.image == tmp_path / "d" / "img" / "p1.png" and first.open_image().size == (40, 30)
    assert training_question(first, "full-text") == "AB = 7. Find x."
    assert training_question(first, "image-only") == "Find x."
    assert (second.id, second.index, second.answer, second.image) == ("2", 1, "7.5", None)
    assert second.question == "Find x."


def test_other_ways_to_write_the_same(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png("red")).decode()
    flat = {"full-text": PROMPTS["full-text"], "image_only": PROMPTS["image-only"]}
    file = write(
        tmp_path / "d",
        line(),
        line(id="p2", prompts=..., **flat),
        line(
            id="p3",
            prompts={"full_text": PROMPTS["full-text"], "image-only": PROMPTS["image-only"]},
        ),
        line(id="p4", image=uri),
        line(id="p5", image=...),
        line(id="p6", image=str(tmp_path / "d" / "img" / "p1.png")),
    )
    report = pairs.check(file)
    assert (
        [(fault.kind, fault.severity) for fault in report.faults] == [("no-image", "warning")]
        and report.splits["test"].problems == 6
        and report.splits["test"].images == 2
    )
    problems = list(pairs.read(file))
    assert all(problem.own_words == PROMPTS for problem in problems)
    assert problems[3].image_bytes() == png("red") and problems[4].image is None


def test_a_folder_stands_for_its_file_and_limit_stops_early(tmp_path: Path) -> None:
    file = write(tmp_path / "d", line(), line(id="p2"), "{torn")
    assert [problem.id for problem in pairs.read(tmp_path / "d", limit=2)] == ["p1", "p2"]
    assert pairs.check(file).path == file
    with pytest.raises(UserError, match=r"nowhere does not exist: give a JSONL file"):
        pairs.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="limit 0"):
        pairs.read(file, limit=0)


def test_blank_lines_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    file = write(tmp_path / "d", line())
    file.write_bytes(
        b"\xef\xbb\xbf"
        + file.read_bytes().replace(b"\n", b"\r\n\r\n  \r\n")
        + json.dumps(line(id="é")).encode()
    )
    assert pairs.check(file).faults == []
    assert [problem.id for problem in pairs.read(file)] == ["p1", "é"]


FAULTY: list[tuple[dict[str, Any] | str, str, str]] = [
    (
        '{"id": "x" "answer": 1}',
        "malformed",
        "is not valid JSON (Expecting ',' delimiter, column 12)",
    ),
    ("[1, 2]", "not-an-object", "is a list, not an object"),
    (line(id=...), "missing-key", "id is missing"),
    (line(id=""), "wrong-type", "id must be a string (not an empty one) or an integer"),
    (line(id=True), "wrong-type", "id must be a string"),
    (line(answer=...), "missing-key", "answer is missing"),
    (line(answer=None), "missing-key", "answer is missing"),
    (line(answer=["25"]), "wrong-type", "answer is a list, not a string"),
    (
        line(answer="the triangle"),
        "not-a-number",
        "'the triangle' is not a number that the grader can read",
    ),
    (line(answer=float("nan")), "not-a-number", "'nan' is not a number"),
    (
        line(prompts=...),
        "missing-key",
        "prompts is missing: give the words of each view (choose from full-text, image-only",
    ),
    (line(prompts={}), "missing-key", "prompts is missing"),
    (
        line(prompts="Find x."),
        "wrong-type",
        "prompts is a string, not an object: view name -> words",
    ),
    (line(prompts={"full-txt": "a"}), "unknown-view", "Did you mean 'full-text'?"),
    (line(prompts={"full-text": ""}), "empty", "the prompt for full-text is empty"),
    (
        line(prompts={"full-text": 5}),
        "wrong-type",
        "the prompt for full-text is a number, not a string",
    ),
    (line(prompts={"full-text": "<image>Find x."}), "placeholder", "leave it out"),
    (line(full_text="Again."), "duplicate-key", "the prompt for full-text is given twice"),
    (json.dumps(line())[:-1] + ', "answer": 3}', "duplicate-key", "answer is given twice"),
    (line(type=5), "wrong-type", "type is a number, not a string"),
    (line(image=5), "wrong-type", "image is a number, not a string"),
    (line(image=""), "empty", "image is empty (leave it out, or give null, if there is none)"),
    (line(image="https://example.org/1.png"), "image-path", "save the image beside the file"),
    (line(image="data:image/png;base64,@@@"), "image-broken", "the data URI cannot be decoded"),
    (line(image="data:image/png,abc"), "image-broken", "it is not base64"),
    (line(image="data:image/png;base64,YWJj"), "image-broken", "cannot be read as an image"),
    (
        line(image="img/p9.png"),
        "image-absent",
        "p9.png is absent (a path is relative to the JSONL file)",
    ),
    (line(image="problems.jsonl"), "image-broken", "cannot be read as an image"),
]
ONLY_CHECK_SEES = ("data:image/png;base64,YWJj", "problems.jsonl")  # `read` does not decode


def test_every_fault_is_named_with_its_line(tmp_path: Path) -> None:
    """All in one file, each with an id of its own: no fault hides another."""
    texts = [
        (
            json.dumps(text | {"id": f"q{number}"})
            if isinstance(text, dict) and text.get("id") == "p1"
            else text
        )
        for number, (text, _, _) in enumerate(FAULTY, start=1)
    ]
    report = pairs.check(write(tmp_path / "d", *texts))
    named = report.errors
    assert [(fault.line, fault.kind) for fault in named] == [
        (number, kind) for number, (_, kind, _) in enumerate(FAULTY, start=1)
    ]
    for fault, (_, _, words) in zip(named, FAULTY, strict=True):
        assert words in fault.message and "\n" not in str(fault)


@pytest.mark.parametrize("number", range(len(FAULTY)))
def test_read_stops_at_a_faulty_line_and_names_it(tmp_path: Path, number: int) -> None:
    text, _, words = FAULTY[number]
    file = write(tmp_path / "d", line(id="sound"), text)
    problems = pairs.read(file)
    assert next(problems).id == "sound"
    if isinstance(text, dict) and text.get("image") in ONLY_CHECK_SEES:
        assert next(problems).id == "p1"
        return
    with pytest.raises(UserError, match=r"problems\.jsonl line 2") as caught:
        next(problems)
    assert words in str(caught.value)


def test_an_id_given_twice_also_as_a_number(tmp_path: Path) -> None:
    file = write(tmp_path / "d", line(id="1"), line(id="p2"), line(id=1))
    assert found(file) == [(3, "1", "duplicate-id")]
    assert "stands in line 1 already" in str(pairs.check(file).errors[0])
    with pytest.raises(UserError, match="line 3, 1: this id stands in line 1 already"):
        list(pairs.read(file))


@pytest.mark.parametrize("cut", [-2, -20, 30])
def test_a_torn_last_line_is_named_as_such(tmp_path: Path, cut: int) -> None:
    file = write(tmp_path / "d", line())
    whole = file.read_bytes()
    file.write_bytes(whole + whole.replace(b"p1", b"p2")[:cut])
    (fault,) = pairs.check(file).errors
    assert (fault.line, fault.kind) == (2, "truncated") and "the last line is torn" in fault.message
    # In the middle of a character.
    file.write_bytes(whole + '{"id": "é'.encode()[:-1])
    assert found(file) == [(2, "", "truncated")]


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    file = write(tmp_path / "d", line())
    file.write_bytes(file.read_bytes() + b'{"id": "\xe9"}\n' + json.dumps(line(id="p3")).encode())
    assert found(file) == [(2, "", "encoding")]
    assert pairs.check(file).splits["test"].problems == 2


def test_an_absent_image_is_no_matter_where_none_is_needed(tmp_path: Path) -> None:
    file = write(tmp_path / "d", line(image="nowhere.png"))
    (problem,) = pairs.read(file, need_images=False)
    assert problem.image is None


def test_what_is_worth_knowing_is_a_warning(tmp_path: Path) -> None:
    file = write(
        tmp_path / "d",
        line(prompts={"full-text": "a"}),
        line(id="p2", image=..., image_path="img/p1.png"),
    )
    report = pairs.check(file)
    assert report.ok
    assert [fault.kind for fault in report.warnings] == [
        "unknown-key", "unpaired", "no-image"
    ]  # fmt: skip
    assert "'image_path' is not known and passed over, in 1 line;" in report.warnings[0].message
    assert (
        "1 problem without a prompt for one of full-text, image-only (p1)"
        in report.warnings[1].message
    )


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    assert found(write(tmp_path / "d")) == [(0, "", "empty")]


# ---- what a line may say further -----------------------------------------------------------------


def one(folder: Path, **changes: Any) -> Problem:
    (problem,) = pairs.read(write(folder, line(**changes)))
    return problem


def test_both_views_are_made_of_text_and_conditions(tmp_path: Path) -> None:
    problem = one(tmp_path / "d", prompts=..., text="Find x.", conditions=["AB = 7", "BC = x"])
    assert training_question(problem, "full-text") == (
        "In this problem, AB = 7, BC = x.\nBased on these conditions, answer the question: Find x."
    )
    image_only = "Based on the information in the image, answer the question: Find x."
    assert training_question(problem, "image-only") == image_only
    assert training_question(problem, "as-published") == "Find x."
    same = one(tmp_path / "e", prompts=..., text="Find x.", conditions="AB = 7, BC = x")
    assert training_question(same, "full-text") == training_question(problem, "full-text")
    bare = one(tmp_path / "f", prompts=..., text="Find x.")
    assert pairs.check(tmp_path / "f").splits["test"].bare == 1
    assert training_question(bare, "full-text") == image_only


def test_choices_are_shown_in_every_view(tmp_path: Path) -> None:
    block = "\nChoices:\nA. 7\nB. 25\nC. none"
    for number, changes in enumerate(
        [
            {"choices": ["7", 25, "none"]},
            {"choices": {"A": 7, "B": 25, "C": "none"}, "answer": "(b)"},
            {"choices": ["7", "25", "none"], "prompts": ..., "text": "Find x."},
        ]
    ):
        problem = one(tmp_path / str(number), **changes)
        assert (problem.answer, problem.grader) == ("B", "choices:multi-choice")
        for view in ("full-text", "image-only", "question-only"):
            assert training_question(problem, view).endswith(f"Find x.{block}")
        assert problem.question == f"Find x.{block}" and not problem.leaky


@pytest.mark.parametrize(
    ("changes", "right", "wrong"),
    [
        ({"answer": ..., "answers": [3, "-3"]}, ["3", "-3.0"], ["0", "3.1"]),
        ({"answer": 10, "tolerance": 0.5}, ["10.5", "9.6"], ["10.6"]),
        ({"answer": "200", "tolerance": "1%"}, ["201.9", "198"], ["203"]),
        ({"answer": "10", "tolerance": 0}, ["10"], ["10.004"]),
        ({"answer": ..., "answers": ["1", "\\frac{1}{2}"], "tolerance": 0.1}, ["0.45"], ["0.7"]),
    ],
)
def test_several_right_answers_and_a_tolerance(
    tmp_path: Path, changes: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    problem = one(tmp_path / "d", **changes)
    name, kind = split_grader(problem.grader)
    assert name == "answers"

    def outcomes(answers: list[str]) -> list[str]:
        cases = [Case(f"\\boxed{{{one}}}", problem.answer, "", kind) for one in answers]
        found = find_grader(problem.grader).grade(cases, "strict", None)
        return [grade.outcome for grade in found if isinstance(grade, Grade)]

    assert outcomes(right) == ["correct"] * len(right)
    assert outcomes(wrong) == ["wrong"] * len(wrong)


def test_a_tolerance_of_the_problem_wins_over_a_wider_one_of_the_mode() -> None:
    response = "\\boxed{12.38}"
    assert grade_accepted(response, "12.3", "", "relative").outcome == "correct"
    assert grade_accepted(response, "12.3", "0.01", "relative").outcome == "wrong"
    assert grade_accepted(response, "12.3", "0.1", "relative").outcome == "correct"


def test_several_images_are_one_side_by_side(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png("red", (10, 50))).decode()
    file = write(tmp_path / "d", line(image=["img/p1.png", uri]))
    (problem,) = pairs.read(file)
    image = problem.open_image()
    assert image.size == (40 + 24 + 10, 50)
    assert image.getpixel((0, 40)) == (255, 255, 255) and image.getpixel((70, 49)) == (255, 0, 0)
    assert pairs.check(file).splits["test"].images == 2
    broken = write(tmp_path / "e", line(image=["img/p1.png", "problems.jsonl"]))
    assert [fault.kind for fault in pairs.check(broken).errors] == ["image-broken"]
    with pytest.raises(UserError, match="line 1, p1: one of its images cannot be decoded"):
        list(pairs.read(broken))


def test_an_image_for_each_view(tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png("red")).decode()
    problem = one(tmp_path / "d", image={"full_text": "img/p1.png", "image-only": uri})
    assert problem.image_bytes("full-text") == png()
    for view in ("image-only", "transcribe", "as-published"):
        assert problem.image_bytes(view) == png("red")
    assert problem.image == png("red")
    views = [view.name for view in parse_views("full-text,image-only,transcribe,blank-image")]
    assert all(training_question(problem, view) for view in views)
    only = one(tmp_path / "e", image={"image-only": uri})
    assert only.image_of("full-text") is None  # nothing of another view's image
    assert [fault.kind for fault in pairs.check(tmp_path / "e").warnings] == ["no-image"]


def test_type_and_subject_are_kept(tmp_path: Path) -> None:
    problem = one(tmp_path / "d", type="Chord", subject="Circles", comment="mine")
    assert (problem.type, dict(problem.labels)) == ("Chord", {"subject": "Circles"})
    assert pairs.check(tmp_path / "d").faults == []


def test_views_without_a_picture_need_no_image(tmp_path: Path) -> None:
    prompts = {"text-only": "AB = 7. Find x.", "question-only": "Find x."}
    report = pairs.check(write(tmp_path / "d", line(image=None, prompts=prompts)))
    assert [fault.kind for fault in report.faults] == ["unpaired"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "Find x."}, "text and prompts are both given"),
        ({"prompts": ..., "conditions": ["AB = 7"]}, "text is missing"),
        ({"prompts": ..., "text": ["a"]}, "text is a list, not a string"),
        ({"prompts": ..., "text": "a", "conditions": [3]}, "conditions is a number, not a string"),
        ({"prompts": ..., "text": "a", "conditions": 3}, "not a text or a list of texts"),
        ({"prompts": ..., "text": "<image>a"}, "text holds the placeholder <image>"),
        ({"answers": ["3"]}, "answer and answers are both given"),
        ({"answer": ..., "answers": []}, "is a list, not a list of answers"),
        ({"answer": ..., "answers": "3"}, "answers is a string, not a list"),
        ({"answer": ..., "answers": [3, "x y"]}, "answer 'x y' is not a number"),
        ({"tolerance": "a bit"}, "tolerance 'a bit' is no number"),
        ({"tolerance": -1}, "tolerance '-1' is no number"),
        ({"tolerance": True}, "tolerance True is no number"),
        ({"tolerance": "100%"}, "tolerance '100%' makes 0 right"),
        ({"choices": ["B", "A"], "answer": "A"}, "letter of one choice and the text of another"),
        ({"choices": [*map(str, range(9))]}, "2 to 8 texts or numbers, not 9"),
        ({"choices": ["25"]}, "choices must be a list of 2 to 8"),
        ({"choices": {"A": 1, "C": 25}}, "letters A, B, C ... in order"),
        ({"choices": ["25", "25"]}, "the same text twice"),
        ({"choices": ["1", "2"]}, "answer '25' is none of the choices: give its letter (A, B)"),
        ({"choices": ["1", "25"], "tolerance": 1}, "leave answers and tolerance out"),
        ({"image": {"full-txt": "img/p1.png"}}, "unknown view 'full-txt'"),
        ({"image": ["img/p1.png", 5]}, "image is a number, not a string"),
        ({"subject": 3}, "subject is a number"),
    ],
)  # fmt: skip
def test_what_a_line_may_not_say_is_one_line_with_its_remedy(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    file = write(tmp_path / "d", line(**changes))
    with pytest.raises(UserError, match=re.escape(words)):
        list(pairs.read(file))
    assert [fault.line for fault in pairs.check(file).errors] == [1]


@pytest.mark.parametrize("choices", [["a"], "xx", ["a", "a"], ["1", None], {"A": 1, "C": 2}, []])
def test_bad_choices_are_one_complaint(tmp_path: Path, choices: Any) -> None:
    """That the answer, a letter, is no number is not a fault of its own."""
    file = write(tmp_path / "d", line(choices=choices, answer="B"), line(id="q", answer="B"))
    assert [(fault.line, fault.kind) for fault in pairs.check(file).errors] == [
        (1, "duplicate-key" if choices == ["a", "a"] else "wrong-type"),
        (2, "not-a-number"),
    ]


def test_the_schema_and_the_reader_know_the_same_keys(tmp_path: Path) -> None:
    schema = json.loads(pairs.SCHEMA.read_text())
    assert set(schema["properties"]) == {*KEYS, *VIEWS, *(view.replace("-", "_") for view in VIEWS)}
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(schema)
    checker.check_schema(schema)
    sound = [
        line(), line(id=3, prompts=..., text="a", conditions=["b"], subject="c"),
        line(answer=..., answers=[1, "2"], tolerance="1%"), line(choices=["1", 25]),
        line(image=["a.png", "b.png"]), line(image={"full-text": "a.png"}),
        line(prompts=..., full_text="a", image_only="b"),
    ]  # fmt: skip
    assert all(checker.is_valid(value) for value in sound)
    faulty = [
        line(id=...), line(answer=...), line(prompts=...), line(prompts={"full-txt": "a"}),
        line(image=5), line(text="a"), line(answers=[3]), line(tolerance=-1), line(choices=["1"]),
    ]  # fmt: skip
    assert not any(checker.is_valid(value) for value in faulty)
