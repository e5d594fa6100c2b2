"""Anybody's JSONL: what it may say, and how what it may not say is named."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from folders import png

from modgap.core.errors import UserError
from modgap.core.prompt import training_question
from modgap.datasets import pairs

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
    assert pairs.check(file).faults == []
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
        report.faults == []
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
    assert [fault.kind for fault in report.warnings] == ["unknown-key", "unpaired"]
    assert "'image_path' is not known and passed over, in 1 lines" in report.warnings[0].message
    assert (
        "1 problems have no prompt for one of full-text, image-only (p1)"
        in report.warnings[1].message
    )


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    assert found(write(tmp_path / "d")) == [(0, "", "empty")]
