"""A reward for reading: what a response transcribes of the diagram, beside its answer.

    R = 1.0 * (0.9 * correct + 0.1 * well formatted) + 0.5 * (share of the conditions read)

The share is that of the problem's true conditions among the first n values that the response
states, n being their number (`analysis.transcription.share_read`). Two stages, as in GeoPQA: first
the reading alone (`answer` 0), in the view `transcribe`, which asks for the conditions before the
solution; then the answer with the reading beside it.

Sources: Vision-SR1 (Li et al., 2025, arXiv:2508.19652) adds a reward for the description of the
image to the answer's; GeoPQA (Chen et al., 2025, arXiv:2509.17437) trains perception before
reasoning.

Differences from their codes: Vision-SR1 (github.com/zli12321/Vision-SR1, 4480e08) has the model
answer again from its description alone and rewards that answer by 1.0; there is no second answer
here, since the true conditions are known. GeoPQA's first stage trains on questions of its own about
a figure; here it trains on the transcription. Our weight 0.5 is a choice, and so are the 100 steps
of the first stage.
"""

from __future__ import annotations

from dataclasses import replace

from modgap.core.recipe import Recipe
from modgap.core.terms import Reward
from modgap.recipes.paper import no_text


def reading_reward() -> Recipe:
    """Transcribe first, then solve."""
    (solve,) = no_text().stages
    read = replace(
        solve,
        views=("transcribe",),
        reward=Reward(answer=0.0, reading=1.0),
        settings=replace(solve.settings, steps=100),
    )
    both = replace(solve, views=("transcribe",), reward=Reward(answer=1.0, reading=0.5))
    summary = "transcribe the diagram, then solve with a reward for reading beside the answer's"
    return Recipe("reading-reward", (read, both), summary)
