"""Records -> the numbers of a run.

This is what summary.json holds and every page, terminal and figure shows.

Denominators: accuracy is over all samples of a problem, with those that have no answer or could not
be graded among them and counted beside it. A problem counts in a view when all of its samples exist
and are graded, and in the gap when it is complete in every view of both sides; `warnings` reports
what is left out. Fields and units are in `results`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modgap.analysis import gap as stats
from modgap.analysis import mathverse
from modgap.analysis.causal import split
from modgap.analysis.resampling import SEED
from modgap.analysis.results import (
    GapPart,
    GapSummary,
    PairTable,
    Summary,
    TokenQuantiles,
    TypeGap,
    ViewSummary,
)
from modgap.analysis.scores import Scores
from modgap.analysis.transcription import Readings, decompose
from modgap.analysis.warnings import warnings
from modgap.core.rows import OUTCOMES, GradeRow, ProblemRow, Response
from modgap.core.text import degenerate
from modgap.core.view import ALL_VIEWS


def summarise(
    problems: Mapping[str, ProblemRow],
    responses: Iterable[Response],
    grades: Iterable[GradeRow],
    expected_samples: int | None = None,
) -> Summary:
    """The summary of a run from its records.

    Args:
        problems: All problems that were asked, by id.
        responses: The model's responses.
        grades: One for each response.
        expected_samples: Samples requested of each problem and view; by default the most that any
            has.
    """
    return summarise_run(Scores.of(problems, responses, grades, expected_samples))


def summarise_run(scores: Scores, readings: Readings | None = None) -> Summary:
    """The summary of arranged scores; see `summarise`.

    Args:
        scores: The scores.
        readings: How their problems were read, where the caller needs that, too.
    """
    readings = readings or Readings.of(scores)
    paired_P = scores.paired_P
    has_gap = bool(paired_P.any())
    summary = Summary(
        mode=" and ".join(scores.modes),
        n_problems=len(scores.problems),
        samples_per_problem=scores.codes_PVS.shape[2],
        views={name: _view(scores, v) for v, name in enumerate(scores.views)},
        gap=_gap(scores, paired_P) if has_gap else None,
        leaky=_leaky(scores, paired_P) if has_gap else {},
        types=_types(scores, paired_P, "type") if has_gap else [],
        subjects=_subjects(scores, paired_P),
        reading=decompose(readings) if has_gap else None,
        causal=split(scores) if has_gap else None,
        pairable=bool(scores.side("text") and scores.side("vision")),
        mathverse=mathverse.breakdown(scores, lambda keep_P: gap_part(scores, keep_P)),
    )
    return summary.model_copy(update={"warnings": warnings({"": summary})})


def _view(scores: Scores, v: int) -> ViewSummary:
    """One view, over the problems that are complete in it."""
    name, complete_P = scores.views[v], scores.complete_PV[:, v]
    asked_S = scores.asked_VS[v]
    codes_PS, tokens_PS, cut_PS = (
        x[complete_P, v][:, asked_S] for x in (scores.codes_PVS, scores.tokens_PVS, scores.cut_PVS)
    )
    missing_PS = scores.codes_PVS[:, v, asked_S] < 0
    absent_P = scores.absent_PV[:, v]
    correct, wrong, no_answer, error = (
        int((codes_PS == code).sum()) for code in range(len(OUTCOMES))
    )
    row = ViewSummary(
        side=ALL_VIEWS[name].side if name in ALL_VIEWS else "control",
        n_problems=int(complete_P.sum()),
        n_samples=codes_PS.size,
        correct=correct,
        wrong=wrong,
        no_answer=no_answer,
        error=error,
        truncated=int(cut_PS.sum()),
        missing_samples=int(missing_PS[~absent_P].sum()),
        absent_problems=int(absent_P.sum()),
    )
    if codes_PS.size == 0:
        return row
    samples = codes_PS.shape[1]
    right_P = (codes_PS == 0).sum(axis=1)
    accuracy = stats.accuracy(right_P, samples)
    votes = (scores.votes(int(p), v, asked_S) for p in np.flatnonzero(complete_P))
    p10, p50, p90 = (float(number) for number in np.percentile(tokens_PS, (10, 50, 90)))
    return row.model_copy(
        update={
            "accuracy": accuracy.value,
            "ci_low": accuracy.ci_low,
            "ci_high": accuracy.ci_high,
            "truncation_rate": row.truncated / row.n_samples,
            "no_answer_rate": row.no_answer / row.n_samples,
            "error_rate": row.error / row.n_samples,
            "mean_completion_tokens": float(tokens_PS.mean()),
            "completion_tokens": TokenQuantiles(p10=p10, p50=p50, p90=p90),
            "pass_at_k": {
                str(k): stats.pass_at_k(samples, right_P, k) for k in range(1, samples + 1)
            },
            "maj_at_k": float(
                np.mean([vote_is_right(*one) for one in zip(votes, codes_PS, strict=True)])
            ),
        }
    )


def vote_is_right(votes_S: Sequence[float | str | None], codes_S: NDArray[np.int8]) -> bool:
    """Whether the most frequent answer among the samples is right.

    Answers in words are counted only where no sample gives a number.
    """
    winner: Any = stats.majority_vote(
        [vote if isinstance(vote, float) else None for vote in votes_S]
    )
    if winner is None:
        words = Counter(vote for vote in votes_S if vote is not None)
        if not words:
            return False
        winner = words.most_common(1)[0][0]
    first = next(s for s, vote in enumerate(votes_S) if vote == winner)
    return bool(codes_S[first] == 0)


def _gap(scores: Scores, keep_P: NDArray[np.bool_]) -> GapSummary:
    """The gap over some problems that are complete on both sides."""
    gap = stats.paired_gap(scores.rates("text")[keep_P], scores.rates("vision")[keep_P], seed=SEED)
    text, vision = _accuracy(scores, "text", keep_P), _accuracy(scores, "vision", keep_P)
    (both, text_only), (vision_only, neither) = gap.table
    return GapSummary(
        text_views=[scores.views[v] for v in scores.side("text")],
        vision_views=[scores.views[v] for v in scores.side("vision")],
        n_problems=gap.n_problems,
        text_accuracy=text.value,
        text_ci_low=text.ci_low,
        text_ci_high=text.ci_high,
        vision_accuracy=vision.value,
        vision_ci_low=vision.ci_low,
        vision_ci_high=vision.ci_high,
        points=gap.points,
        ci_low=gap.ci_low,
        ci_high=gap.ci_high,
        degenerate=degenerate(gap.ci_low, gap.ci_high),
        p_value=gap.p_value,
        relative=gap.relative,
        table=PairTable(both=both, text_only=text_only, vision_only=vision_only, neither=neither),
        p_vision_given_text=gap.p_vision_given_text,
        p_text_given_vision=gap.p_text_given_vision,
    )


def _accuracy(scores: Scores, side: str, keep_P: NDArray[np.bool_]) -> stats.Estimate:
    """The accuracy on one side of the gap, over some problems that are complete there."""
    samples = scores.codes_PVS.shape[2] * len(scores.side(side))
    return stats.accuracy(np.rint(scores.rates(side)[keep_P] * samples), samples)


def gap_part(scores: Scores, keep_P: NDArray[np.bool_]) -> GapPart | None:
    """The gap of a part of the problems, in short; `None` for an empty part."""
    if not keep_P.any():
        return None
    gap = _gap(scores, keep_P)
    return GapPart(
        n_problems=gap.n_problems,
        text_accuracy=gap.text_accuracy,
        vision_accuracy=gap.vision_accuracy,
        points=gap.points,
        ci_low=gap.ci_low,
        ci_high=gap.ci_high,
        degenerate=gap.degenerate,
        p_value=gap.p_value,
    )


def _leaky(scores: Scores, paired_P: NDArray[np.bool_]) -> dict[str, GapPart | None]:
    leaky_P = np.array([problem.leaky for problem in scores.problems])
    return {
        "leaky": gap_part(scores, paired_P & leaky_P),
        "clean": gap_part(scores, paired_P & ~leaky_P),
    }


def _subjects(scores: Scores, paired_P: NDArray[np.bool_]) -> list[TypeGap] | None:
    """The gap of each subject; `None` without two of them, and of MathVerse, which has its own."""
    subjects = {problem.subject for problem in scores.problems}
    if len(subjects) < 2 or not paired_P.any() or any(p.views for p in scores.problems):
        return None
    return _types(scores, paired_P, "subject")


def _types(scores: Scores, paired_P: NDArray[np.bool_], label: str) -> list[TypeGap]:
    """The gap of each problem type or subject, largest first, with Holm's correction over them."""
    types_P = np.array([getattr(problem, label) for problem in scores.problems], object)
    parts: dict[str, GapPart] = {}
    for name in sorted(set(types_P)):
        if part := gap_part(scores, paired_P & (types_P == name)):
            parts[name] = part
    ordered = sorted(parts.items(), key=lambda item: -item[1].n_problems)
    corrected = stats.holm([part.p_value for _, part in ordered])
    return [
        TypeGap(type=name, **part.model_dump(), p_holm=p_holm)
        for (name, part), p_holm in zip(ordered, corrected, strict=True)
    ]


def changes(runs: Mapping[str, Scores]) -> dict[str, stats.GapChange]:
    """Change of the gap of each run against the first one.

    Computed over the problems that are complete in both.

    Returns:
        Name -> the change (negative is a smaller gap); only for runs that share problems (the same
        id, question and gold answer) with the first one.
    """
    names: Sequence[str] = list(runs)
    found: dict[str, stats.GapChange] = {}
    if len(names) < 2:
        return found
    before = runs[names[0]]
    before_at = _paired_at(before)
    for name in names[1:]:
        after = runs[name]
        after_at = _paired_at(after)
        shared = [key for key in before_at if key in after_at]
        if shared:
            old, new = [before_at[key] for key in shared], [after_at[key] for key in shared]
            found[name] = stats.gap_change(
                before.rates("text")[old],
                before.rates("vision")[old],
                after.rates("text")[new],
                after.rates("vision")[new],
                seed=SEED,
            )
    return found


def _paired_at(scores: Scores) -> dict[tuple[str, str, str], int]:
    """The outcome in both views of each paired problem."""
    paired_P = scores.paired_P
    return {
        (row.id, row.question, row.answer): p
        for p, row in enumerate(scores.problems)
        if paired_P[p]
    }
