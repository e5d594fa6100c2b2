"""MathVerse's breakdown: overall, text and vision, by version, by question type and by subject.

The parts are those that the original's `eval-results.py --full` prints, and subjects. It pools samples; here accuracy
is the mean over problems, with an interval clustered by problem (`problem_index`), whose versions are not independent.
Where every problem has the same versions the two accuracies are the same. Overall is over the versions on the two sides
of the gap; Text Only stands by itself (the original's own figures count it there, see `modgap.analysis.original_mathverse`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modgap.analysis import gap as stats
from modgap.core.view import VERSIONS
from modgap.reporting import tables as t

if TYPE_CHECKING:
    from modgap.analysis.summary import Scores

SETS = ("overall", "text", "vision")
_TITLES = {view: version for version, view in VERSIONS.items()}


def breakdown(scores: Scores, gap_of: Callable[[NDArray[np.bool_]], Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The breakdown of a run; `None` where its problems have no question types, that is, are not MathVerse's.

    Args:
        scores: The verdicts.
        gap_of: The gap over some problems, of those that are complete on both sides; `None` for none.

    Returns:
        `overall`, `text`, `vision`, `versions` (view -> ...), each with `accuracy`, `ci_low`, `ci_high` (`None` where
        nothing is complete), `n_problems`, `n_samples` and the four outcomes; `question_types` and `subjects` (name ->
        the same parts, and `gap`).
    """
    if not any(problem.question_type for problem in scores.problems):
        return None
    kinds_P, subjects_P = (
        np.array([getattr(problem, key) for problem in scores.problems], object) for key in ("question_type", "subject")
    )
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
    from modgap.analysis.summary import OUTCOMES

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


# ---- tables --------------------------------------------------------------------------------------------------------


def mathverse_tables(
    runs: Mapping[str, Mapping[str, Any]], *, named: bool = True, narrow: bool = False
) -> list[t.Table]:
    """The breakdown of each run of MathVerse's as tables; none where no run is one.

    Args:
        runs: Name -> summary.
        named: Whether the runs' names are shown.
        narrow: For a terminal: versions by their initials, fewer columns.
    """
    found = {name: summary for name, summary in runs.items() if summary.get("mathverse")}
    if not found:
        return []
    sets: list[tuple[str, ...]] = []
    versions: list[tuple[str, ...]] = []
    shown = [view for view in _TITLES if any(view in summary["mathverse"]["versions"] for summary in found.values())]
    for name, summary in found.items():
        first = (name,) if named else ()
        for part, of_part in _every_part(summary).items():
            sets += [
                (*first, part, which, *_cells(of_part[which], narrow)) for which in SETS if of_part[which]["n_samples"]
            ]
            accuracies = (t.percent(of_part["versions"].get(view, {}).get("accuracy")) for view in shown)
            gap = of_part["gap"]
            points = (t.signed(gap["points"]), t.interval(gap["ci_low"], gap["ci_high"])) if gap else ("–", "–")
            versions.append((*first, part, *accuracies, *points))
    titles = [_TITLES[view] for view in shown]
    short = ["".join(word[0] for word in title.split()) for title in titles]
    legend = f" ({', '.join(f'{a} {title}' for a, title in zip(short, titles, strict=True))})" if narrow else ""
    run = ("run",) if named else ()
    spread = ("accuracy %",) if narrow else ("accuracy %", "95% interval", "problems")
    left = len(run) + 1
    tables = [
        t.Table(
            "MathVerse by side, question type and subject (95% intervals clustered by problem)",
            (*run, "part", "versions", *spread, "correct", "of"),
            tuple(sets),
            left=left + 1,
        ),
        t.Table(
            f"MathVerse by version, accuracy in percent, and the gap in points{legend}",
            (*run, "part", *(short if narrow else titles), "gap", "95% interval"),
            tuple(versions),
            left=left,
        ),
    ]
    return [table for table in tables if table.rows]  # of a Text Only run there are no sides


def _cells(row: Mapping[str, Any], narrow: bool) -> tuple[str, ...]:
    value, spread = t.percent(row["accuracy"]), t.interval(row["ci_low"], row["ci_high"], 100)
    shown = (f"{value} ({spread})",) if narrow else (value, spread, str(row["n_problems"]))
    return (*shown, str(row["correct"]), str(row["n_samples"]))


def _every_part(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    whole = summary["mathverse"]
    return {"all": {**whole, "gap": summary["gap"]}, **whole["question_types"], **whole["subjects"]}
