"""The reward for other frameworks: verl's signature (`compute_score`) and TRL's (`gap_reward`).

Both call `grading.answer.reward`, so training, evaluation and the two engines use one rule.
Importing this module loads neither torch nor sympy nor the two frameworks.

Differences from the paper's `compute_score`, which returns a float and has no tolerance: this one
returns a dict (verl logs its other keys), and an answer within 1% of a gold answer that is not an
integer counts as right unless `tolerance="exact"`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from modgap.core.text import counted
from modgap.core.thinking import message_text, reasoning_of
from modgap.grading.answer import Tolerance, as_gold, reward

Message = Mapping[str, Any]
GOLD_COLUMNS = ("ground_truth", "answer", "solution")


def compute_score(
    data_source: str,
    solution_str: str | None,
    ground_truth: str | float,
    extra_info: Mapping[str, Any] | None = None,
    *,
    tolerance: Tolerance = "relative",
    **kwargs: Any,
) -> dict[str, float]:
    """Score one response, with verl's signature for a custom reward function.

    Args:
        data_source: Unused; every source has the same rule.
        solution_str: The response; None, which a server may return for an empty message, is an
            empty response.
        ground_truth: The gold answer, a string or a number.
        extra_info: Unused.
        tolerance: `exact` (the paper's), `strict` or `relative`; verl passes it from
            `reward_kwargs`.
        **kwargs: Other arguments of verl; unused.

    Returns:
        `score`: `0.9 * correct + 0.1 * well formatted`. `acc`: 1.0 only if both, that is, if
            `score` is 1. `format`.
        `ungraded`: 1.0 if the gold answer is not a number, so the response could not be graded.
    """
    result = reward(solution_str or "", as_gold(ground_truth), tolerance)
    return {
        "score": result.score,
        "acc": float(result.acc == 1.0 and result.format == 1.0),
        "format": result.format,
        "ungraded": float(result.ungraded),
    }


def gap_reward(
    completions: Sequence[str | Sequence[Message] | None],
    *,
    tolerance: Tolerance = "relative",
    **columns: Any,
) -> list[float | None]:
    """Score a batch of completions, with the signature of TRL's reward functions.

    Args:
        completions: Strings, or conversations whose last message is the answer (its content a
            string or parts, of which `thinking` is read as `<think>...</think>`). None, as the
            whole or as the content, is an empty response: a server may return null.
        tolerance: As in `compute_score`; bind another one with `functools.partial`.
        **columns: The data set's columns, one value for each completion. The gold answer, a string
            or a number, is `ground_truth`, `answer` or `solution`, the first that exists;
            `prompts`, `trainer_state` and similar columns are ignored.

    Returns:
        One score for each completion; None (TRL: not scored) where the gold answer is not a
        number, with a warning.

    Raises:
        ValueError: If there is no gold column, its length differs from that of `completions`, or a
            part of a message is not text.
    """
    column = next((name for name in GOLD_COLUMNS if columns.get(name) is not None), None)
    if column is None:
        raise ValueError(
            "gap_reward found no gold answers; name the data set's column one of"
            f" {', '.join(GOLD_COLUMNS)}"
        )
    golds = columns[column]
    if len(golds) != len(completions):
        raise ValueError(
            f"{len(completions)} completions but {len(golds)} values in {column!r}; give one for"
            " each"
        )
    results = [
        reward(_text(completion), as_gold(gold), tolerance)
        for completion, gold in zip(completions, golds, strict=True)
    ]
    paired = zip(results, golds, strict=True)
    ungraded = [str(gold)[:40] for result, gold in paired if result.ungraded]
    if ungraded:
        warnings.warn(
            f"{counted(len(ungraded), 'gold answer')} in {column!r} without a number, such as"
            f" {ungraded[0]!r}",
            stacklevel=2,
        )
    return [None if result.ungraded else result.score for result in results]


def _text(completion: str | Sequence[Message] | None) -> str:
    """The text of a completion: the string, or the content of the conversation's last message."""
    if isinstance(completion, str):
        return completion
    if not completion:
        return ""
    return message_text(completion[-1].get("content"), reasoning_of(completion[-1]))
