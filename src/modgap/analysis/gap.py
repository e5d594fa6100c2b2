r"""The statistics of a study.

Accuracy, the paired gap and its change, pass@k, votes, Holm's correction.

Pure functions over small numpy arrays, one value for each problem. The problems are the random
sample, not the responses: samples of one problem are alike, so standard errors are clustered by
problem (or by a coarser id, such as MathVerse's `problem_index`), and the two views of a problem
are paired. Accuracies and rates are in [0, 1], gaps in percentage points. Nothing here returns NaN:
without problems the functions raise ValueError.

Difference from the paper: it gives pooled accuracies without intervals and compares views as if
they were independent.

Resampling is in `resampling`; the number of problems that a study needs is in `power`.

Sources: Miller (2024), "Adding error bars to evals", arXiv:2411.00640 (clustered errors, paired
differences); Korn and Graubard (1998) and Wilson (1927) for the interval of an accuracy; Efron and
Tibshirani (1993) and Hesterberg (2015), arXiv:1411.5279, for the bootstrap; McNemar (1947); Chen et
al. (2021), arXiv:2107.03374, for pass@k.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modgap.analysis.resampling import (
    Floats,
    bootstrap_interval,
    cluster_sums,
    sign_flip,
    student_critical,
)
from modgap.core.text import degenerate


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy in [0, 1] with its interval.

    `se` is None with a single cluster, which has no spread to estimate.
    """

    value: float
    ci_low: float
    ci_high: float
    se: float | None
    n_problems: int


@dataclass(frozen=True, slots=True)
class Gap:
    """The paired gap between two views of the same problems.

    Attributes:
        points: `100 * (mean text rate - mean vision rate)`.
        ci_low: Lower end of its interval, in points.
        ci_high: Upper end.
        p_value: McNemar's exact test on majority votes, two-sided.
        table: Problems by majority vote, `[[both, text only], [vision only, neither]]`.
        relative: The gap as a share of the text accuracy; None if that is 0.
        p_vision_given_text: How likely a vision response is right if a text response to the same
            problem is: `sum(text * vision) / sum(text)` over the problems' rates; None if no text
            response is right.
        p_text_given_vision: The converse.
        n_problems: The number of problems.
    """

    points: float
    ci_low: float
    ci_high: float
    p_value: float
    table: list[list[int]]
    relative: float | None
    p_vision_given_text: float | None
    p_text_given_vision: float | None
    n_problems: int


@dataclass(frozen=True, slots=True)
class GapChange:
    """How the gap changed from checkpoint a to checkpoint b, in points; `points = after - before`.

    `degenerate` is whether the interval has no width: all problems have the same change, and the
    interval is not informative.
    """

    points: float
    ci_low: float
    ci_high: float
    p_value: float
    before: float
    after: float
    n_problems: int
    degenerate: bool


# ---- one view ------------------------------------------------------------------------------------
def rates(correct: npt.ArrayLike, n: npt.ArrayLike) -> Floats:
    """Each problem's share of correct samples.

    Args:
        correct: Correct samples of each problem, `[problems]`.
        n: Its samples, `[problems]` or one number for all.

    Raises:
        ValueError: If there is no problem, a problem has no sample, or a count is out of range.
    """
    correct_P = np.asarray(correct, dtype=np.float64)
    n_P = np.broadcast_to(np.asarray(n, dtype=np.float64), correct_P.shape)
    if correct_P.ndim != 1 or correct_P.size == 0:
        raise ValueError(
            "statistics need the counts of at least one problem, not an array of shape"
            f" {correct_P.shape}"
        )
    if not np.all(n_P >= 1):
        raise ValueError(
            "every problem needs at least one sample; leave out the problems that have none"
        )
    if not np.all((correct_P >= 0) & (correct_P <= n_P)):
        raise ValueError(
            "the correct samples of a problem must be between 0 and its number of samples"
        )
    return correct_P / n_P


