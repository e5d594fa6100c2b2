"""The difference between two runs on the same problems, divided into parts that add up.

Every quantity is a mean over problems of a mean over the views that both runs have, so that each
part has a value for each problem, and its interval is a bootstrap over problems.

With `own(X)` the verdicts that run X was given, `R(X)` those of a reference grader on X's responses
and `R(X')` the same after the longer responses were cut at the shorter token limit:

```
own(B) - own(A) =   [own(B) - R(B)] - [own(A) - R(A)]      extraction, tolerance, judge
                  + [R(B) - R(B')]  - [R(A) - R(A')]       truncation
                  + R(B') - R(A')                          prompts, sampling/other
```

The first line is divided by the Shapley value over the three components in which the run's grader
and the reference differ. Both runs' graders serve as the reference, and the parts are the mean over
both; a grader that cannot be applied to other responses (another tool's) does not. The last line
belongs to `prompts` where the two runs asked a problem in different words, and else to
`sampling/other`, the remainder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from modgap.analysis.resampling import SEED, Floats, bootstrap_interval
from modgap.analysis.results import Result

GRADING: Final = ("extraction", "tolerance", "judge")
"""The components of a grader, in the order of the tables."""
PARTS: Final = ("prompts", "truncation", *GRADING, "sampling/other")
RESAMPLES: Final = 10_000
LEVEL: Final = 0.95


class Amount(Result):
    """A part of the difference, in percentage points, with its 95% interval.

    Attributes:
        points: B minus A.
        ci_low: Lower end of its interval.
        ci_high: Upper end.
    """

    points: float
    ci_low: float
    ci_high: float


class Part(Amount):
    """One part of the difference.

    Attributes:
        name: One of `PARTS`.
        n_problems: Problems on which it is not 0.
        note: What else it may hold, or why it is not known; empty otherwise.
    """

    name: str
    n_problems: int
    note: str = ""


class Difference(Result):
    """One quantity in both runs, and the parts of its difference.

    Attributes:
        name: A view, `accuracy` over all shared views, or `gap`.
        n_problems: Problems that both runs have.
        a: Its value in run A: an accuracy from 0 to 1, or a gap in points.
        b: Its value in run B.
        total: B minus A.
        parts: They add up to `total`.
    """

    name: str
    n_problems: int
    a: float
    b: float
    total: Amount
    parts: list[Part]


class Flip(Result):
    """A problem in a view that one run solves in most samples and the other does not.

    Attributes:
        problem_id: The problem.
        view: The view.
        right_in: `a` or `b`.
        a: Share of A's samples that are right.
        b: Share of B's.
        because: The part that changes most in the direction of the flip.
        parts: Every part that is not 0, in points.
        answer_a: What A answered in its first sample that is right, or that is not where B solves
            it; empty without an answer.
        answer_b: The same of B.
        gold: The gold answer.
    """

    problem_id: str
    view: str
    right_in: str
    a: float
    b: float
    because: str
    parts: dict[str, float]
    answer_a: str
    answer_b: str
    gold: str


class Explanation(Result):
    """What `modgap explain` finds.

    Attributes:
        run_a: The first run.
        run_b: The second.
        graded_a: How A's verdicts came about, in words.
        graded_b: How B's did.
        method: How the parts were computed, in words.
        sentence: The finding.
        accuracy: Over all shared views.
        views: For each shared view.
        gap: Of the gap, where both runs have both sides.
        sampling_noise: Half the width of the 95% interval in which the accuracy differs by chance
            if the same prompts are sampled again, in points; `None` with one sample of a prompt.
        flips: Problems and views that flip, the most by one part first.
        left_out: Why samples and problems are not compared -> how many.
        warnings: What keeps the runs from being comparable.
    """

    run_a: str
    run_b: str
    graded_a: str
    graded_b: str
    method: str
    sentence: str
    accuracy: Difference
    views: list[Difference]
    gap: Difference | None
    sampling_noise: float | None
    flips: list[Flip]
    left_out: dict[str, int]
    warnings: list[str]


def shapley(names: Sequence[str], value: Callable[[frozenset[str]], Floats]) -> dict[str, Floats]:
    """The Shapley value of each component.

    Args:
        names: The components.
        value: Gives the outcome where the components of a set are those of the run, and the others
            those of the reference; one number for each response.

    Returns:
        Component -> its share; they add up to `value(all) - value(none)`.
    """
    count = len(names)
    found: dict[str, Floats] = {}
    for name in names:
        others = [other for other in names if other != name]
        parts: list[Floats] = []
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1)
            for chosen in combinations(others, size):
                before = frozenset(chosen)
                gained = value(before | {name}) - value(before)
                parts.append(gained * (weight / math.factorial(count)))
        found[name] = np.sum(parts, axis=0)
    return found


def difference(
    name: str,
    a_P: Floats,
    b_P: Floats,
    parts_P: Mapping[str, Floats],
    notes: Mapping[str, str],
    *,
    scale: float = 1.0,
) -> Difference:
    """A quantity, its difference and the parts of it, with intervals.

    Args:
        name: Of the quantity.
        a_P: Its value in run A for each problem, from 0 to 1 (a gap: from -1 to 1).
        b_P: The same in run B.
        parts_P: Part -> its value for each problem; they add up to `b_P - a_P`.
        notes: Part -> what is to be said of it.
        scale: By which `a` and `b` are given.

    Raises:
        ValueError: The parts do not add up.
    """
    total_P = b_P - a_P
    most = 2.0 if name == "gap" else 1.0
    if not np.allclose(sum(parts_P.values(), np.zeros_like(total_P)), total_P, atol=1e-9):
        raise ValueError(f"the parts of {name} do not add up to its difference")
    return Difference(
        name=name,
        n_problems=len(a_P),
        a=scale * float(a_P.mean()),
        b=scale * float(b_P.mean()),
        total=Amount(**_points(total_P, most)),
        parts=[
            Part(
                name=part,
                n_problems=int((np.abs(parts_P[part]) > 1e-12).sum()),
                note=notes.get(part, ""),
                # A part takes up to the whole difference from each run.
                **_points(parts_P[part], 2 * most if parts_P[part].any() else 0.0),
            )
            for part in PARTS
            if part in parts_P
        ],
    )


def _points(values_P: Floats, most: float) -> dict[str, float]:
    """A mean in points with its interval: of one problem, all that is possible."""
    low, high = bootstrap_interval(values_P, None, RESAMPLES, SEED, LEVEL, (-most, most))
    return {"points": 100 * float(values_P.mean()), "ci_low": 100 * low, "ci_high": 100 * high}
