"""The six recipes of the paper (table 1, and the original's `dapo_*.sh`), and two that it ran too.

Each recipe is written as its difference from another one. The scripts do not set a last step. The
steps here are those of the released 7B checkpoints (text 200, KL 100, no-text 200; the 3B ones
stopped at 240, 280 and 160 or 200), except for `mix`, whose evaluated checkpoint is 400.
`dapo-kl-curriculum.sh` starts from KL step 200 and `dapo_kl.sh` from a full-text checkpoint of 200
steps in one original, from the base model in the other (`kl-from-base`). `presets.py` has the
budgets of each model size.
"""

from __future__ import annotations

from dataclasses import replace

from modgap.core.recipe import Recipe, Settings, Stage

_TEXT = Stage(views=("full-text",), settings=Settings(steps=200))
_VISION = replace(_TEXT, views=("image-only",))
_KL = replace(
    _TEXT, contrastive=True, settings=replace(_TEXT.settings, steps=100, max_response_tokens=4000)
)


def full_text() -> Recipe:
    """Conditions in words, diagram beside them."""
    return Recipe(
        "full-text", (_TEXT,), "DAPO on problems whose conditions are written in the prompt"
    )


def no_text() -> Recipe:
    """Conditions in the diagram only."""
    summary = "DAPO on problems shown as image only"
    return replace(full_text(), name="no-text", stages=(_VISION,), summary=summary)


def mix() -> Recipe:
    """Both views of every problem, shuffled together."""
    both = replace(_TEXT, views=("full-text", "image-only"))
    summary = "DAPO on both views of every problem, shuffled"
    return replace(full_text(), name="mix", stages=(both,), summary=summary)


def curriculum() -> Recipe:
    """First with text, then without."""
    summary = "full-text, then image-only"
    return replace(full_text(), name="curriculum", stages=(_TEXT, _VISION), summary=summary)


def kl() -> Recipe:
    """First with text, then with text and the contrastive KL to the text-free twin."""
    summary = "full-text, then full-text with the contrastive KL"
    return replace(full_text(), name="kl", stages=(_TEXT, _KL), summary=summary)


def kl_curriculum() -> Recipe:
    """`kl`, then without text."""
    stages = (*kl().stages, _VISION)
    summary = "full-text, then full-text with the contrastive KL, then image-only"
    return replace(kl(), name="kl-curriculum", stages=stages, summary=summary)


def kl_from_base() -> Recipe:
    """The contrastive stage of `kl` alone, from the base model."""
    base = replace(_KL, settings=replace(_KL.settings, steps=200))
    summary = "full-text with the contrastive KL, from the base model"
    return Recipe("kl-from-base", (base,), summary)


def reverse_curriculum() -> Recipe:
    """`curriculum` the other way round: first without text, then with it."""
    first = replace(_VISION, settings=replace(_VISION.settings, steps=280))
    return Recipe("reverse-curriculum", (first, _TEXT), "image-only, then full-text")
