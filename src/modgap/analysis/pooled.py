"""The gap of one model over several data sets together.

Every problem counts once, whatever its set, so a large set weighs more; the mean of the sets' gaps
stands beside it. A problem that two sets hold (Geometry3K in free form and with choices, say) is
one cluster: it is recognised by its diagram's place and its question. The interval is the bootstrap
of `gap.paired_gap` over clusters, and the p-value a sign-flip test of the mean difference by
cluster, since McNemar's test takes problems as independent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from modgap.analysis import gap as stats
from modgap.analysis.gap import GapChange
from modgap.analysis.resampling import SEED, cluster_sums, sign_flip
from modgap.analysis.results import PooledGap
from modgap.analysis.scores import Scores
from modgap.core.problem import CHOICES
from modgap.core.rows import ProblemRow
from modgap.core.text import degenerate

_FLIPS = 10_000
Key = tuple[str, ...]


def pooled_gaps(
    sets: Mapping[str, Mapping[str, str]], scores: Mapping[str, Scores]
) -> dict[str, PooledGap]:
    """Model -> its gap over all sets on which it has one; only models with two such sets.

    Args:
        sets: Model -> set -> name of the run.
        scores: Name of a run -> its verdicts.
    """
    found: dict[str, PooledGap] = {}
    first: tuple[list[str], dict[Key, tuple[float, float, Key]]] | None = None
    for model, on in sets.items():
        parts = {label: scores[run] for label, run in on.items() if scores[run].paired_P.any()}
        if len(parts) < 2:
            continue
        rates: dict[Key, tuple[float, float, Key]] = {}
        means: list[float] = []
        for label, of_set in parts.items():
            of_problems = _rates(label, of_set)
            rates |= of_problems
            means.append(
                float(np.mean([text - vision for text, vision, _ in of_problems.values()]))
            )
        change = None
        if first is None:
            first = list(parts), rates
        elif first[0] == list(parts):
            change = _change(first[1], rates)
        found[model] = _pooled(list(parts), rates, 100 * float(np.mean(means)), change)
    return found


def _rates(label: str, scores: Scores) -> dict[Key, tuple[float, float, Key]]:
    """Paired problem -> its rates on both sides, and its cluster."""
    text_P, vision_P = scores.rates("text"), scores.rates("vision")
    return {
        (label, row.id, row.question, row.answer): (
            float(text_P[p]),
            float(vision_P[p]),
            _cluster(label, row),
        )
        for p, row in enumerate(scores.problems)
        if scores.paired_P[p]
    }


def _cluster(label: str, row: ProblemRow) -> Key:
    stem, _, _ = row.question.partition(CHOICES)
    return (row.image, stem) if row.image else (label, row.id)


def _pooled(
    sets: list[str],
    rates: Mapping[Key, tuple[float, float, Key]],
    mean_of_sets: float,
    change: GapChange | None,
) -> PooledGap:
    text_P, vision_P = (np.array([one[side] for one in rates.values()]) for side in (0, 1))
    clusters = [one[2] for one in rates.values()]
    gap = stats.paired_gap(text_P, vision_P, clusters, seed=SEED)
    sums_C = cluster_sums(100 * (text_P - vision_P)[:, None], clusters)[:, 0]
    return PooledGap(
        sets=sets,
        n_problems=gap.n_problems,
        n_clusters=len(sums_C),
        text_accuracy=float(text_P.mean()),
        vision_accuracy=float(vision_P.mean()),
        points=gap.points,
        ci_low=gap.ci_low,
        ci_high=gap.ci_high,
        degenerate=degenerate(gap.ci_low, gap.ci_high),
        p_value=sign_flip(sums_C, _FLIPS, np.random.default_rng([SEED, 1])),
        mean_of_sets=mean_of_sets,
        change=change,
    )


def _change(
    before: Mapping[Key, tuple[float, float, Key]], after: Mapping[Key, tuple[float, float, Key]]
) -> GapChange | None:
    """The change over the problems that are paired in both."""
    shared = [key for key in before if key in after]
    if not shared:
        return None
    sides = [[of[key][side] for key in shared] for of in (before, after) for side in (0, 1)]
    clusters = [before[key][2] for key in shared]
    return stats.gap_change(*sides, clusters=clusters, seed=SEED)
