"""Reading a diagram: transcriptions against conditions, and what a report makes of them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from folders import real_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from modgap.analysis.transcription import compare, read_clauses, transcription
from modgap.datasets.synthetic import make_problem

CONDITIONS = ("C is on line AB", "AB = 7", r"m \angle ABC = 35", "DE = 3x-5", r"AB \parallel DE")


def verdict(said: str, *conditions: str, question: str = "Find x.") -> str:
    return compare(said, conditions or CONDITIONS, question).verdict


# Spellings


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("AB = 7", "BA = 7.0"),
        ("AB = 7", "7 = AB"),
        ("AB = 7", r"$\overline{AB} = 7\text{ cm}$"),
        ("AB = 7", "- **AB** = 7"),
        ("AB = 7", "the side AB is 7 units long"),
        ("AB = 7", "AB: 7"),
        ("AB = 12.5", "so we have AB = 12.5."),
        (r"m \angle ABC = 35", "∠CBA = 35°"),
        (r"m \angle ABC = 35", r"\(m\angle{ABC} = 35^\circ\)"),
        (r"m \angle ABC = 35", "angle ABC measures 35 degrees"),
        (r"m \angle ABC = 35", r"\angle B = 35"),  # by its vertex alone
        (r"m \angle 1 = 30", "∠1 = 30"),
        (r"m \widehat AB = 99", r"\overarc{BA} = 99"),
        (r"m major \widehat XZ = 180", r"m major \widehat ZX = 180"),
        (r"l \widehat RS = 4", r"l \widehat SR = 4"),
        ("FW' = x", "W'F = x"),
        ("ED = AC = 15", "AC = 15, DE = 15"),
        ("AB = 12+x", "AB = x + 12"),
        (r"RS = \frac{x}{4}", "RS = x/4"),
        (r"ON = 3\frac{3}{5}", "ON = 3.6"),
        (r"AB = \sqrt{174}", "AB = √174"),
        ("EF = c^{2}+2", "EF = c²+2"),
        ("BC = 4(x-2)", "BC = 4x - 8"),
    ],
)
def test_one_condition_in_many_spellings_is_read_right(condition: str, said: str) -> None:
    assert verdict(f"<think>{said}</think>\\boxed{{1}}", condition) == "read_right"


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("AB = 7", "AB = 8"),
        ("AB = 7", "AC = 7"),
        ("AB = 7", "AB = 7x"),
        ("AB = 3h", "AB = 3"),  # a letter, not hours
        ("AB = 7", "2AB = 7"),
        ("AB = 7", "AC + AB = 7"),
        ("AB = 7", "AB = CD + 7, AB = CD"),
        (r"m \angle ABC = 35", r"m \angle BAC = 35"),
        (r"m \angle ABC = 35", r"m \widehat AC = 35"),
        (r"m major \widehat XZ = 180", r"m \widehat XZ = 180, XZ = 2"),
        ("DE = 3x-5", "DE = 3x+5"),
    ],
)
def test_another_name_or_value_is_a_misreading(condition: str, said: str) -> None:
    found = compare(said, [condition])
    assert found.verdict in ("misread", "unreadable")
    assert found.clauses_read == 0
    assert verdict(condition, condition) == "read_right"


def test_relations_are_symmetric_and_chains_relate_all() -> None:
    facts = {
        fact
        for clause in read_clauses(r"CD \perp BA on D, EF ∥ GH \parallel KL")
        for fact in clause.facts
    }
    assert facts == {
        ("perp", "AB", "CD"), ("parallel", "EF", "GH"), ("parallel", "EF", "KL"),
        ("parallel", "GH", "KL"),
    }  # fmt: skip
    assert compare(r"AB is parallel to DE", CONDITIONS).clauses_read == 1


# Verdicts


def test_misreadings_are_told_apart() -> None:
    right = r"<think>AB = 7, \angle ABC = 35, DE = 3x-5. 3*35 = 105</think>\boxed{105}"
    assert compare(right, CONDITIONS).values_right
    assert (
        verdict(right) == "read_right"
    )  # relations are counted, but the answer is not made of them
    swapped = compare(r"AB = 35, \angle ABC = 7, DE = 3x-5", CONDITIONS)
    assert (swapped.verdict, swapped.values_right, swapped.contradicted) == ("misread", True, 2)
    missing = compare(r"AB = 7, DE = 3x-5", CONDITIONS)
    assert (missing.verdict, missing.values_right, missing.contradicted) == ("misread", False, 0)
    wrong = compare(r"AB = 7, \angle ABC = 36, DE = 3x-5", CONDITIONS)
    assert (wrong.verdict, wrong.values_right, wrong.contradicted) == ("misread", False, 1)
    assert verdict("The answer is 5, because 2*3 - 1 = 5.") == "unreadable"
    assert verdict(r"\boxed{AB = 7}", "AB = 7") == "unreadable"  # an answer, not a transcription


def test_what_is_derived_later_does_not_undo_a_reading() -> None:
    assert verdict("DE = 3x-5, so x = 5 and DE = 10", "DE = 3x-5") == "read_right"


def test_as_many_values_as_are_needed() -> None:
    assert not compare("AB = 7, AB = 7", ["CD = 7", "EF = 7"]).values_right
    assert compare("AB = 7, GH = 7", ["CD = 7", "EF = 7"]).values_right


def test_what_the_question_states_need_not_be_transcribed() -> None:
    question = "If AC = 12 and AB = 25, find BC."
    assert verdict("nothing", "AC = 12", "BA = 25", question=question) == "nothing_to_read"
    assert verdict("BD = 4", "AC = 12", "BD = 4", question=question) == "read_right"
    assert (
        verdict("AB = 7", r"AB \parallel CD", "AD = BC") == "nothing_to_read"
    )  # no condition has a value


SEGMENT = st.permutations("ABCDE").map(lambda points: "".join(points[:2]))
ANGLE = st.permutations("ABCDE").map(lambda points: r"m \angle " + "".join(points[:3]))
VALUE = st.integers(1, 180).map(str) | st.builds(
    "{}x+{}".format, st.integers(2, 9), st.integers(1, 30)
)


def _reversed(name: str) -> str:
    head, _, points = name.rpartition(" ")
    return f"{head} {points[::-1]}".strip()


@given(
    st.dictionaries(SEGMENT | ANGLE, VALUE, min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.data(),
)
def test_order_and_direction_do_not_matter_and_one_wrong_value_does(
    stated: dict[str, str], random: Any, data: st.DataObject
) -> None:
    stated = {
        name: value
        for name, value in stated.items()
        if _reversed(name) not in stated or name < _reversed(name)
    }
    conditions = [f"{name} = {value}" for name, value in stated.items()]
    said = [f"{_reversed(name)} = {value}" for name, value in stated.items()]
    random.shuffle(said)
    assert compare(", ".join(said), conditions).verdict == "read_right"
    name = data.draw(st.sampled_from(sorted(stated)))
    wrong = {**stated, name: stated[name] + "1"}
    found = compare(", ".join(f"{name} = {value}" for name, value in wrong.items()), conditions)
    assert found.verdict == "misread"
    assert found.contradicted == 1
    assert found.clauses_read == len(conditions) - 1


@given(st.text(max_size=300) | st.text(alphabet="AB =.,\\angle{}()m0123x'", max_size=300))
@settings(max_examples=150)
def test_any_text_is_read_without_complaint(text: str) -> None:
    found = compare(text, CONDITIONS, text)
    assert found.clauses_read <= found.clauses
    assert compare(text, [text]).clauses_read == len(read_clauses(text)) or "\\boxed" in text


@pytest.mark.parametrize(
    "part", ["AB = ", "= ", "{", "\\angle ", "A B ", "(", "1 {", "AB is ", "m ", "AB=", "7 cm "]
)
def test_hostile_texts_take_no_time(part: str) -> None:
    started = (
        time.process_time()
    )  # not the clock on the wall: other work on the machine must not count
    compare(part * 20_000, CONDITIONS)
    assert time.process_time() - started < 1


def test_a_transcription_ends_at_the_last_box() -> None:
    assert transcription(r"AB = \boxed{7}, then \boxed{8}") == r"AB = \boxed{7}, then "
    assert transcription("no box") == "no box"


# Data


def test_worked_solutions_of_synthetic_problems_read_right() -> None:
    for index in range(100):
        problem = make_problem(11, index)
        record: dict[str, Any] = problem.record
        found = compare(problem.solution, record["parsing_sem_seqs"], record["text"])
        assert found.verdict == "read_right", (found, problem.solution)
        assert found.clauses_read == found.clauses


def test_every_clause_of_the_real_data_set_is_understood() -> None:
    folder = real_folder()
    for split in ("train", "test"):
        for record in json.loads((folder / f"{split}.json").read_text()).values():
            clauses = record["parsing_sem_seqs"]
            assert [len(read_clauses(clause)) for clause in clauses] == [1] * len(clauses)
            found = compare(", ".join(clauses), clauses)
            assert found.verdict in ("read_right", "nothing_to_read")
            assert found.clauses_read == found.clauses
