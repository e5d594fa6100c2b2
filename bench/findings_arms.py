"""The arms of docs/experiments/findings/plan.md that no recipe of the package is.

Named on the command line as `bench/findings_arms.py:vppo_unclamped`. Each differs in one thing from
a recipe of the package, which its summary names.
"""

from __future__ import annotations

from dataclasses import replace

from modgap import Recipe
from modgap.recipes.distill import TEACHER, distill, self_trace
from modgap.recipes.paper import full_text, kl_from_base
from modgap.recipes.perception import vppo


def _frozen(part: str) -> Recipe:
    (stage,) = full_text().stages
    stage = replace(stage, settings=replace(stage.settings, freeze=part))
    return Recipe(f"full-text-frozen-{part}", (stage,), f"full-text, its {part} not trained")


def frozen_tower() -> Recipe:
    """`full-text` without its vision encoder."""
    return _frozen("tower")


def frozen_merger() -> Recipe:
    """`full-text` without its merger."""
    return _frozen("merger")


def frozen_language() -> Recipe:
    """`full-text` without its language model."""
    return _frozen("language")


def vppo_unclamped() -> Recipe:
    """`vppo`, its k3 without the clamp at 10."""
    (stage,) = vppo().stages
    weight, penalty = stage.terms
    stage = replace(stage, terms=(replace(weight, clamp=None), penalty))
    return Recipe("vppo-unclamped", (stage,), "vppo, without the clamp of its k3")


def distill_right() -> Recipe:
    """`distill` on right responses only."""
    (stage,) = distill().stages
    stage = replace(stage, terms=(replace(TEACHER, rows="right"),))
    return Recipe("distill-right", (stage,), "distill, on right responses only")


def self_trace_all() -> Recipe:
    """`self-trace` on all responses, wrong ones too."""
    (stage,) = self_trace().stages
    (target,) = stage.terms
    stage = replace(stage, terms=(replace(target, rows="all"),))
    return Recipe("self-trace-all", (stage,), "self-trace, on wrong answers, too")


def kl_from_base_all() -> Recipe:
    """`kl-from-base` on all responses, wrong ones too."""
    (stage,) = kl_from_base().stages
    (term,) = stage.all_terms
    stage = replace(stage, contrastive=False, terms=(replace(term, rows="all"),))
    return Recipe("kl-from-base-all", (stage,), "kl-from-base, on wrong answers, too")


def _redundancy(share: int) -> Recipe:
    (stage,) = full_text().stages
    stage = replace(stage, views=(f"partial-text-{share}",))
    return Recipe(f"redundancy-{share}", (stage,), f"{share}% of the conditions in the words")


def redundancy_25() -> Recipe:
    """`full-text` with a quarter of the conditions."""
    return _redundancy(25)


def redundancy_50() -> Recipe:
    """`full-text` with half of the conditions."""
    return _redundancy(50)


def redundancy_75() -> Recipe:
    """`full-text` with three quarters of the conditions."""
    return _redundancy(75)
