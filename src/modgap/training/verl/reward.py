"""verl's reward by a user's function (`reward.function=module:function`).

Without one, verl uses `modgap.rewards`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modgap.core import registry
from modgap.training.rollout import score


def compute_score(
    data_source: str,
    solution_str: str | None,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    function: str,
    **kwargs: Any,
) -> dict[str, float]:
    """Score one response, with verl's signature.

    Args:
        data_source: Unused.
        solution_str: The response.
        ground_truth: The gold answer.
        extra_info: Unused.
        function: `module:function`, called as in the local engine: (response, gold).
        **kwargs: Other arguments of verl; unused.

    Returns:
        `score`, `format`, and `acc`: 1.0 only if the score is 1, that is, correct and well
        formatted.
    """
    total, _, form = score(registry.load(function), solution_str or "", ground_truth)
    return {"score": total, "acc": float(total >= 1.0), "format": form}
