"""Reading and checking PGPS9K's layout: what is sound is read as it stands, what is not is named,
all of it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from folders import CORNER_DIAGRAMS, CORNERS, png, real_folder, record, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from modgap.core.errors import UserError
from modgap.datasets import pgps9k
from modgap.datasets.faults import Report
from modgap.datasets.json_file import entries


def found(report: Report) -> list[tuple[str, int, str, str]]:
    """File, line, record and kind of each error."""
    return [(fault.file, fault.line, fault.record, fault.kind) for fault in report.errors]


def kinds(folder: Path) -> list[str]:
    return [fault.kind for fault in pgps9k.check(folder).errors]


# ---- reading -------------------------------------------------------------------------------------


def test_read_gives_the_record_as_it_stands(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "d", test={"prob_9": record(), "prob_2": record(type="Angle ", choices=[1, 2.5])}
    )
    first, second = pgps9k.read(folder)
    assert (first.id, first.index, first.split) == ("prob_9", 0, "test")
    assert (first.question, first.answer) == ("Find x.", "25.000")
    assert first.structural == ("line A B C", "line B D") and first.semantic == ("AB = 7", "BC = x")
    assert first.image == folder / "Diagram_Visual" / "img_1.png" and first.image_bytes() == png()
    with mock.patch(
        "os.read", lambda file, size: os.pread(file, size // 2, 0)
    ):  # as some file systems may
        assert first.image_bytes() == png()
    assert (second.id, second.index, second.type, second.choices) == (
        "prob_2",
        1,
        "Angle",
        (1.0, 2.5),
    )


def test_limit_and_split(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", train={f"p{number}": record() for number in range(5)})
    assert [problem.id for problem in pgps9k.read(folder, "train", limit=2)] == ["p0", "p1"]
    assert len([*pgps9k.read(folder, "train", limit=99)]) == 5
    with pytest.raises(UserError, match="unknown split 'val': choose from test, train"):
        pgps9k.read(folder, "val")
    with pytest.raises(UserError, match="limit 0: must be at least 1"):
        pgps9k.read(folder, limit=0)


def test_read_asks_for_no_more_than_it_uses(tmp_path: Path) -> None:
    bare = record(expression=..., type=..., book=..., page=..., choices=...)
    folder = write_folder(tmp_path / "d", test={"p": bare}, diagrams={})
    with pytest.raises(
        UserError, match=r"test\.json line 2, p: the diagram Diagram_Visual/img_1\.png is absent"
    ):
        list(pgps9k.read(folder))
    (problem,) = pgps9k.read(folder, need_images=False)
    assert (problem.image, problem.type, problem.choices) == (None, "", ())


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("img_1.png", True),
        ("in/img.png", True),
        ("link", True),
        ("loose", False),
        ("in", False),
        ("round", False),
    ],
)
def test_what_counts_as_a_diagram_that_is_there(tmp_path: Path, name: str, there: bool) -> None:
    folder = write_folder(tmp_path / "d", train={"p": record(diagram=name)})
    diagrams = folder / "Diagram_Visual"
    (diagrams / "in").mkdir()
    (diagrams / "in" / "img.png").write_bytes(png())
    for link, to in {"link": "in/img.png", "loose": "nothing", "round": "round"}.items():
        (diagrams / link).symlink_to(to)
    if there:
        assert [problem.image for problem in pgps9k.read(folder, "train")] == [diagrams / name]
    else:
        what = "a folder, not a regular file" if name == "in" else "absent"
        with pytest.raises(UserError, match=f"the diagram Diagram_Visual/{name} is {what}"):
            list(pgps9k.read(folder, "train"))


def test_worked_solutions_are_read_beside_the_problems(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    (folder / "solutions.json").write_text(
        json.dumps({"train/prob_1": "<think>t</think>", "test/prob_1": "other"})
    )
    assert [problem.solution for problem in pgps9k.read(folder, "train")] == ["<think>t</think>"]
    assert [problem.solution for problem in pgps9k.read(folder, "test")] == [None]
    (folder / "solutions.json").write_text("{")
    with pytest.raises(UserError, match=r"solutions\.json: is not valid JSON"):
        list(pgps9k.read(folder))
    assert kinds(folder) == ["malformed"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            record(answer="twelve"),
            "p: answer 'twelve' is not a finite number: write a decimal such as '25.000'",
        ),
        (record(text=...), "p: text is missing"),
        (
            record(diagram="../img.png"),
            "p: diagram '../img.png' leads out of Diagram_Visual/: name a file in it",
        ),
    ],
)
def test_read_stops_at_a_faulty_record_and_names_it(
    tmp_path: Path, value: Any, message: str
) -> None:
    folder = write_folder(tmp_path / "d", test={"sound": record(), "p": value})
    problems = pgps9k.read(folder)
    assert next(problems).id == "sound"
    with pytest.raises(UserError) as caught:
        next(problems)
    assert (
        message in str(caught.value)
        and "modgap data check" in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    for use in (pgps9k.read, pgps9k.check):
        with pytest.raises(
            UserError,
            match=r"no_such does not exist: give the folder that holds train\.json",
        ):
            use(tmp_path / "no_such")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        pgps9k.check(tmp_path / "file")


# ---- checking ------------------------------------------------------------------------------------


def test_a_sound_folder_has_no_fault_and_is_counted(tmp_path: Path) -> None:
    train = {
        "a": record(),
        "b": record(text="If AB = 7, find x."),
        "c": record(parsing_stru_seqs=[], parsing_sem_seqs=[]),
    }
    report = pgps9k.check(write_folder(tmp_path / "d", train=train))
    assert report.ok and report.faults == []
    counts = report.splits["train"]
    assert (counts.problems, counts.leaky, counts.bare, counts.images) == (3, 1, 1, 1)
    assert counts.types == {"Line Segment": 3}
    assert report.splits["test"].problems == 1 and report.shared_images == 1


FAULTY: dict[str, tuple[Any, str]] = {
    "no object": ([1], "wrong-type"),
    "text is no string": (record(text=5), "wrong-type"),
    "text is null": (record(text=None), "wrong-type"),
    "text is empty": (record(text="  "), "empty"),
    "text is half a character": (record(text="Find \ud800."), "encoding"),
    "clauses in one string": (record(parsing_stru_seqs="line A B"), "wrong-type"),
    "clause is a number": (record(parsing_sem_seqs=["AB = 7", 7]), "wrong-type"),
    "answer is a number": (record(answer=25.0), "wrong-type"),
    "answer in words": (record(answer="twelve"), "not-a-number"),
    "answer with a unit": (record(answer="25 cm"), "not-a-number"),
    "answer with an underscore": (record(answer="1_000"), "not-a-number"),
    "answer is infinite": (record(answer="inf"), "not-a-number"),
    "answer overflows": (record(answer="1e999"), "not-a-number"),
    "answer is not a number": (record(answer="nan"), "not-a-number"),
    "answer is empty": (record(answer=""), "empty"),
    "diagram leads out": (record(diagram="../test.json"), "image-path"),
    "diagram leads out on the way": (record(diagram="a/../../x.png"), "image-path"),
    "diagram is absolute": (record(diagram="/etc/passwd"), "image-path"),
    "diagram is absent": (record(diagram="img_9.png"), "image-absent"),
    "diagram is a folder": (record(diagram="."), "image-absent"),
    "diagram has too long a name": (record(diagram="x" * 5000), "image-absent"),
    "diagram is not an image": (record(diagram="words.png"), "image-broken"),
    "diagram is empty": (record(diagram="empty.png"), "image-broken"),
    "diagram is torn": (record(diagram="torn.png"), "image-broken"),
    "choices are no list": (record(choices=4), "wrong-type"),
    "choices hold a string": (record(choices=["1"]), "wrong-type"),
    "choices hold infinity": (record(choices=[float("inf")]), "not-a-number"),
    "choices hold a huge integer": (record(choices=[10**400]), "not-a-number"),
    **{f"no {key}": (record(**{key: ...}), "missing-key") for key in record()},
}
BROKEN_DIAGRAMS = {
    "img_1.png": png(),
    "words.png": b"no image",
    "empty.png": b"",
    "torn.png": png("white", (400, 300))[:-30],
}


def test_every_faulty_record_is_named_with_its_line(tmp_path: Path) -> None:
    """All in one folder: no fault hides another."""
    train = {name: value for name, (value, _) in FAULTY.items()}
    folder = write_folder(tmp_path / "d", train=train, diagrams=BROKEN_DIAGRAMS)
    lines = (folder / "train.json").read_text().split("\n")
    expected = [
        (
            "train.json",
            lines.index(f"    {json.dumps(name)}: " + ("[" if name == "no object" else "{")) + 1,
            name,
            kind,
        )
        for name, (_, kind) in FAULTY.items()
    ]
    report = pgps9k.check(folder)
    assert found(report) == expected
    assert all("\n" not in str(fault) for fault in report.faults)
    unfit = ("image-absent", "image-broken")
    assert report.splits["train"].problems == sum(kind in unfit for _, kind in FAULTY.values())


@pytest.mark.parametrize("answer", ["25.000", "-0.5", "+3", ".5", "5.", "1e3", " 7 "])
def test_a_decimal_is_a_sound_answer(tmp_path: Path, answer: str) -> None:
    assert kinds(write_folder(tmp_path / "d", test={"p": record(answer=answer)})) == []


def test_two_faults_of_one_record_are_both_named(tmp_path: Path) -> None:
    report = pgps9k.check(
        write_folder(tmp_path / "d", test={"p": record(answer="x", text=..., choices=None)})
    )
    assert [fault.message for fault in report.errors] == [
        "text is missing",
        "answer 'x' is not a finite number: write a decimal such as '25.000'",
        "choices is null, not a list of numbers",
    ]


def test_missing_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    (folder / "train.json").unlink()
    (folder / "Diagram_Visual" / "img_1.png").unlink()
    (folder / "Diagram_Visual").rmdir()
    assert found(pgps9k.check(folder)) == [
        ("train.json", 0, "", "missing-file"),
        ("Diagram_Visual", 0, "", "missing-file"),
    ]
    with pytest.raises(UserError, match=r"train\.json: there is no such file"):
        list(pgps9k.read(folder, "train"))


def test_an_id_given_twice(tmp_path: Path) -> None:
    """`json` would keep the last without a word."""
    one, two = json.dumps(record()), json.dumps(record(answer="x"))
    folder = write_folder(
        tmp_path / "d", train=f'{{"p":\n{one},\n"q": {one},\n"p": {two}}}', test={"q": record()}
    )
    report = pgps9k.check(folder)
    assert found(report) == [
        ("train.json", 4, "p", "not-a-number"),
        ("train.json", 4, "p", "duplicate-id"),
        ("test.json", 2, "q", "duplicate-id"),
    ]
    assert "stands in line 1 already" in str(
        report.errors[1]
    ) and "stands in train.json already" in str(report.errors[2])
    with pytest.raises(UserError, match="line 4, p"):
        list(pgps9k.read(folder, "train"))


def test_a_key_given_twice(tmp_path: Path) -> None:
    twice = json.dumps(record())[:-1] + ', "answer": "26.000"}'
    folder = write_folder(tmp_path / "d", test=f'{{"p": {twice}}}')
    assert [str(fault) for fault in pgps9k.check(folder).errors] == [
        "test.json line 1, p: answer is given twice: keep one"
    ]


def test_a_truncated_file_names_the_record_and_what_stands_before_is_checked(
    tmp_path: Path,
) -> None:
    whole = json.dumps(
        {"a": record(answer="x"), "b": record(), "prob_57": record(), "d": record()}, indent=4
    )
    line = whole[: whole.index("Find x.", whole.index("prob_57"))].count("\n") + 1
    cut = whole[: whole.index("Find x.", whole.index("prob_57")) + 3]
    folder = write_folder(tmp_path / "d", train=cut)
    report = pgps9k.check(folder)
    assert found(report) == [
        ("train.json", 2, "a", "not-a-number"),
        ("train.json", line, "prob_57", "truncated"),
    ]
    assert (
        str(report.errors[1])
        == f"train.json line {line}, prob_57: the file is truncated in this record (Unterminated"
        " string, column 17): copy it again; read before it: 2 records"
    )
    assert report.splits["train"].problems == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_wherever_a_file_is_cut_the_whole_records_are_read_and_the_break_is_named(
    data: st.DataObject,
) -> None:
    whole = json.dumps(
        {f"p{number}": record() for number in range(3)},
        indent=data.draw(st.sampled_from([None, 2])),
    )
    cut = data.draw(st.integers(0, len(whole) - 1))
    *before, last = entries("f.json", whole[:cut])
    assert last.kind == "truncated"
    ends = [whole.index("}", whole.index(f'"p{number}"')) + 1 for number in range(3)]
    assert [name for name, _, _ in before] == [
        f"p{number}" for number in range(3) if ends[number] <= cut
    ]
    starts = [whole.index(f'"p{number}"') + 4 for number in range(3)]
    inside = [f"p{number}" for number in range(3) if starts[number] <= cut < ends[number]]
    assert last.record == (inside[0] if inside else "")


@pytest.mark.parametrize(
    ("text", "kind", "where", "words"),
    [
        ("", "truncated", (0, ""), "is an empty file"),
        (" \n ", "truncated", (0, ""), "is an empty file"),
        ("[]", "not-an-object", (1, ""), "starts with '['"),
        ("\n\n7", "not-an-object", (3, ""), "starts with '7'"),
        (
            '{\n"a": {},\n"b": {"x" 1}\n}',
            "malformed",
            (3, "b"),
            "Expecting ':' delimiter, column 11",
        ),
        ('{\n"a": {}\n"b": {}\n}', "malformed", (3, ""), "Expecting ',', column 1"),
        ('{\n"a": {},\n}', "malformed", (3, ""), "Expecting an id in double quotes"),
        ("{\n'a': {}}", "malformed", (2, ""), "Expecting an id in double quotes"),
        ('{"a": {}}\n{"b": {}}', "malformed", (2, ""), "Something follows the object"),
        ('{"a":\n {"x": "line\nend"}}', "malformed", (2, "a"), "Invalid control character"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "malformed", (1, "a"), "recursion"),
        ('{"a": {"choices": [' + "1" * 5000 + "]}}", "malformed", (1, "a"), "4300 digits"),
    ],
)
def test_a_malformed_file_names_line_column_and_record(
    tmp_path: Path, text: str, kind: str, where: tuple[int, str], words: str
) -> None:
    folder = write_folder(tmp_path / "d", train=text)
    (fault,) = [
        fault
        for fault in pgps9k.check(folder).errors
        if fault.kind in ("truncated", "malformed", "not-an-object")
    ]
    assert (fault.kind, fault.line, fault.record) == (kind, *where)
    assert words in fault.message and "\n" not in str(fault)
    with pytest.raises(UserError):
        list(pgps9k.read(folder, "train"))


def test_encodings(tmp_path: Path) -> None:
    text = json.dumps({"p": record(text="Find m \\angle é.")}, indent=1, ensure_ascii=False)
    assert kinds(write_folder(tmp_path / "utf8", test=text.encode())) == []
    windows = write_folder(tmp_path / "crlf", test=text.replace("\n", "\r\n").encode())
    assert kinds(windows) == [] and next(pgps9k.read(windows)).question == "Find m \\angle é."

    mark = write_folder(tmp_path / "mark", test=text.encode("utf-8-sig"))
    report = pgps9k.check(mark)
    assert report.ok and [fault.kind for fault in report.warnings] == ["byte-order-mark"]
    assert next(pgps9k.read(mark)).question == "Find m \\angle é."

    latin = write_folder(tmp_path / "latin", test=text.encode("latin-1"))
    assert found(pgps9k.check(latin)) == [("test.json", 4, "", "encoding")]
    assert "the byte 0xe9 is not UTF-8" in str(pgps9k.check(latin).errors[0])
    with pytest.raises(UserError, match="save the file as UTF-8"):
        list(pgps9k.read(latin))
    assert found(pgps9k.check(write_folder(tmp_path / "utf16", test=text.encode("utf-16")))) == [
        ("test.json", 0, "", "encoding")
    ]


def test_an_empty_split_is_a_warning_and_an_empty_data_set_an_error(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", train="{}")
    report = pgps9k.check(one)
    assert report.ok and [(fault.file, fault.kind) for fault in report.warnings] == [
        ("train.json", "empty")
    ]
    assert list(pgps9k.read(one, "train")) == []
    assert kinds(write_folder(tmp_path / "both", train="{}", test=" {\n} \n")) == ["empty"]


def test_unknown_clauses_are_counted_once_a_file(tmp_path: Path) -> None:
    report = pgps9k.check(write_folder(tmp_path / "d", test=CORNERS, diagrams=CORNER_DIAGRAMS))
    assert report.ok
    (warning,) = report.warnings
    assert (warning.file, warning.kind) == ("test.json", "unknown-clause")
    # `polygon A B C`, two empty ones; six of `unknown`. `line m lieson` has the form of `line A B`.
    assert warning.message.startswith("9 structural clauses of a form that is not known")
    assert "'polygon A B C' in nothing_said" in warning.message


def test_one_diagram_of_many_problems_is_decoded_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", train={f"p{number}": record() for number in range(9)})
    told: list[tuple[int, int]] = []
    pgps9k.check(folder, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]


# ---- real records --------------------------------------------------------------------------------


def test_real_records_are_sound() -> None:
    folder = real_folder()
    report = pgps9k.check(folder)
    assert report.ok, report.errors[:3]
    for split in pgps9k.SPLITS:
        raw = json.loads((folder / f"{split}.json").read_text())
        problems = list(pgps9k.read(folder, split))
        assert [problem.id for problem in problems] == list(raw)
        assert [problem.index for problem in problems] == list(range(len(raw)))
        assert (
            report.splits[split].problems
            == len(raw)
            == sum(report.splits[split].types.values())
            > 0
        )
        for problem, value in zip(problems, raw.values(), strict=True):
            assert (problem.question, problem.answer) == (value["text"], value["answer"])
            assert [*problem.structural] == value["parsing_stru_seqs"] and [
                *problem.semantic
            ] == value["parsing_sem_seqs"]
            assert list(problem.choices) == value["choices"]
            assert min(problem.open_image().size) > 0
