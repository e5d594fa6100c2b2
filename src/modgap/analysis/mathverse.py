"""MathVerse's breakdown: overall, text and vision, by version, by question type and by subject.

The parts are those that the original's `eval-results.py --full` prints, and subjects. It pools
samples; here accuracy is the mean over problems, with an interval clustered by problem
(`problem_index`), whose versions are not independent. Where every problem has the same versions the
two accuracies are the same. Overall is over the versions on the two sides of the gap; Text Only is
reported separately (the original's own figures count it in the overall).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from modgap.analysis import gap as stats
from modgap.analysis.results import Bucket, GapPart, MathversePart, MathverseSets, MathverseSummary
from modgap.analysis.scores import Scores
from modgap.core.problem import split_grader
from modgap.core.rows import OUTCOMES
from modgap.core.view import VERSIONS
from modgap.grading.mathverse import NAME


def breakdown(
    scores: Scores, gap_of: Callable[[NDArray[np.bool_]], GapPart | None]
) -> MathverseSummary | None:
    """The breakdown of a run; `None` where none of its problems is MathVerse's.

    Args:
        scores: The verdicts.
        gap_of: The gap over those of some problems that are complete on both sides; `None` if there
            are none.
    """
    graders = [split_grader(problem.grader) for problem in scores.problems]
    if not any(name == NAME for name, _ in graders):
        return None
    everything_P = np.ones(len(scores.problems), np.bool_)
    return MathverseSummary(
        **dict(_sets(scores, everything_P)),
        question_types=_by(
            scores, [kind if name == NAME else "" for name, kind in graders], gap_of
        ),
        subjects=_by(scores, [problem.subject for problem in scores.problems], gap_of),
    )


def _by(
    scores: Scores, names: list[str], gap_of: Callable[[NDArray[np.bool_]], GapPart | None]
) -> dict[str, MathversePart]:
    """The parts that problems fall into by a name; problems without one belong to no part."""
    names_P = np.array(names, object)
    found: dict[str, MathversePart] = {}
    for name in sorted({name for name in names if name}):
        keep_P = names_P == name
        found[name] = MathversePart(
            **dict(_sets(scores, keep_P)), gap=gap_of(scores.paired_P & keep_P)
        )
    return found


def _sets(scores: Scores, keep_P: NDArray[np.bool_]) -> MathverseSets:
    text, vision = scores.side("text"), scores.side("vision")
    versions = [v for v, view in enumerate(scores.views) if view in VERSIONS.values()]
    return MathverseSets(
        overall=_bucket(scores, keep_P, text + vision),
        text=_bucket(scores, keep_P, text),
        vision=_bucket(scores, keep_P, vision),
        versions={scores.views[v]: _bucket(scores, keep_P, [v]) for v in versions},
    )


def _bucket(scores: Scores, keep_P: NDArray[np.bool_], views: list[int]) -> Bucket:
    """Accuracy over some problems in some views; incomplete ones are left out.

    Each problem has the same weight.
    """
    counted_PV = scores.complete_PV[:, views] & keep_P[:, None]
    codes_PVS = np.where(counted_PV[:, :, None], scores.codes_PVS[:, views], -1)
    samples_P = (codes_PVS >= 0).sum(axis=(1, 2))
    correct, wrong, no_answer, error = (
        int((codes_PVS == code).sum()) for code in range(len(OUTCOMES))
    )
    accuracy = None
    if samples_P.any():
        right_P = (codes_PVS == 0).sum(axis=(1, 2))
        accuracy = stats.accuracy(right_P[samples_P > 0], samples_P[samples_P > 0])
    return Bucket(
        n_problems=int((samples_P > 0).sum()),
        n_samples=int(samples_P.sum()),
        correct=correct,
        wrong=wrong,
        no_answer=no_answer,
        error=error,
        accuracy=accuracy.value if accuracy else None,
        ci_low=accuracy.ci_low if accuracy else None,
        ci_high=accuracy.ci_high if accuracy else None,
    )