def accuracy(
    correct: npt.ArrayLike,
    n: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Estimate:
    r"""Mean over problems of `correct / n`, with an interval clustered by problem.

    The standard error is `se^2 = K/(K-1) * sum_c (sum_{i in c} (r_i - r))^2 / P^2` over K clusters
    of P problems. The interval is Wilson's, with the effective sample size `n* = r (1 - r) / se^2`
    (Korn and Graubard) instead of the number of trials, at most the number of samples, and
    Student's quantile with K - 1 degrees of freedom. So it stays in [0, 1] and keeps its width at 0
    and 1, where n* is K: as if each cluster were one trial.

    Args:
        correct: Correct samples of each problem.
        n: Samples of each problem, or one number for all.
        clusters: A cluster id for each problem; each problem is its own by default.
        level: Of the interval.

    Raises:
        ValueError: As in `rates`.
    """
    r_P = rates(correct, n)
    value = float(r_P.mean())
    sums_C = cluster_sums(np.stack([r_P - value], axis=1), clusters)[:, 0]
    k = len(sums_C)
    if k == 1:
        return Estimate(value, 0.0, 1.0, None, len(r_P))
    variance = k / (k - 1) * float(np.sum(sums_C**2)) / len(r_P) ** 2
    trials = float(np.broadcast_to(np.asarray(n, dtype=np.float64), r_P.shape).sum())
    if value in (0.0, 1.0):
        effective = float(k)
    elif variance * trials <= value * (1 - value):
        effective = trials
    else:
        effective = value * (1 - value) / variance
    t2 = student_critical(1 - level, k - 1) ** 2
    centre = (value + t2 / (2 * effective)) / (1 + t2 / effective)
    half = math.sqrt(t2 * (value * (1 - value) / effective + t2 / (4 * effective**2))) / (
        1 + t2 / effective
    )
    low = 0.0 if value == 0 else max(0.0, centre - half)
    high = 1.0 if value == 1 else min(1.0, centre + half)
    return Estimate(value, low, high, math.sqrt(variance), len(r_P))


def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int) -> float:
    """Mean over problems of `1 - C(n-c, k) / C(n, k)`.

    This is the chance that one of k samples, drawn without repetition, is right.

    Args:
        n: Samples of each problem.
        c: Correct ones.
        k: At most the smallest n.

    Raises:
        ValueError: As in `rates`, or if k is not in 1..min(n).
    """
    c_P = np.atleast_1d(np.asarray(c, dtype=np.float64))
    rates(c_P, n)
    n_P = np.broadcast_to(np.asarray(n, dtype=np.float64), c_P.shape)
    if not 1 <= k <= n_P.min():
        raise ValueError(
            f"pass@{k} needs k between 1 and the smallest number of samples, {int(n_P.min())}"
        )
    miss_P = np.ones_like(c_P)
    for drawn in range(k):
        miss_P *= np.maximum(n_P - c_P - drawn, 0.0) / (n_P - drawn)
    return float(np.mean(1.0 - miss_P))


def majority_vote(values: Sequence[float | None], tolerance: float = 5e-3) -> float | None:
    """The most frequent answer; for maj@k, grade it against the gold answer.

    A value's votes are the values within `tolerance` of it; in a tie the earliest wins. None (no
    number) does not vote. Returns None if there is no vote.
    """
    counts = Counter(value for value in values if value is not None)
    if not counts:
        return None
    value_U, count_U = np.array(list(counts)), np.array(list(counts.values()))
    votes_U = (np.abs(value_U - value_U[:, None]) <= tolerance) @ count_U
    return float(value_U[np.argmax(votes_U)])  # of equal ones the first


