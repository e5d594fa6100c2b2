"""MathVerse's breakdown: overall, text and vision, by version, by question type and by subject.

The parts are those that the original's `eval-results.py --full` prints, and subjects. It pools samples; here accuracy
is the mean over problems, with an interval clustered by problem (`problem_index`), whose versions are not independent.
Where every problem has the same versions the two accuracies are the same. Overall is over the versions on the two sides
of the gap; Text Only stands by itself (the original's own figures count it there).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modgap.analysis import gap as stats
from modgap.analysis.scores import Scores
from modgap.core.problem import split_grader
from modgap.core.record import OUTCOMES
from modgap.core.view import VERSIONS
from modgap.grading.mathverse import NAME


def breakdown(scores: Scores, gap_of: Callable[[NDArray[np.bool_]], Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The breakdown of a run; `None` where none of its problems is MathVerse's.

    Args:
        scores: The verdicts.
        gap_of: The gap over some problems, of those that are complete on both sides; `None` for none.

    Returns:
        `overall`, `text`, `vision`, `versions` (view -> ...), each with `accuracy`, `ci_low`, `ci_high` (`None` where
        nothing is complete), `n_problems`, `n_samples` and the four outcomes; `question_types` and `subjects` (name ->
        the same parts, and `gap`).
    """
    graders = [split_grader(problem.grader) for problem in scores.problems]
    if not any(name == NAME for name, _ in graders):
        return None
    kinds_P = np.array([kind if name == NAME else "" for name, kind in graders], object)
    subjects_P = np.array([problem.subject for problem in scores.problems], object)
    everything_P = np.ones(len(scores.problems), np.bool_)
    found = _parts(scores, everything_P)
    for key, names_P in (("question_types", kinds_P), ("subjects", subjects_P)):
        names = sorted({name for name in names_P if name})
        found[key] = {
            name: _parts(scores, names_P == name) | {"gap": gap_of(scores.paired_P & (names_P == name))}
            for name in names
        }
    return found


def _parts(scores: Scores, keep_P: NDArray[np.bool_]) -> dict[str, Any]:
    text, vision = scores.side("text"), scores.side("vision")
    versions = [v for v, view in enumerate(scores.views) if view in VERSIONS.values()]
    return {
        "overall": _bucket(scores, keep_P, text + vision),
        "text": _bucket(scores, keep_P, text),
        "vision": _bucket(scores, keep_P, vision),
        "versions": {scores.views[v]: _bucket(scores, keep_P, [v]) for v in versions},
    }


def _bucket(scores: Scores, keep_P: NDArray[np.bool_], views: list[int]) -> dict[str, Any]:
    """Accuracy over some problems in some views, of those that are complete; each problem weighs the same."""
    counted_PV = scores.complete_PV[:, views] & keep_P[:, None]
    codes_PVS = np.where(counted_PV[:, :, None], scores.codes_PVS[:, views], -1)
    samples_P = (codes_PVS >= 0).sum(axis=(1, 2))
    row: dict[str, Any] = {
        "n_problems": int((samples_P > 0).sum()),
        "n_samples": int(samples_P.sum()),
        **{outcome: int((codes_PVS == code).sum()) for code, outcome in enumerate(OUTCOMES)},
        "accuracy": None, "ci_low": None, "ci_high": None,
    }  # fmt: skip
    if row["n_samples"]:
        right_P = (codes_PVS == 0).sum(axis=(1, 2))
        accuracy = stats.accuracy(right_P[samples_P > 0], samples_P[samples_P > 0])
        row |= {"accuracy": accuracy.value, "ci_low": accuracy.ci_low, "ci_high": accuracy.ci_high}
    return row
