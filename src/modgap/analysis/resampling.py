"""Resampling of problems: bootstrap intervals, sign flips, sums by cluster; Student's quantile.

Made for many resamples of many problems: 10,000 of each take 0.2 s with four samples a problem, and
4 s at worst, in bounded memory. Source: Hesterberg (2015), arXiv:1411.5279. The paper has no
intervals.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from hashlib import sha256
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SEED: Final = 42
"""Of every bootstrap in a summary: the same records give the same interval."""
RESAMPLES: Final = 10_000
"""Of the bootstrap of a gap and of its parts."""
FEW_ROWS: Final = 256
BLOCK: Final = 2_000_000  # numbers that are drawn at once: bounds the memory to some 100 MB
SMALL_BLOCK: Final = 250_000
_NORMAL = NormalDist()
# What the same numbers gave: a report asks for most of its intervals several times, because most
# variants of a run change no verdict.
_intervals: dict[tuple[bytes, int, int, float], tuple[float, float]] = {}
_MOST_INTERVALS = 10_000


def cluster_sums(rows_PK: Floats, clusters: Sequence[Hashable] | None) -> Floats:
    """Sums of the rows of each cluster, `[clusters, K]`, in order of first appearance."""
    if clusters is None:
        return rows_PK
    if len(clusters) != len(rows_PK):
        raise ValueError(
            f"{len(clusters)} cluster ids for {len(rows_PK)} problems; give one for each"
        )
    numbers: dict[Hashable, int] = {}
    index_P = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sums_CK = np.zeros((len(numbers), rows_PK.shape[1]))
    np.add.at(sums_CK, index_P, rows_PK)
    return sums_CK


def bootstrap_interval(
    values_P: Floats,
    clusters: Sequence[Hashable] | None,
    resamples: int,
    seed: int,
    level: float,
    everything: tuple[float, float],
) -> tuple[float, float]:
    """Percentile interval of the mean of `values_P`, clusters resampled with replacement.

    The percentiles are widened for few clusters, `Phi(-sqrt(K/(K-1)) * t_{K-1})`; one cluster gives
    `everything`.
    """
    rows_CK = cluster_sums(np.stack([values_P, np.ones_like(values_P)], axis=1), clusters)
    if len(rows_CK) == 1:
        return everything
    key = (sha256(rows_CK.tobytes()).digest(), resamples, seed, level)
    if key not in _intervals:
        if len(_intervals) == _MOST_INTERVALS:
            _intervals.clear()
        sums_RK = _resampled_sums(rows_CK, resamples, np.random.default_rng(seed))
        _intervals[key] = percentile_interval(sums_RK[:, 0] / sums_RK[:, 1], len(rows_CK), level)
    return _intervals[key]


def percentile_interval(
    values_R: Floats, clusters: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentiles of a resampled number, widened for few clusters as in `bootstrap_interval`."""
    k = clusters
    tail = _NORMAL.cdf(-math.sqrt(k / (k - 1)) * student_critical(1 - level, k - 1))
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return float(low), float(high)


def resampled_means(rows_PK: Floats, resamples: int, seed: int) -> Floats:
    """Means of the columns over resampled problems, `[resamples, K]`; columns stay together."""
    return _resampled_sums(rows_PK, resamples, np.random.default_rng(seed)) / len(rows_PK)


def _resampled_sums(rows_CK: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Sums over `resamples` bootstrap samples of the rows, `[resamples, K]`.

    Equal rows are interchangeable, so the counts of the distinct rows are drawn: with m samples a
    problem there are few distinct rows. If there are many, the rows themselves are drawn, block by
    block.
    """
    distinct_UK, count_U = np.unique(rows_CK, axis=0, return_counts=True)
    c = len(rows_CK)
    if len(distinct_UK) <= FEW_ROWS:
        count_RU = np.empty((resamples, len(distinct_UK)))
        step = max(1, SMALL_BLOCK // len(distinct_UK))
        for start in range(0, resamples, step):  # as whole numbers they take as much memory again
            part = count_RU[start : start + step]
            part[:] = rng.multinomial(c, count_U / c, size=len(part))
        return count_RU @ distinct_UK
    step = max(1, BLOCK // c)
    blocks: list[Floats] = []
    for start in range(0, resamples, step):
        index_BC = rng.integers(0, c, size=(min(step, resamples - start), c), dtype=np.int32)
        blocks.append(np.stack([column_C[index_BC].sum(axis=1) for column_C in rows_CK.T], axis=1))
    return np.concatenate(blocks)


def sign_flip(sums_C: Floats, flips: int, rng: np.random.Generator) -> float:
    """Two-sided p-value of the sum against the sums with random signs.

    The observed sum counts as one of them.
    """
    size_U, count_U = np.unique(np.abs(sums_C[sums_C != 0]), return_counts=True)
    observed = abs(float(sums_C.sum())) * (1 - 1e-9)  # equal sums may differ in the last bit
    if len(size_U) == 0:
        return 1.0
    hits = 0
    step = max(1, BLOCK // len(size_U))
    for start in range(0, flips, step):
        plus_BU = rng.binomial(count_U, 0.5, size=(min(step, flips - start), len(size_U)))
        hits += int(np.sum(np.abs((2 * plus_BU - count_U) @ size_U) >= observed))
    return (1 + hits) / (1 + flips)


def student_critical(tail: float, freedom: float) -> float:
    """The t with P(|T| >= t) = `tail` of Student's distribution.

    For example, 2.2 for 0.05 and 11 degrees of freedom.

    The degrees of freedom may be fractional, and infinite.
    """
    # Imported late: it takes a quarter of a second, and most commands do not need it. `scipy.stats`
    # takes longer, and its quantile is this function behind checks that cost 50 times as much.
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, tail / 2))
