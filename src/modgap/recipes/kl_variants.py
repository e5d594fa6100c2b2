"""Variants of `kl`, each with one change: which part of the contrastive KL closes the gap?

None of these is in the paper. The paper has one estimator with one clamp, and no control for the
additional steps of `kl`. All variants have the first stage of `kl`, which a study therefore trains
once, and the same budget.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modgap.core.recipe import Recipe
from modgap.recipes.paper import kl


def _variant(name: str, summary: str, **settings: Any) -> Recipe:
    first, second = kl().stages
    second = replace(second, settings=replace(second.settings, **settings))
    return Recipe(name, (first, second), summary)


def kl_forward() -> Recipe:
    """`kl` with the gradient of the true KL(full || free)."""
    return _variant("kl-forward", "kl, its KL by the forward estimator", kl_estimator="forward")


def kl_full_vocab() -> Recipe:
    """`kl` with the KL summed over the vocabulary: no sampling noise, no clamp."""
    return _variant(
        "kl-full-vocab", "kl, its KL summed over the vocabulary", kl_estimator="full_vocab"
    )


def kl_unclamped() -> Recipe:
    """`kl` without the clamp that stops the gradient of the tokens that differ most."""
    return _variant("kl-unclamped", "kl, without the clamp of its KL", kl_clamp="none")


def kl_strong() -> Recipe:
    """`kl` at ten times the paper's coefficient."""
    return _variant("kl-strong", "kl, with ten times its coefficient", kl_coef=0.1)


def kl_forward_strong() -> Recipe:
    """`kl-forward` at ten times the paper's coefficient.

    This is close to fine-tuning image-only on the model's own answers.
    """
    return _variant(
        "kl-forward-strong",
        "kl-forward, with ten times its coefficient",
        kl_estimator="forward",
        kl_coef=0.1,
    )


def full_text_continued() -> Recipe:
    """`kl` without its contrastive term: the control for its second stage."""
    first, second = kl().stages
    second = replace(second, contrastive=False)
    return Recipe(
        "full-text-continued",
        (first, second),
        "kl's two stages without the contrastive term: its control",
    )
