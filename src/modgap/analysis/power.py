"""Planning a study: how many problems and samples show a gap of a given size.

Normal approximation of the paired test, after Miller (2024), arXiv:2411.00640. The assumptions are
arguments: take them from a pilot run if there is one. The paper has no power analysis.
"""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()


def difference_sd(
    points: float,
    samples: int,
    text_accuracy: float = 0.6,
    consistency: float = 0.6,
    correlation: float = 0.6,
) -> float:
    """Expected standard deviation over problems of (text rate - vision rate), in points.

    A problem has a chance p of being solved in a view; over problems p varies with variance `tau^2
    = consistency * a (1 - a)` around the view's accuracy a, and the views' chances correlate. Then
    `Var(rate) = tau^2 + (a (1 - a) - tau^2) / samples` and `Cov = correlation * tau_text *
    tau_vision`.

    Args:
        points: The gap.
        samples: Samples of each problem in each view.
        text_accuracy: In the text-centric view; the other one is lower by the gap.
        consistency: Intraclass correlation of a problem's samples: 0 if all problems are alike, 1
            if a problem is either always or never solved. The default is a guess; take it from a
            pilot run.
        correlation: Between a problem's chances in the two views. A guess, too.

    Raises:
        ValueError: If an argument is out of range, or the gap larger than the text accuracy.
    """
    if not 0 <= text_accuracy <= 1:
        raise ValueError(f"the text accuracy must be from 0 to 1, not {text_accuracy}")
    vision_accuracy = text_accuracy - points / 100
    if not -1e-9 <= vision_accuracy <= 1 + 1e-9:
        raise ValueError(
            f"a text accuracy of {text_accuracy} less {points} points is an image accuracy of"
            f" {vision_accuracy:g}, which is not from 0 to 1; change one of them"
        )
    vision_accuracy = min(max(vision_accuracy, 0.0), 1.0)  # 0.6 - 0.6 may miss 0 by a rounding
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    if not 0 <= consistency <= 1:
        raise ValueError(f"the consistency must be from 0 to 1, not {consistency}")
    if not -1 <= correlation <= 1:
        raise ValueError(f"the correlation must be from -1 to 1, not {correlation}")
    spreads = [accuracy * (1 - accuracy) for accuracy in (text_accuracy, vision_accuracy)]
    taus = [consistency * spread for spread in spreads]
    total = sum(tau + (spread - tau) / samples for tau, spread in zip(taus, spreads, strict=True))
    return 100 * math.sqrt(max(0.0, total - 2 * correlation * math.sqrt(taus[0] * taus[1])))


def power(
    points: float, problems: int, samples: int, level: float = 0.95, **assumptions: float
) -> float:
    """The power of a two-sided paired test to find a gap of `points`.

    Computed in the normal approximation.

    `Phi(|points| / se - z) + Phi(-|points| / se - z)` with `se = difference_sd / sqrt(problems)`.

    Args:
        points: The true gap.
        problems: Problems in the study.
        samples: Samples of each problem in each view.
        level: 1 - level is the size of the test.
        **assumptions: Of `difference_sd`.

    Raises:
        ValueError: As in `difference_sd`, or if there is no problem.
    """
    if problems < 1:
        raise ValueError(f"{problems} problems cannot show a gap; at least 1 is needed")
    deviation = difference_sd(points, samples, **assumptions)
    if deviation == 0:
        return 1.0 if points else 1 - level
    effect, z = abs(points) / deviation * math.sqrt(problems), _NORMAL.inv_cdf(0.5 + level / 2)
    return _NORMAL.cdf(effect - z) + _NORMAL.cdf(-effect - z)


def problems_needed(
    points: float, samples: int, target: float = 0.8, level: float = 0.95, **assumptions: float
) -> int:
    """The fewest problems with which a gap of `points` is found with the power `target`.

    See `power`.

    `(z_level + z_target)^2 * (difference_sd / points)^2`, rounded up.

    Raises:
        ValueError: As in `difference_sd`, or if the gap is 0 or target or level are not between 0
            and 1.
    """
    if points == 0:
        raise ValueError("no number of problems shows a gap of 0 points")
    for name, share in (("power", target), ("level", level)):
        if not 0 < share < 1:
            raise ValueError(f"the {name} must be between 0 and 1, not {share}")
    z = _NORMAL.inv_cdf(0.5 + level / 2) + _NORMAL.inv_cdf(target)
    return max(2, math.ceil((z * difference_sd(points, samples, **assumptions) / points) ** 2))
