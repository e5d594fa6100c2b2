"""The gap in parts that add up to it: writing, reading, integration, reasoning.

With the accuracies over the same problems T (full-text), I (image-only), O (own-transcription), C
(true-transcription), X (corrupted-transcription) and P (full-text-transcription), the gap `T - I`
is

    writing      W = O - I                  what writing the conditions down first changes
    reading      R = (C - O) - (P - T)      what true words instead of its own ones change
    use          U = P - C                  what is lost although the true words stand in the answer

O, C and X have the same user turn, the same image and the same opening of the answer; only the
words written there differ, and they are set, not observed. So C - O is the effect of an
intervention, and needs no model of the model. But words that are put into an answer are not the
model's own, and can harm or help by themselves. P - T tells how much: the same words, where nothing
must be read. It is taken out of R and U (a difference in differences), which rests on its being the
same where the conditions are in the picture only. U is split further, which needs more:

    integration  G = (X / I) (T - I)        answers that come from the picture in spite of the words
    reasoning    S = U - G                  answers that follow the true words and solve less than
                                            with the words in the prompt

An answer follows the words with a probability u, or else is given as without them: without what
words change by themselves `C = u s + (1 - u) I`, where s is the accuracy of the answers that
follow. Then `U = u (T - s) + (1 - u) (T - I)`, reasoning and integration. With one number changed,
an answer that follows is wrong, so `X = (1 - u) I`. This takes for granted that the changed number
decides the answer, that a conflict with the picture does not change whether the words are followed,
and that u is unrelated to how hard a problem is. X / I counts as 1 where it is above. What breaking
each of these costs is in docs/reference/causal.md, measured by `bench/causal.py`.

The intervals are bootstrap percentiles over problems, all views of a problem together; those that
rest on X also cover the exact upper limit of a rare count.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from modgap.analysis.gap import accuracy
from modgap.analysis.resampling import (
    RESAMPLES,
    SEED,
    Floats,
    bootstrap_interval,
    percentile_interval,
    resampled_means,
)
from modgap.analysis.results import CausalPart, CausalSummary
from modgap.analysis.scores import Scores
from modgap.core.rows import OUTCOMES
from modgap.core.transcripts import WITH_TEXT

TEXT, IMAGE, WITHOUT_IMAGE = "full-text", "image-only", "text-only"
VIEWS: tuple[str, ...] = (
    TEXT, IMAGE, "own-transcription", "true-transcription", "corrupted-transcription", WITH_TEXT
)  # fmt: skip
"""The views of the split, in the order of `estimate`."""
PARTS: Final = {
    "writing": "writing down first",
    "reading": "reading",
    "integration": "integration",
    "reasoning": "reasoning",
    "use": "integration and reasoning",
}
"""Part -> its name in a report."""
FEWEST: Final = 10
"""Problems below which nothing is split."""
MOST_WIDTH: Final = 1.0
"""The widest interval of a part's share with which the gap counts as split: the whole gap."""
LEAST_IMAGE: Final = 0.05
"""With an image-only accuracy whose interval begins below this, X / I is not known."""


def split(scores: Scores) -> CausalSummary | None:
    """The parts of the gap; `None` without the views, or with too few problems in all of them."""
    if not set(VIEWS) <= set(scores.views):
        return None
    position = {view: v for v, view in enumerate(scores.views)}
    split_V = [position[view] for view in VIEWS]
    # A sample that failed would count as an effect of its view.
    failed_P = (scores.codes_PVS[:, split_V] == OUTCOMES.index("error")).any(axis=(1, 2))
    keep_P = scores.paired_P & scores.complete_PV[:, split_V].all(axis=1) & ~failed_P
    shown = list(VIEWS)
    if WITHOUT_IMAGE in position and scores.complete_PV[keep_P, position[WITHOUT_IMAGE]].all():
        shown.append(WITHOUT_IMAGE)
    if keep_P.sum() < FEWEST:
        return None
    asked_VS = scores.asked_VS
    rates_PK = np.stack(
        [
            scores.correct_PVS[keep_P, v][:, asked_VS[v]].mean(axis=1)
            for v in (position[view] for view in shown)
        ],
        axis=1,
    )
    trials = int(asked_VS[position[IMAGE]].sum())
    image = accuracy(np.rint(rates_PK[:, 1] * trials), trials)
    lowered = bootstrap_interval(
        rates_PK[:, 4] - rates_PK[:, 1], None, RESAMPLES, SEED, 0.95, (-1.0, 1.0)
    )
    too_low = image.ci_low < LEAST_IMAGE
    return estimate(rates_PK, apart=not too_low and lowered[0] <= 0).model_copy(
        update={
            "image_too_low": too_low,
            "left_out": int(scores.paired_P.sum() - keep_P.sum()),
            "tokens": _cost(scores, keep_P),
            "in_user_turn": scores.in_user_turn,
        }
    )


