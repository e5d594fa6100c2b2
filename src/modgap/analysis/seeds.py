"""A number over several training seeds and the same problems.

Its interval and p-value generalise to new seeds and new problems.

Two things are drawn at random and crossed: every seed answers every problem. So a mean has two
variances that do not shrink together: more problems do not show what another seed would have given,
and more seeds do not show what other problems would have given. With S seeds, P problems and a
value x for each pair,

    V_p = var_p(mean_s x) / P,   V_s = var_s(mean_p x) / S,   V_e = var(what is left of x) / (S P)
    half of the interval = sqrt(t(P - 1)^2 max(0, V_p - V_e) + t(S - 1)^2 V_s),
                           at least t(P - 1) sqrt(V_p)

V_p and V_s each hold the noise V_e of single pairs, which counts once: with the seeds, whose spread
is known worse and has the larger quantile. Taken from V_s instead, the intervals are too narrow
where problems spread little. They are never narrower than problems alone make them: seeds may agree
by luck. Each part gets Student's quantile of its own degrees of freedom, as Howe does: with three
seeds the usual pooled degrees of freedom (Satterthwaite's) cover 92 of 100 where 95 are promised,
because three seeds that happen to be close together then look certain. A bootstrap cannot do it: it
has 27 ways to draw three seeds. docs/lab/seeds-coverage.md has the simulated coverage, and
`bench/seeds_coverage.py` simulates it.

The paper trains each recipe once.

Sources: Howe (1974), JASA 69:789, and Graybill and Wang (1980) for the interval; Hillis (2007),
Statistics in Medicine 26:596, for crossed readers and cases, the same problem in radiology.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modgap.analysis.resampling import Floats, bootstrap_interval, sign_flip, student_critical

RESAMPLES = 10_000
_LEAST_P = 1e-12


@dataclass(frozen=True, slots=True)
class SeedsEstimate:
    """A mean over seeds and problems, in the unit of its values.

    Attributes:
        value: The mean.
        ci_low: Lower end of its interval; with one seed it is about that seed alone.
        ci_high: Upper end.
        p_value: Two-sided, of the mean being 0: the largest level at which the interval leaves 0
            out.
        seeds: The mean of each seed, in the order given.
        sd: Standard deviation of these means; None with one seed.
        n_problems: The number of problems.
    """

    value: float
    ci_low: float
    ci_high: float
    p_value: float
    seeds: tuple[float, ...]
    sd: float | None
    n_problems: int


@dataclass(frozen=True, slots=True)
class SeedsChange(SeedsEstimate):
    """A change over seeds and problems, among those of several recipes.

    Attributes:
        p_holm: The p-value, corrected over the recipes (Holm).
        p_pooled: The same if the seeds of all recipes spread alike; see `pooled_p_values`.
    """

    p_holm: float
    p_pooled: float


def over_seeds(
    values: npt.ArrayLike, limits: tuple[float, float], seed: int = 0, level: float = 0.95
) -> SeedsEstimate:
    """The mean over seeds and problems, with its interval.

    One seed does not show what another would have given: the interval is the bootstrap over
    problems, and the p-value is that of random sign flips, as elsewhere in a report.

    Args:
        values: Of each seed and problem, `[seeds, problems]`: an accuracy, a gap, a change against
            something.
        limits: The smallest and the largest possible mean: the interval is cut there.
        seed: Of the bootstrap and the sign flips.
        level: Of the interval.

    Raises:
        ValueError: There is no seed or no problem, or a value is not finite.
    """
    x_SP = np.asarray(values, dtype=np.float64)
    if x_SP.ndim != 2 or x_SP.size == 0:
        raise ValueError(
            f"statistics over seeds need values of at least one seed and problem, not {x_SP.shape}"
        )
    if not np.isfinite(x_SP).all():
        raise ValueError("a value is not finite; leave out the problems that are not complete")
    means_S = x_SP.mean(axis=1)
    value, p = float(x_SP.mean()), x_SP.shape[1]
    of_seeds = tuple(float(mean) for mean in means_S)
    if len(of_seeds) == 1:
        low, high = bootstrap_interval(x_SP[0], None, RESAMPLES, seed, level, limits)
        flips = np.random.default_rng([seed, 1])
        return SeedsEstimate(
            value, low, high, sign_flip(x_SP[0], RESAMPLES, flips), of_seeds, None, p
        )
    sd = float(means_S.std(ddof=1))
    if p == 1:
        return SeedsEstimate(value, *limits, 1.0, of_seeds, sd, p)
    variances = crossed_variances(x_SP)
    half = _half(1 - level, variances, p, len(of_seeds))
    p_value = _p_value(abs(value), variances, p, len(of_seeds))
    return SeedsEstimate(
        value, max(limits[0], value - half), min(limits[1], value + half), p_value, of_seeds, sd, p
    )


def pooled_p_values(values: Sequence[npt.ArrayLike]) -> list[float]:
    """p-values of several means, of 0, if the seeds of all of them spread alike.

    With three seeds the spread of one recipe is known from two degrees of freedom; ten recipes
    together have twenty, and see far smaller changes. But a recipe whose seeds spread more than the
    others' is then certain too easily: where one of ten spreads three times as much, its intervals
    would miss in some 30 of 100 cases instead of 5.

    Args:
        values: Of each recipe an array `[seeds, problems]`, as `over_seeds` takes it. One with a
            single seed, which has no spread of its own, uses that of the others; where all are
            single, the p-values are those of `over_seeds`.
    """
    arrays = [np.asarray(x, dtype=np.float64) for x in values]
    several = [x_SP for x_SP in arrays if len(x_SP) > 1 and x_SP.shape[1] > 1]
    if not several:
        return [over_seeds(x_SP, (-math.inf, math.inf)).p_value for x_SP in arrays]
    freedom = sum(len(x_SP) - 1 for x_SP in several)
    # For a single seed: its variance, which includes the noise of its problems, and that noise.
    spread = (
        sum((len(x_SP) - 1) * float(x_SP.mean(axis=1).var(ddof=1)) for x_SP in several) / freedom
    )
    noise = (
        sum((len(x_SP) - 1) * crossed_variances(x_SP)[2] * len(x_SP) for x_SP in several) / freedom
    )
    found: list[float] = []
    for x_SP in arrays:
        s, p = x_SP.shape
        problems = float(x_SP.mean(axis=0).var(ddof=1)) / p if p > 1 else math.inf
        variances = problems, spread / s, noise / s
        found.append(
            1.0 if p == 1 else _p_value(abs(float(x_SP.mean())), variances, p, freedom + 1)
        )
    return found


def crossed_variances(x_SP: Floats) -> tuple[float, float, float]:
    """V_p, V_s and V_e of the module's formula.

    Args:
        x_SP: At least two seeds and two problems.
    """
    s, p = x_SP.shape
    of_problem_P, of_seed_S = x_SP.mean(axis=0), x_SP.mean(axis=1)
    rest_SP = x_SP - of_problem_P - of_seed_S[:, None] + x_SP.mean()
    problems = float(of_problem_P.var(ddof=1)) / p
    seeds = float(of_seed_S.var(ddof=1)) / s
    rest = float(np.sum(rest_SP**2)) / ((s - 1) * (p - 1)) / (s * p)
    return problems, seeds, rest


def _half(tail: float, variances: tuple[float, float, float], p: int, s: int) -> float:
    """Half of the interval that leaves out `tail`."""
    problems, seeds, rest = variances
    of_problems = student_critical(tail, p - 1) ** 2
    both = of_problems * max(0.0, problems - rest) + student_critical(tail, s - 1) ** 2 * seeds
    return math.sqrt(max(both, of_problems * problems))


def _p_value(distance: float, variances: tuple[float, float, float], p: int, s: int) -> float:
    """The level at which half of the interval is just the distance from 0."""
    if distance < 1e-9:
        return 1.0
    # All seeds and problems are alike: the smallest p-value that sign flips of the problems give.
    if sum(variances) < 1e-18:
        return max(2.0 ** (1 - p), 1 / (1 + RESAMPLES))
    low, high = math.log(_LEAST_P), 0.0
    for _ in range(24):  # to 6 digits
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _half(math.exp(middle), variances, p, s) > distance else (low, middle)
        )
    return math.exp((low + high) / 2)
