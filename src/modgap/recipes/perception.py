"""Recipes that compare a picture with a masked one: PAPO and VPPO, on image-only problems.

The twin is the same prompt with 60% of the picture's patches black.

**papo**, `Perception-Aware Policy Optimization` (Wang et al., 2025, arXiv:2507.06448): DAPO minus
the divergence of the two, so that answers must depend on the picture, and two entropy terms, as
minus the log-probability of the sampled tokens, which keep that from being won by noise:

    L = L_DAPO - 0.01 * k3 + 0.03 * mean(-log p(y_t)) + 0.03 * mean(-log q(y_t))
    k3 = exp(log q - log p) - (log q - log p) - 1, clamped to [-10, 10]

p has the whole picture, q the masked one. 0.6, 0.01 and 0.03 are its defaults for DAPO (code at
github.com/MikeWangWZHL/PAPO, fb63bf4). `papo-unclamped` has no clamp: there k3 is unbounded.

Differences from that code: q has a gradient, as in the paper's formula; the code scores q before
the update and holds it fixed (`RECOMPUTE_AUG_LOG_PROBS=False`), so that its term on q's entropy has
no gradient: `--set term1.detach=twin term2.coef=0`. The paper's formula has the ratio p / q, the
code q / p; ours is the code's. Its masks are 14 x 14 squares of the original image, drawn anew in
each step; see `training/pictures.py` for ours. Its averages are over tokens of a micro-batch, ours
over those of a mini-batch. Everything else is as in every recipe of this project.

**vppo**, `Spotlight on Token Perception` (Huang et al., 2025, arXiv:2510.09285): the same k3 is no
loss but says which tokens depend on the picture. Only the 40% of a response's tokens with the
largest k3 keep their policy gradient; a response's advantage is multiplied by a factor of at least
0.9 that grows with its mean k3; an entropy penalty of 0.06 (`-log p(y_t)`, added to the loss).
Its defaults for 7B (code at github.com/huaixuheqing/VPPO-RL, a23c54b).

Differences from that code: p and q are scored before each update, not once a step; the factors have
the mean 1 over a mini-batch, there over a micro-batch; masks as of papo.
"""

from __future__ import annotations

from dataclasses import replace

from modgap.core.recipe import Recipe
from modgap.core.terms import Term
from modgap.recipes.paper import no_text

_VISION = no_text().stages[0]
_KL = Term(
    picture="masked",
    ratio=0.6,
    detach="none",
    estimator="k3",
    clamp=10.0,
    coef=-0.01,
    rows="all",
)
_ENTROPY = Term(estimator="nll", coef=0.03, rows="all")
_MASKED_ENTROPY = Term(picture="masked", ratio=0.6, estimator="nll", coef=0.03, rows="all")


def papo() -> Recipe:
    """DAPO, away from what the model says without most of the picture."""
    stage = replace(_VISION, terms=(_KL, _MASKED_ENTROPY, _ENTROPY))
    summary = "image-only, away from the masked picture's distribution (PAPO)"
    return Recipe("papo", (stage,), summary)


def papo_unclamped() -> Recipe:
    """`papo` without the clamp of its KL."""
    stage = replace(_VISION, terms=(replace(_KL, clamp=None), _MASKED_ENTROPY, _ENTROPY))
    return Recipe("papo-unclamped", (stage,), "papo, without the clamp of its KL")


def vppo() -> Recipe:
    """DAPO on the tokens that depend on the picture."""
    weight = Term(
        picture="masked",
        ratio=0.6,
        detach="twin",
        estimator="k3",
        clamp=10.0,
        coef=1.0,
        rows="all",
        role="weight",
        top=0.4,
        trajectory=0.9,
    )
    penalty = Term(estimator="nll", coef=0.06, rows="all")
    stage = replace(_VISION, terms=(weight, penalty))
    summary = "image-only, its policy gradient on the tokens that depend on the picture (VPPO)"
    return Recipe("vppo", (stage,), summary)