def estimate(
    rates_PK: Floats, *, apart: bool = True, resamples: int = RESAMPLES, seed: int = SEED
) -> CausalSummary:
    """The parts from the share of right samples of each problem in each view.

    Args:
        rates_PK: In the order of `VIEWS`, then optionally `WITHOUT_IMAGE`; in [0, 1].
        apart: Whether integration and reasoning are told apart.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    means_K = rates_PK.mean(axis=0)
    means_RK = resampled_means(rates_PK, resamples, seed)
    # No resample of a sample without a right answer has one: X gets the exponential by which the
    # exact upper limit of a rare count exceeds it. Intervals cover both.
    rarer_RK = means_RK.copy()
    rarer_RK[:, 4] += np.random.default_rng([seed, 1]).exponential(1 / len(rates_PK), resamples)
    values, *drawn = map(_parts, (means_K[None], means_RK, rarer_RK))
    spread = {name: _widest([one[name] for one in drawn], len(rates_PK)) for name in values}
    # One gap has one interval: as `gap.paired_gap` resamples it.
    spread["gap"] = bootstrap_interval(
        100 * (rates_PK[:, 0] - rates_PK[:, 1]), None, resamples, seed, 0.95, (-100.0, 100.0)
    )
    clear = spread["gap"][0] > 0

    def part(name: str) -> CausalPart:
        points = CausalPart(
            points=float(values[name][0]), ci_low=spread[name][0], ci_high=spread[name][1]
        )
        if not clear:
            return points
        # A share of nothing is none: a clear gap is not above 0 in few resamples.
        shares = [one[name][one["gap"] > 0] / one["gap"][one["gap"] > 0] for one in drawn]
        low, high = _widest(shares, len(rates_PK))
        share = points.points / float(values["gap"][0])
        return points.model_copy(update={"share": share, "share_low": low, "share_high": high})

    names = ("integration", "reasoning") if apart else ("use",)
    summary = CausalSummary(
        n_problems=len(rates_PK),
        left_out=0,
        accuracies=dict(zip((*VIEWS, WITHOUT_IMAGE), map(float, means_K), strict=False)),
        gap=part("gap"),
        parts={name: part(name) for name in ("writing", "reading", *names)},
        use=part("use"),
        prefilling=part("prefilling"),
        picture=part("picture") if "picture" in values else None,
    )
    too_few = any(_too_wide(one) for one in summary.parts.values())
    summary = summary.model_copy(update={"too_few": too_few})
    if not apart:
        return summary
    low, high = spread["follows"]
    shares = {"follows": values["follows"][0], "follows_low": low, "follows_high": high}
    return summary.model_copy(
        update={name: min(max(float(share), 0.0), 1.0) for name, share in shares.items()}
    )


def _widest(drawn: list[NDArray[np.float64]], problems: int) -> tuple[float, float]:
    """The interval that holds those of several bootstraps."""
    ends = [percentile_interval(values_R, problems) for values_R in drawn]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _too_wide(part: CausalPart) -> bool:
    """Whether the share of a part is not known, or only to within more than `MOST_WIDTH`."""
    low, high = part.share_low, part.share_high
    return low is None or high is None or high - low > MOST_WIDTH


def _parts(means_RK: Floats) -> dict[str, NDArray[np.float64]]:
    """The parts of each row of accuracies, in points, and `follows`, a share."""
    text, image, own, true, corrupted, prefilled = 100 * means_RK[:, :6].T
    ignored = np.minimum(corrupted / np.maximum(image, 1e-9), 1)  # 1 - u, a probability
    integration = ignored * (text - image)
    parts = {
        "gap": text - image,
        "writing": own - image,
        "reading": (true - own) - (prefilled - text),
        "use": prefilled - true,
        "integration": integration,
        "reasoning": prefilled - true - integration,
        "prefilling": prefilled - text,
        "follows": 1 - ignored,
    }
    if means_RK.shape[1] > 6:
        parts["picture"] = text - 100 * means_RK[:, 6]
    return parts


def _cost(scores: Scores, keep_P: NDArray[np.bool_]) -> float | None:
    """Tokens of all views of the split over those of the gap's two; a response has its prompt."""
    tokens_PVS = (scores.tokens_PVS + scores.prompt_tokens_PVS)[keep_P]
    of_view = {view: int(tokens_PVS[:, v].sum()) for v, view in enumerate(scores.views)}
    two = of_view[TEXT] + of_view[IMAGE]
    return sum(of_view.get(view, 0) for view in (*VIEWS, WITHOUT_IMAGE)) / two if two else None
