"""verl's reward where `modgap.rewards` is not all: a user's function, or `Stage.reward`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modgap.analysis.transcription import share_read
from modgap.core import registry
from modgap.core.terms import Reward
from modgap.rewards import compute_score as of_answer
from modgap.training.rollout import NOTHING_TO_READ, score


def compute_score(
    data_source: str,
    solution_str: str | None,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    function: str = "",
    answer: float = 1.0,
    reading: float = 0.0,
    **kwargs: Any,
) -> dict[str, float]:
    """Score one response, with verl's signature.

    Args:
        data_source: Unused.
        solution_str: The response.
        ground_truth: The gold answer.
        extra_info: With `reading`, the row's `conditions` (JSON) and the question `asked`.
        function: `module:function`, called as in the local engine: (response, gold); empty for the
            built-in reward.
        answer: As of `core.terms.Reward`.
        reading: As of `core.terms.Reward`.
        **kwargs: The tolerance of the built-in reward; other arguments of verl are unused.

    Returns:
        `score`; `format`; `acc`: 1.0 only if the answer's reward is 1, that is, correct and well
        formatted; unless the answer's reward is all, `answer`: the answer's reward; with `reading`,
        `reading`: the share of the conditions that was read, and `to_read`: 0.0 where there is
        nothing to read, which is rewarded as all of it and is to be left out of a mean.
    """
    response = solution_str or ""
    if function:
        total, _, form = score(registry.load(function), response, ground_truth)
    else:
        found = of_answer(data_source, response, ground_truth, **kwargs)
        total, form = found["score"], found["format"]
    out = {"score": total, "acc": float(total >= 1.0), "format": form}
    if Reward(answer, reading).plain:
        return out
    out |= {"answer": total, "score": answer * total}
    if reading:
        told = extra_info or {}
        share = share_read(response, json.loads(told["conditions"]), told["asked"])
        out["reading"] = NOTHING_TO_READ if share is None else share
        out["to_read"] = float(share is not None)
        out["score"] += reading * out["reading"]
    return out
