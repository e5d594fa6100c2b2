"""Cross-view distillation: the model that reads the text teaches the one that reads the picture.

The image-only view is rolled out; the twin is the full-text view of the same problem, detached.
On each token that was sampled, the answer's reward stays (DAPO), and the student is pulled to what
the teacher would have said there:

    distill            + coef * KL(p(. | image), q(. | full)), by the sampled tokens (`reverse`)
    distill-jsd        + coef * Jensen-Shannon divergence of the two
    distill-advantage  A_t = A + coef * (log q(y_t | full) - log p(y_t | image)), in DAPO's loss
    distill-frozen     distill; q has the weights of the stage's start
    distill-ema        distill; q has the weights' moving average (decay 0.99)
    distill-after-text full-text first, then distill

`self-trace` has no policy loss: the model's own right full-text answers are supervised targets of
the image-only view, `- log p(y_t | image)`, averaged over the tokens of right answers. It is
rejection-sampling fine-tuning across views, on-policy: the answers are sampled anew in each step.

Source: on-policy distillation (Agarwal et al., 2024, arXiv:2306.13649) with the model itself, given
more of the problem, as its teacher. There is no published code for paired views, and no coefficient
to take over: 0.1 is our choice. Published on-policy distillation has no reward beside it; that is
`--set policy_loss=false` here. Its divergences are summed over the vocabulary; here they are
estimated at the sampled token, which is what fits beside a policy's pass.
"""

from __future__ import annotations

from dataclasses import replace

from modgap.core.recipe import Recipe, Stage
from modgap.core.terms import Term
from modgap.recipes.paper import full_text, no_text

TEACHER = Term(twin="full-text", detach="twin", estimator="reverse", coef=0.1, rows="all")
"""The text's side teaches, on every response."""
_VISION = no_text().stages[0]
_TEXT = full_text().stages[0]


def _with(term: Term) -> Stage:
    return replace(_VISION, terms=(term,))


def distill() -> Recipe:
    """Image-only, pulled to the full-text view by the reverse KL."""
    summary = "image-only, pulled to the model's own full-text distribution (reverse KL)"
    return Recipe("distill", (_with(TEACHER),), summary)


def distill_jsd() -> Recipe:
    """`distill` by the Jensen-Shannon divergence, which is bounded."""
    summary = "distill, by the Jensen-Shannon divergence"
    return Recipe("distill-jsd", (_with(replace(TEACHER, estimator="jsd")),), summary)


def distill_advantage() -> Recipe:
    """`distill` as a per-token advantage, through DAPO's clip."""
    summary = "distill, as an advantage of each token"
    return Recipe("distill-advantage", (_with(replace(TEACHER, role="advantage")),), summary)


def distill_frozen() -> Recipe:
    """`distill` from the weights of the stage's start."""
    summary = "distill, the teacher frozen at the start of the stage"
    return Recipe("distill-frozen", (_with(replace(TEACHER, teacher="frozen")),), summary)


def distill_ema() -> Recipe:
    """`distill` from a moving average of the weights."""
    summary = "distill, the teacher a moving average of the weights"
    average = replace(TEACHER, teacher="ema", decay=0.99)
    return Recipe("distill-ema", (_with(average),), summary)


def distill_after_text() -> Recipe:
    """Full-text first, so that the teacher knows how to solve; then `distill`."""
    return Recipe("distill-after-text", (_TEXT, _with(TEACHER)), "full-text, then distill")


def self_trace() -> Recipe:
    """The model's own right full-text answers as targets of the image-only view."""
    targets = Term(twin="image-only", detach="rollout", estimator="nll", coef=1.0, rows="right")
    # Groups of equal rewards have right answers, too.
    settings = replace(_TEXT.settings, dynamic_sampling=False)
    stage = replace(_TEXT, terms=(targets,), policy_loss=False, settings=settings)
    summary = "own right full-text answers as supervised targets of image-only"
    return Recipe("self-trace", (stage,), summary)