# ---- two views -----------------------------------------------------------------------------------
def paired_gap(
    text_rates: npt.ArrayLike,
    vision_rates: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Gap:
    """The gap `mean(text) - mean(vision)` over the same problems, in points.

    The interval is a bootstrap over problems (over clusters, if given): percentiles of the
    resampled gap, at levels widened for few problems as Hesterberg does, `Phi(-sqrt(K/(K-1)) *
    t_{K-1})`. If all problems have the same difference, no resampling can show a spread, and the
    interval is that one point; with one cluster it is everything.

    McNemar's test takes a problem as right in a view if more than half of its samples are; a tie is
    not right, in both views alike.

    Args:
        text_rates: Share of correct samples of each problem in the text-centric view, `[problems]`.
        vision_rates: The same problems in the same order in the vision-centric view.
        clusters: A cluster id for each problem.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.
        level: Of the interval.

    Raises:
        ValueError: If the arrays are empty, differ in length or are not rates.
    """
    text_P, vision_P = _paired(text_rates, vision_rates)
    points = 100 * float(np.mean(text_P - vision_P))
    low, high = bootstrap_interval(
        100 * (text_P - vision_P), clusters, resamples, seed, level, (-100.0, 100.0)
    )
    text_right_P, vision_right_P = text_P > 0.5, vision_P > 0.5
    both, text_only = (
        int(np.sum(text_right_P & vision_right_P)),
        int(np.sum(text_right_P & ~vision_right_P)),
    )
    vision_only, neither = (
        int(np.sum(~text_right_P & vision_right_P)),
        int(np.sum(~text_right_P & ~vision_right_P)),
    )
    text_sum, vision_sum, joint = (
        float(text_P.sum()),
        float(vision_P.sum()),
        float(np.sum(text_P * vision_P)),
    )
    return Gap(
        points=points,
        ci_low=low,
        ci_high=high,
        p_value=mcnemar(text_only, vision_only),
        table=[[both, text_only], [vision_only, neither]],
        relative=(text_sum - vision_sum) / text_sum if text_sum else None,
        p_vision_given_text=joint / text_sum if text_sum else None,
        p_text_given_vision=joint / vision_sum if vision_sum else None,
        n_problems=len(text_P),
    )


def gap_change(
    a_text: npt.ArrayLike,
    a_vision: npt.ArrayLike,
    b_text: npt.ArrayLike,
    b_vision: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> GapChange:
    """The gap at checkpoint b minus the gap at checkpoint a.

    Paired over problem x view x checkpoint.

    Each problem gives `d = (b_text - b_vision) - (a_text - a_vision)`; the interval is the
    bootstrap of `paired_gap`, the p-value a sign-flip test of the mean of d (by cluster): `(1 +
    #{|flipped| >= |observed|}) / (1 + resamples)`.

    Args:
        a_text: Rates of checkpoint a in the text-centric view, `[problems]`; the same problems in
            all four arrays.
        a_vision: Of checkpoint a in the vision-centric view.
        b_text: Of checkpoint b in the text-centric view.
        b_vision: Of checkpoint b in the vision-centric view.
        clusters: A cluster id for each problem.
        resamples: Bootstrap resamples and sign flips.
        seed: Of both.
        level: Of the interval.

    Raises:
        ValueError: As in `paired_gap`.
    """
    a_text_P, a_vision_P = _paired(a_text, a_vision)
    b_text_P, b_vision_P = _paired(b_text, b_vision)
    _paired(a_text_P, b_text_P)
    before_P, after_P = 100 * (a_text_P - a_vision_P), 100 * (b_text_P - b_vision_P)
    change_P = after_P - before_P
    low, high = bootstrap_interval(change_P, clusters, resamples, seed, level, (-200.0, 200.0))
    p_value = sign_flip(
        cluster_sums(change_P[:, None], clusters)[:, 0], resamples, np.random.default_rng([seed, 1])
    )
    return GapChange(
        points=float(change_P.mean()),
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        before=float(before_P.mean()),
        after=float(after_P.mean()),
        n_problems=len(change_P),
        degenerate=degenerate(low, high),
    )


def mcnemar(text_only: int, vision_only: int) -> float:
    """McNemar's exact two-sided p-value.

    Under H0, half of the problems that are right in one view only are right in each view.
    """
    n, smaller = text_only + vision_only, min(text_only, vision_only)
    term = total = 1
    for drawn in range(smaller):
        term = term * (n - drawn) // (drawn + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given; an empty list gives an empty list.

    Raises:
        ValueError: If one is not in [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(
            f"p-values must be between 0 and 1, not {[p for p in p_values if not 0 <= p <= 1]}"
        )
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _paired(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[Floats, Floats]:
    one_P, two_P = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one_P.ndim != 1 or one_P.shape != two_P.shape or one_P.size == 0:
        raise ValueError(
            "paired statistics need the rates of the same problems, at least one: got"
            f" {one_P.shape} and {two_P.shape}"
        )
    for rates_P in (one_P, two_P):
        if not np.all((rates_P >= 0) & (rates_P <= 1)):
            raise ValueError(
                "rates must be between 0 and 1; leave out the problems without samples"
            )
    return one_P, two_P
