"""The reward as verl and TRL call it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modgap import grade_answer
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow, Response
from modgap.rewards import compute_score, gap_reward
from modgap.workflows.grade import grade_run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from grading_corpus import generate, label, outcome

GOOD = r"<think>5 is it</think>\boxed{5}"


@pytest.mark.parametrize(
    ("response", "score", "acc", "form"),
    [
        (GOOD, 1.0, 1.0, 1.0),
        (r"<think>5 is it</think>\boxed{6}", 0.1, 0.0, 1.0),
        (
            r"\boxed{5}",
            0.9,
            0.0,
            0.0,
        ),  # right but not well formatted: `acc` is the paper's, so it is 0
        ("5", 0.0, 0.0, 0.0),
    ],
)
def test_verl_gets_score_acc_and_format(
    response: str, score: float, acc: float, form: float
) -> None:
    result = compute_score("9k", response, "5.000", {"index": 3}, some_new_argument=1)
    assert result == {"score": pytest.approx(score), "acc": acc, "format": form, "ungraded": 0.0}
    assert (result["score"] == 1.0) == (result["acc"] == 1.0)


def test_a_null_from_a_server_is_an_empty_response() -> None:
    assert compute_score("9k", None, "5.000") == compute_score("9k", "", "5.000")
    assert compute_score("9k", None, "5.000")["score"] == 0.0
    nulls = [
        None,
        [{"role": "assistant", "content": None}],
        [{"role": "assistant", "tool_calls": []}],
    ]
    assert gap_reward([*nulls, GOOD], answer=["5.000"] * 4) == [0.0, 0.0, 0.0, 1.0]


def test_the_tolerance_decides() -> None:
    near, rounded, same = (
        rf"<think></think>\boxed{{{answer}}}" for answer in ("7.04", r"5\sqrt{2}", "7.071")
    )
    for tolerance, right in (("exact", (0, 0, 1)), ("strict", (0, 1, 1)), ("relative", (1, 1, 1))):
        scores = tuple(
            compute_score("9k", r, "7.071", tolerance=tolerance)["acc"]
            for r in (near, rounded, same)
        )  # type: ignore[arg-type]
        assert scores == right


def test_a_gold_that_is_no_number_is_counted_and_not_scored() -> None:
    assert compute_score("9k", GOOD, "a square") == {
        "score": 0.1,
        "acc": 0.0,
        "format": 1.0,
        "ungraded": 1.0,
    }
    with pytest.warns(UserWarning, match="a square"):
        assert gap_reward([GOOD, GOOD], answer=["5", "a square"]) == [1.0, None]


@pytest.mark.parametrize("gold", [5, 5.0, np.float64(5), np.int32(5)])
def test_a_gold_may_be_a_number(gold: Any) -> None:
    assert compute_score("9k", GOOD, gold)["score"] == 1.0
    assert gap_reward([GOOD], answer=[gold]) == [1.0]
    assert grade_answer(GOOD, gold).outcome == "correct"


@pytest.mark.parametrize("gold", [None, [5, 6], float("nan")])
def test_a_gold_that_is_neither_text_nor_a_number_is_counted(gold: Any) -> None:
    assert compute_score("9k", GOOD, gold)["ungraded"] == 1.0
    with pytest.warns(UserWarning, match="^1 gold answer in"):
        assert gap_reward([GOOD], answer=[gold]) == [None]


def test_the_reward_and_a_graded_run_agree(tmp_path: Path) -> None:
    """At the same tolerance, on generated answers of every kind; the labels of the generator hold,
    too.
    """
    answers = [answer for answer in generate(1_500, seed=7) if not answer.question]
    run = RunFolder(tmp_path / "run")
    run.start("eval", {}, {})
    run.write_problems(
        ProblemRow(id=f"prob_{n}", answer=answer.gold) for n, answer in enumerate(answers)
    )
    with run.appending() as writer:
        for n, answer in enumerate(answers):
            said = {"prompt": "", "response": answer.response, "finish_reason": "stop"}
            writer.write(Response(problem_id=f"prob_{n}", view="image-only", sample=0, **said))  # type: ignore[arg-type]
    for mode in ("strict", "relative", "exact"):
        grade_run(run, mode)  # type: ignore[arg-type]
        graded = {row.problem_id: row for row in run.grades(mode)}
        for n, answer in enumerate(answers):
            row = graded[f"prob_{n}"]
            given = compute_score("9k", answer.response, answer.gold, tolerance=mode)  # type: ignore[arg-type]
            assert (given["score"] >= 0.9) == (row.outcome == "correct"), (answer, row)
            assert bool(given["ungraded"]) == (row.stage == "gold")
            if wanted := label(answer, mode):
                assert outcome(mode, (row.outcome, row.stage)) == wanted, (answer, row)


pieces = st.sampled_from(
    ["<think>", "</think>", "\\boxed{", "}", "5", "5.000", "6", "4.9", "x=5", "^\\circ", " ", "\n"]
)


@settings(deadline=None)
@given(st.lists(pieces, max_size=9).map("".join))
def test_exact_is_the_original_reward(response: str) -> None:
    from mathruler.grader import extract_boxed_content, grade_answer

    acc = grade_answer(extract_boxed_content(response), "5.000")
    form = re.fullmatch(r"<think>.*</think>.*\\boxed\{.*\}.*", response, re.DOTALL) is not None
    assert (
        compute_score("9k", response, "5.000", tolerance="exact")["score"] == 0.9 * acc + 0.1 * form
    )


@pytest.mark.parametrize("column", ["ground_truth", "answer", "solution"])
def test_trl_may_send_strings_or_conversations(column: str) -> None:
    parts = [{"type": "text", "text": "<think></think>"}, {"type": "text", "text": r"\boxed{5}"}]
    completions = [
        GOOD,
        [{"role": "assistant", "content": GOOD}],
        [{"role": "assistant", "content": parts}],
        "?",
        [],
    ]
    scores = gap_reward(
        completions=completions,
        prompts=["p"] * 5,
        completion_ids=[[1]] * 5,
        trainer_state=None,
        **{column: ["5.000"] * 5},
    )
    assert scores == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_trl_thinking_parts_are_thinking_and_a_part_without_words_is_refused() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": r"\boxed{6}"}]}
    message = {"role": "assistant", "content": [thinking, {"type": "text", "text": r"\boxed{5}"}]}
    assert gap_reward([[message], [{**message, "content": [thinking]}]], answer=["5", "6"]) == [
        1.0,
        0.0,
    ]
    apart = {"role": "assistant", "content": r"\boxed{5}", "reasoning_content": r"\boxed{6}"}
    assert gap_reward([[apart], [{**apart, "content": None}]], answer=["5", "6"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="'image'"):
        gap_reward([[{"role": "assistant", "content": [{"type": "image"}]}]], answer=["5"])


def test_trl_without_gold_answers_is_told_which_columns_serve() -> None:
    with pytest.raises(ValueError, match="ground_truth, answer, solution"):
        gap_reward([GOOD], prompts=["p"])
    with pytest.raises(ValueError, match="1 completions but 2 values"):
        gap_reward([GOOD], answer=["5", "6"])
