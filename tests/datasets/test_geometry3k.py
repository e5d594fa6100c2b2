"""Geometry3K's files: every layout gives the same problems, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from folders import png
from geometry3k_data import (
    LOGIC,
    PROBLEM,
    hub_row,
    write_parquet,
    write_problem,
    write_splits,
)

from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import contrastive_question, evaluation_prompt, training_question
from modgap.datasets.faults import Report
from modgap.datasets.geometry3k.check import check, check_choices
from modgap.datasets.geometry3k.read import read, read_choices
from modgap.datasets.recognise import benchmark_of
from modgap.training.setup import digest
from modgap.workflows.fingerprints import fingerprint


def kinds(report: Report) -> list[str]:
    return [fault.kind for fault in report.faults]


def one(folder: Path, **changes: Any) -> Problem:
    write_problem(folder / "7", **changes)
    (problem,) = read(folder)
    return problem


# ---- the original layout -------------------------------------------------------------------------


def test_the_splits_of_the_original_layout(tmp_path: Path) -> None:
    write_splits(tmp_path)
    assert [problem.id for problem in read(tmp_path, "train")] == ["1", "2"]
    assert [problem.id for problem in read(tmp_path, "val")] == ["3"]
    test = list(read(tmp_path))
    assert [(p.id, p.index, p.split) for p in test] == [("4", 0, "test"), ("10", 1, "test")]
    assert [problem.id for problem in read(tmp_path, limit=1)] == ["4"]
    assert benchmark_of(tmp_path) == "geometry3k"
    report = check(tmp_path)
    assert report.faults == []
    assert {split: counts.problems for split, counts in report.splits.items()} == {
        "train": 2, "val": 1, "test": 2
    }  # fmt: skip
    assert report.splits["train"].leaky == 2 and report.splits["train"].bare == 0


def test_a_problem(tmp_path: Path) -> None:
    problem = one(tmp_path)
    assert problem.question == "If AD = 27, find BC." and problem.leaky
    assert (problem.answer, problem.grader, problem.type) == ("10", "", "Line, Triangle")
    assert problem.structural == ("line D E A", "line A B C")
    assert problem.semantic == ("EB \\parallel DC", "AB = 4y-10")
    assert problem.open_image().size == (40, 30)
    said = "E is on line DA, B is on line AC, EB \\parallel DC, AB = 4y-10"
    assert training_question(problem, "full-text") == (
        f"In this problem, {said}.\nBased on these conditions, answer the question: If AD = 27,"
        " find BC."
    )
    assert training_question(problem, "image-only") == (
        "Based on the information in the image, answer the question: If AD = 27, find BC."
    )
    assert training_question(problem, "as-published") == "If A D = 27, find B C."
    assert evaluation_prompt(problem, "as-published", "paper").text.startswith("If A D = 27")


def test_the_question_is_shown_without_what_the_diagram_states(tmp_path: Path) -> None:
    logic = {
        "diagram_logic_form": ["Equals(LengthOf(Line(D, A)), 27)", "Parallel(Line(E,B),Line(D,C))"]
    }
    problem = one(tmp_path, logic=logic)
    assert not problem.leaky
    for view in ("image-only", "question-only", "blank-image", "transcribe"):
        assert "27" not in evaluation_prompt(problem, view).text
        assert "ind BC" in evaluation_prompt(problem, view).text
    assert "27" not in contrastive_question(problem)
    for view in ("full-text", "text-only", "swapped-image"):
        for style in ("aligned", "paper"):
            text = evaluation_prompt(problem, view, style).text
            assert "DA = 27" in text and "If AD = 27, find BC." in text
    plain = one(tmp_path / "other")
    assert fingerprint([problem]) != fingerprint([plain]) and digest([problem]) != digest([plain])


def test_multiple_choice(tmp_path: Path) -> None:
    write_problem(tmp_path / "7")
    (problem,) = read_choices(tmp_path)
    block = "\nChoices:\nA. 8\nB. 10\nC. 6\\sqrt{3}\nD. 13.5"
    assert (problem.answer, problem.grader) == ("B", "choices:multi-choice")
    for view in ("full-text", "image-only", "as-published"):
        assert training_question(problem, view).endswith(block)
    logic = {"text_logic_form": ["Find(LengthOf(Line(B,C)))"]}
    write_problem(tmp_path / "bare" / "7", logic, problem_text="Find x.", compact_text="Find x.")
    (unstated,) = read_choices(tmp_path / "bare")
    assert not unstated.leaky  # the numbers of the choices are no condition


@pytest.mark.parametrize(
    ("answer", "gold"), [("A", "8"), ("C", "6\\sqrt{3}"), ("D", "13.5"), ("10.5", "10.5")]
)
def test_the_gold_answer_is_a_number(tmp_path: Path, answer: str, gold: str) -> None:
    assert one(tmp_path, answer=answer).answer == gold


def test_a_choice_that_no_grader_reads_counts_by_its_precise_value(tmp_path: Path) -> None:
    problem = one(tmp_path, compact_choices=["8", "ten and a bit", "3", "4"])
    assert problem.answer == "10.0"


# ---- the hub's files -----------------------------------------------------------------------------


def test_the_hubs_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [hub_row(), hub_row()])
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [hub_row()])
    test = write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [hub_row(answer="7")])
    (problem,) = read(tmp_path)
    assert (problem.id, problem.question, problem.answer) == ("test-1", "Find x.", "7")
    assert problem.image_bytes() == png() and problem.image_at == f"{test}#1"
    assert [p.id for p in read(tmp_path, "train")] == ["train-1", "train-2"]
    assert [p.id for p in read(test)] == ["test-1"]
    report = check(tmp_path)
    assert report.ok and kinds(report) == ["no-logic-forms", "leak"]
    assert "no gap can be measured" in report.faults[0].message
    assert report.splits["train"].bare == 2 and report.shared_images == 1
    assert benchmark_of(test) == "geometry3k"


def test_further_diagrams_of_a_row_are_a_warning(tmp_path: Path) -> None:
    two = hub_row() | {"images": hub_row()["images"] * 2}
    write_parquet(tmp_path / "test.parquet", [two])
    assert check(tmp_path).ok and "several-images" in kinds(check(tmp_path))


@pytest.mark.parametrize("nested", ["columns", "object", "json"])
def test_parquet_with_logic_forms(tmp_path: Path, nested: str) -> None:
    logic = {key: LOGIC[key] for key in ("text_logic_form", "diagram_logic_form")}
    more: dict[str, Any] = logic
    if nested != "columns":
        more = {"logic_form": json.dumps(logic) if nested == "json" else logic}
    row = hub_row(problem="<image>If AD = 27, find BC.", choices=PROBLEM["choices"], answer="B")
    write_parquet(tmp_path / "test.parquet", [row | more])
    (problem,) = read(tmp_path)
    assert problem.semantic == ("EB \\parallel DC", "AB = 4y-10") and problem.answer == "10"
    (chosen,) = read_choices(tmp_path)
    assert chosen.answer == "B" and check_choices(tmp_path).ok


def test_choices_in_the_text_of_a_row(tmp_path: Path) -> None:
    text = "<image>Find x.\nChoices:\nA. 3\nB. 25"
    write_parquet(tmp_path / "test.parquet", [hub_row(problem=text, answer="B")])
    (free,), (chosen,) = read(tmp_path), read_choices(tmp_path)
    assert (free.question, free.answer) == ("Find x.", "25")
    assert (chosen.question, chosen.answer) == ("Find x.\nChoices:\nA. 3\nB. 25", "B")


def test_rows_as_json_lines(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png())
    row = PROBLEM | LOGIC | {"id": 5, "image": "one.png", "data_type": "test"}
    (tmp_path / "problems.jsonl").write_text(json.dumps(row) + "\n")
    (problem,) = read(tmp_path / "problems.jsonl")
    assert problem.id == "5" and problem.structural == ("line D E A", "line A B C")
    assert list(read(tmp_path / "problems.jsonl", "train")) == []


def test_annotated_forms_beside_the_problems(tmp_path: Path) -> None:
    write_problem(tmp_path / "examples" / "7", logic={})
    diagram = {"diagram_logic_forms": ["Equals(LengthOf(Line(A, B)), 9)"]}
    (tmp_path / "diagram_logic_forms_annot.json").write_text(
        json.dumps({"7": diagram, "9": {"diagram_logic_forms": ["Equals(Cirle(A), 9)", "Foo(A)"]}})
    )
    (problem,) = read(tmp_path)
    assert problem.semantic == ("AB = 9",)
    report = check(tmp_path)
    assert report.ok
    assert kinds(report) == ["repaired-form", "unknown-predicate", "forms-only", "missing-split"]
    assert report.faults[1].record == "9" and "'Foo'" in report.faults[1].message


# ---- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"logic": {"diagram_logic_form": ["Cirle(A)"]}}, "repaired-form"),
        ({"logic": {"diagram_logic_form": ["Find(MeasureOf(Angle(A))"]}}, "repaired-form"),
        ({"logic": {"diagram_logic_form": ["Equals(LengthOf(Line(A,B)),6--y)"]}}, "repaired-form"),
        ({"logic": {"diagram_logic_form": ["Equals(LengthOf(Line(A,B)),6,)"]}}, "repaired-form"),
        (
            {
                "logic": {
                    "diagram_logic_form": ["Equals(LengthOf(Line(A,B)),6)"],
                    "text_logic_form": ["Equals(7.0,LengthOf(Line(B,A)))"],
                }
            },
            "contradiction",
        ),
        ({"logic": {"diagram_logic_form": ["", "Circle(A)"]}}, "empty-form"),
        ({"logic": {"text_logic_form": ["Foo(Line(A,B),3)"]}}, "unknown-predicate"),
        ({"logic": {}}, "no-logic-forms"),
        ({"precise_value": [8, 11, 10, 13.5]}, "golds-differ"),
    ],
)
def test_what_can_be_used_all_the_same_is_a_warning(
    tmp_path: Path, changes: dict[str, Any], kind: str
) -> None:
    write_problem(tmp_path / "test" / "7", **changes)
    report = check(tmp_path)
    assert report.ok and kind in kinds(report)
    assert len(list(read(tmp_path))) == 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"logic": {"diagram_logic_form": ["Foo(Line(A,B),3)"]}}, "unknown-predicate"),
        ({"logic": {"diagram_logic_form": ["Parallel(Line(A,B))"]}}, "malformed-form"),
        ({"logic": {"diagram_logic_form": ["Equals(LengthOf(Line(A,B)),)"]}}, "malformed-form"),
        ({"logic": {"diagram_logic_form": [3]}}, "malformed-form"),
        ({"answer": ...}, "missing-key"),
        ({"answer": "a rectangle", "choices": ..., "compact_choices": ...}, "not-a-number"),
        ({"image": b"no image"}, "image-broken"),
    ],
)
def test_what_cannot_be_used_is_an_error_with_its_problem(
    tmp_path: Path, changes: dict[str, Any], kind: str
) -> None:
    write_problem(tmp_path / "test" / "7", **changes)
    write_problem(tmp_path / "test" / "8")
    report = check(tmp_path)
    assert [(fault.kind, fault.record) for fault in report.errors] == [(kind, "7")]
    if kind != "image-broken":  # `read` does not decode
        with pytest.raises(UserError, match=r"test/7/data\.json, 7: .*data check"):
            list(read(tmp_path))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_problem(tmp_path / "test" / "7")
    write_problem(tmp_path / "test" / "8")
    (tmp_path / "test" / "7" / "logic_form.json").write_text("{torn")
    (tmp_path / "test" / "8" / "data.json").write_text("[1]")
    (tmp_path / "test" / "9").mkdir()
    write_problem(tmp_path / "test" / "11")
    (tmp_path / "test" / "11" / "img_diagram.png").unlink()
    assert [(f.record, f.kind) for f in check(tmp_path).errors] == [
        ("7", "malformed"), ("8", "not-an-object"), ("9", "missing-file"), ("11", "image-absent")
    ]  # fmt: skip


def test_missing_splits_and_leaks_are_warnings(tmp_path: Path) -> None:
    write_problem(tmp_path / "train" / "1")
    write_problem(tmp_path / "test" / "2")
    report = check(tmp_path)
    assert report.ok and kinds(report) == ["missing-split", "leak"]
    assert "no val split" in report.faults[0].message and "1 = 2" in report.faults[1].message
    assert report.shared_images == 1


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_problem(tmp_path / "train" / "1")
    with pytest.raises(UserError, match="has no test split: it has train"):
        read(tmp_path)
    with pytest.raises(UserError, match="unknown split 'dev'"):
        read(tmp_path, "dev")
    with pytest.raises(UserError, match="limit 0"):
        read(tmp_path, "train", 0)


def test_what_is_no_geometry3k(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no problem of Geometry3K: give the folder"):
        read(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        check(tmp_path / "nowhere")


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(png())
    write_problem(tmp_path / "data" / "test" / "7")
    diagram = tmp_path / "data" / "test" / "7" / "img_diagram.png"
    diagram.unlink()
    diagram.symlink_to(outside)
    assert [f.kind for f in check(tmp_path / "data").errors] == ["image-outside"]
    with pytest.raises(UserError, match="leads out of"):
        list(read(tmp_path / "data"))
    assert len(list(read(tmp_path / "data", allow_outside=True))) == 1
