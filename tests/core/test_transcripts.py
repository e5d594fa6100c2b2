"""Conditions with one number changed: one that a reader needs, and nothing else."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modgap.analysis.transcription import compare
from modgap.core.prompt import all_conditions, evaluation_prompt
from modgap.core.transcripts import WHOSE, corrupted, writable
from modgap.datasets.synthetic import make_problem
from modgap.testbed.data import to_problem

NUMBER = re.compile(r"\d+(?:\.\d+)?")
VALUE = re.compile(r"=.*[0-9]|May 24")
CLAUSES = st.lists(
    st.sampled_from(
        ["AB = 7", "m \\angle 1 = 35", "CD = 2x+4", "DE = 7.5", "AB \\perp CD on B", "EF = EG",
         "C is on line AB", "x^2 = 9", "GH = \\sqrt[3]{5}", "Kim in May 24", "l \\parallel line 2"]
    ),
    max_size=6, unique=True,
)  # fmt: skip


@given(CLAUSES, st.integers(0, 99), st.sampled_from(["Find x.", "AB = 7. Find x."]))
def test_exactly_one_needed_number_is_another_one(
    clauses: list[str], seed: int, question: str
) -> None:
    changed = corrupted(clauses, question, "p", seed)
    named = set(WHOSE) - {"own-transcription"}
    assert {view for view in named if writable(view, clauses, question)} == (
        named if changed else set()
    )
    assert writable("own-transcription", clauses, question)
    if changed is None:
        free = [clause for clause in clauses if clause not in question]
        assert not any(VALUE.search(clause) for clause in free)
        return
    pairs = [(old, new) for old, new in zip(clauses, changed, strict=True) if old != new]
    ((old, new),) = pairs
    assert VALUE.search(old) and not (old == "AB = 7" and "AB = 7" in question)
    before, after = NUMBER.findall(old), NUMBER.findall(new)
    ((was, now),) = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert NUMBER.sub("#", old) == NUMBER.sub("#", new)
    assert Decimal(now) > 0
    assert (
        abs(Decimal(now) - Decimal(was)) >= Decimal(was) / 10
    )  # no tolerance of a grader hides it
    values = " ".join(clauses).replace("x^2", "x")
    assert Decimal(now) not in {Decimal(number) for number in NUMBER.findall(values)}


@pytest.mark.parametrize(
    "clause",
    ["m \\angle 1 = x", "m \\angle 12 = m \\angle 3", "x^{2} = y", "l \\parallel line 2",
     "\\angle 1 and \\angle 2", "A1", "2 lines meet", "\\angle 1 and 2", "point 7", "circle 2",
     "line k is parallel to 2", "Kim in 2024 24"],
)  # fmt: skip
def test_names_and_exponents_are_no_numbers_to_change(clause: str) -> None:
    assert corrupted([clause], "Find x.", "p", 0) is None


def test_the_change_follows_from_problem_and_seed() -> None:
    clauses = [f"A{letter} = {3 + 7 * n}" for n, letter in enumerate("BCDEFG")]
    of = {
        (name, seed): corrupted(clauses, "", name, seed) for name in "abcdef" for seed in range(6)
    }
    assert all(found == corrupted(clauses, "", *key) for key, found in of.items())
    assert len(set(of.values())) > 20


def test_in_generated_problems_the_changed_words_are_a_misreading_and_the_true_ones_are_not() -> (
    None
):
    seen = 0
    for index in range(60):
        problem = to_problem(make_problem(3, index, "test", (1, 2, 3)), f"p{index}", "test", index)
        if not problem.has_view("corrupted-transcription"):
            continue
        seen += 1
        true, changed = (
            evaluation_prompt(problem, f"{whose}-transcription") for whose in ("true", "corrupted")
        )
        own = evaluation_prompt(problem, "own-transcription")
        assert own.text == true.text == changed.text  # only the words in the answer differ
        assert own.prefill == "<think>" and true.prefill.startswith(own.prefill)
        conditions = all_conditions(problem)
        stated = evaluation_prompt(problem, "full-text-transcription")
        assert stated.prefill == true.prefill and stated.text != true.text
        assert all(clause in stated.text for clause in conditions)
        assert all(clause in true.prefill for clause in conditions)
        assert compare(true.prefill, conditions, problem.question).verdict == "read_right"
        assert compare(changed.prefill, conditions, problem.question).verdict == "misread"
        moved = true.in_user_turn()
        assert (moved.prefill, moved.without_prefill) == ("", "")
        assert all(clause in moved.text for clause in conditions)
    assert seen > 50
