"""Why two runs differ on the same problems: `modgap explain RUN_A RUN_B`.

The runs may be of `modgap eval`, or imported from another tool, whose own verdicts then count. The
parts and how they add up are in `analysis.explained`, the swaps in `analysis.swaps`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from modgap.analysis.explained import (
    Difference,
    Explanation,
    Flip,
    difference,
)
from modgap.analysis.resampling import Floats
from modgap.analysis.run import load_run
from modgap.analysis.swaps import Grader, JudgeOf
from modgap.core.errors import UserError, command_line
from modgap.core.rows import Key
from modgap.core.view import ALL_VIEWS
from modgap.grading.graders import find_grader
from modgap.grading.judge import is_open
from modgap.workflows.halves import Cell, Halves, Side


def explain(run_a: Path | str, run_b: Path | str) -> Explanation:
    """Divide the difference between two runs into parts.

    Args:
        run_a: The folder of an evaluation or of an import.
        run_b: That of another, on the same problems.

    Returns:
        The parts, the problems that flip, and what keeps the runs from being comparable.

    Raises:
        UserError: A folder is no evaluation, or not graded; or the runs share no problem and view.
    """
    a, b = _side(run_a), _side(run_b)
    a, b = _with_all_verdicts(a, b), _with_all_verdicts(b, a)
    left_out = Counter[str]()
    cells = _shared(a, b, left_out)
    keys_a, keys_b = (_usable(side, cells, left_out) for side in (a, b))
    cells = [cell for cell in cells if keys_a.get(cell) and keys_b.get(cell)]
    if not cells:
        why = "; ".join(f"{what}: {count:,}" for what, count in left_out.items())
        raise UserError(
            f"{a.path} and {b.path} share no problem that both answered in one view"
            f"{f' ({why})' if why else ''}: give two runs of the same problems."
        )
    halves = Halves(a, b, cells, keys_a, keys_b)
    return _explanation(halves, dict(left_out))


# ---- the two runs --------------------------------------------------------------------------------


def _side(path: Path | str) -> Side:
    run = load_run(path)
    manifest, problems = run.manifest, run.problems
    grades = run.grades
    tool = str(manifest.get("resolved", {}).get("tool") or "")
    theirs = run.folder.grades(tool) if tool else []
    if theirs:
        grader = Grader("its own", "", JudgeOf(f"{tool}'s"), tool)
        grades = theirs
    elif not grades:
        raise UserError(f"{path} is not graded: `{command_line('grade', path)}` first.")
    else:
        judged = any(find_grader(name).judged for name in {row.grader for row in problems.values()})
        grader = Grader.of_run(run.folder, grades[0].mode, judged=judged)
    return Side(
        Path(path), manifest, problems, {row.key: row for row in run.responses},
        {row.key: row for row in grades}, grader,
    )  # fmt: skip


def _with_all_verdicts(side: Side, other: Side) -> Side:
    """The run, its judge with the other run's verdicts too where it is the same judge."""
    mine, theirs = side.grader.judge, other.grader.judge
    if side.grader.tool or mine != theirs or not mine.name:
        return side
    judge = JudgeOf(mine.name, mine.mode, mine.tokens, {**theirs.said, **mine.said})
    grader = Grader(side.grader.extraction, side.grader.tolerance, judge)
    return Side(side.path, side.manifest, side.problems, side.responses, side.grades, grader)


def _shared(a: Side, b: Side, left_out: Counter[str]) -> list[Cell]:
    """The problems and views that both runs have, with the same gold answer."""
    cells_a, cells_b = ({key[:2] for key in side.responses} for side in (a, b))
    others = sorted({view for _, view in cells_a} - ALL_VIEWS.keys())
    shared: list[Cell] = []
    for name in a.problems:
        for view in (*ALL_VIEWS, *others):
            cell = (name, view)
            if cell not in cells_a or cell not in cells_b or name not in b.problems:
                continue
            golds = [side.problems[name].gold_of(view) for side in (a, b)]
            if not _same_gold(*golds):
                left_out["problems and views with another gold answer in each run"] += 1
            else:
                shared.append(cell)
    for side, mine, other in ((a, cells_a, cells_b), (b, cells_b, cells_a)):
        if alone := len(mine - other):
            left_out[f"problems and views that only {side.path} has"] += alone
    return shared


def _same_gold(a: str, b: str) -> bool:
    if a.strip() == b.strip():
        return True
    try:
        return float(a) == float(b)
    except ValueError:
        return False


def _usable(side: Side, cells: Iterable[Cell], left_out: Counter[str]) -> dict[Cell, list[Key]]:
    """The samples of each cell that have a verdict; the others are counted by their reason."""
    wanted = set(cells)
    found: dict[Cell, list[Key]] = {}
    for key, response in side.responses.items():
        if key[:2] not in wanted:
            continue
        grade = side.grades.get(key)
        if response.finish_reason == "error":
            why = "without a response"
        elif grade is None:
            why = "without a verdict"
        elif grade.outcome == "error" and (side.grader.tool or grade.stage == "gold"):
            why = "whose verdict is an error"
        elif grade.outcome == "error" and grade.stage == "judge":
            # What waits for a judge is not right, as in the run's own accuracy; a judge that was
            # asked and failed says nothing.
            why = "" if is_open(grade.stage, grade.reason) else "that the judge failed on"
        else:
            why = ""
        if why:
            left_out[f"samples of {side.path} {why}"] += 1
        else:
            found.setdefault((key[0], key[1]), []).append(key)
    return found


# ---- the explanation -----------------------------------------------------------------------------


def _explanation(halves: Halves, left_out: dict[str, int]) -> Explanation:
    a, b = halves.a, halves.b
    views = [view for view in ALL_VIEWS if any(cell[1] == view for cell in halves.cells)]
    views += sorted({cell[1] for cell in halves.cells} - set(views))

    def over(name: str, wanted: Sequence[str]) -> Difference:
        _, mean = halves.by_problem(wanted)
        parts = {part: mean(values) for part, values in halves.parts.items()}
        return difference(name, mean(halves.a_C), mean(halves.b_C), parts, halves.notes)

    accuracy = over("accuracy", views)
    variances = halves.noise_variances()
    noise = None
    if variances is not None:
        _, mean = halves.by_problem(views)
        counts = Counter(cell[0] for cell in halves.cells)
        names, _ = halves.by_problem(views)
        per_problem = mean(variances) / np.array([counts[name] for name in names])
        noise = 100 * 1.96 * math.sqrt(per_problem.sum()) / len(names)
    warnings = [*halves.warnings, *_bias_words((a, b), left_out)]
    if left_out:
        said = "; ".join(f"{what}: {count:,}" for what, count in left_out.items())
        warnings.append(f"Left out of the comparison: {said}.")
    return Explanation(
        run_a=str(a.path),
        run_b=str(b.path),
        graded_a=a.grader.words,
        graded_b=b.grader.words,
        method=halves.method,
        sentence=_sentence(accuracy, noise),
        accuracy=accuracy,
        views=[over(view, [view]) for view in views] if len(views) > 1 else [],
        gap=_gap(halves, views),
        sampling_noise=noise,
        flips=_flips(halves),
        left_out=left_out,
        warnings=warnings,
    )


def _bias_words(sides: Sequence[Side], left_out: Mapping[str, int]) -> list[str]:
    """A warning where the verdicts that are left out could only have been of one kind."""
    return [
        f"Of {side.grader.tool} only a score of 0 can be unknown: on the samples that are left,"
        f" {side.path} is right more often than on all."
        for side in sides
        if side.grader.tool in ("lmms-eval", "vlmevalkit")
        and any(str(side.path) in what and "verdict" in what for what in left_out)
    ]


def _gap(halves: Halves, views: Sequence[str]) -> Difference | None:
    """The difference of the gaps, over the problems that both runs have on both sides."""
    sides = {
        side: [view for view in views if view in ALL_VIEWS and ALL_VIEWS[view].side == side]
        for side in ("text", "vision")
    }
    if not all(sides.values()):
        return None
    (text, mean_text), (vision, mean_vision) = (halves.by_problem(sides[side]) for side in sides)
    shared = [name for name in text if name in set(vision)]
    if not shared:
        return None
    at_text, at_vision = ({name: p for p, name in enumerate(names)} for names in (text, vision))
    rows_text = [at_text[name] for name in shared]
    rows_vision = [at_vision[name] for name in shared]

    def gap(values_C: Floats) -> Floats:
        return mean_text(values_C)[rows_text] - mean_vision(values_C)[rows_vision]

    parts = {part: gap(values) for part, values in halves.parts.items()}
    return difference("gap", gap(halves.a_C), gap(halves.b_C), parts, halves.notes, scale=100.0)


def _sentence(accuracy: Difference, noise: float | None) -> str:
    """The finding in words: the difference, its parts by size, and whether chance explains it."""
    total = accuracy.total
    head = (
        f"B is at {100 * accuracy.b:.1f}% and A at {100 * accuracy.a:.1f}%:"
        f" {total.points:+.1f} points (95% interval {total.ci_low:+.1f} to {total.ci_high:+.1f})."
    )
    parts = sorted(accuracy.parts, key=lambda part: -abs(part.points))
    clear = [part for part in parts if abs(part.points) >= 0.05]
    if not clear:
        return f"{head} No part changes it by 0.1 points."
    said = ", ".join(
        f"{part.points:+.1f} from {part.name}"
        f"{'' if part.ci_low > 0 or part.ci_high < 0 else ' (interval holds 0)'}"
        for part in clear
    )
    tail = ""
    if noise is not None:
        rest = [part for part in clear if part.name in ("prompts", "sampling/other")]
        tail = "".join(
            f" Sampling the same prompts again would change it by up to {noise:.1f} points in 95%"
            f" of cases, which {'can' if abs(part.points) <= noise else 'does not'} explain"
            f" {part.name}."
            for part in rest[:1]
        )
    return f"{head} Of these, {said}.{tail}".replace("-", "−")


def _flips(halves: Halves) -> list[Flip]:
    """The cells that one run solves in most samples and the other does not."""
    a, b = halves.a, halves.b
    found: list[Flip] = []
    for n, cell in enumerate(halves.cells):
        right = [bool(values[n] > 0.5) for values in (halves.a_C, halves.b_C)]
        if right[0] == right[1]:
            continue
        sign = 1 if right[1] else -1
        parts = {name: 100 * float(values[n]) for name, values in halves.parts.items()
                 if abs(values[n]) > 1e-9}  # fmt: skip
        found.append(
            Flip(
                problem_id=cell[0],
                view=cell[1],
                right_in="b" if right[1] else "a",
                a=float(halves.a_C[n]),
                b=float(halves.b_C[n]),
                because=max(parts, key=lambda name: sign * parts[name]),
                parts=parts,
                answer_a=_answer(a, halves.keys_a[cell], right=right[0]),
                answer_b=_answer(b, halves.keys_b[cell], right=right[1]),
                gold=a.problems[cell[0]].gold_of(cell[1]),
            )
        )
    order = Counter(flip.because for flip in found)
    return sorted(found, key=lambda flip: (-order[flip.because], flip.because, flip.right_in))


def _answer(side: Side, keys: Iterable[Key], *, right: bool) -> str:
    """The answer of the first sample that is right, or is not; empty without an answer.

    A run that solves a cell in most samples may be wrong in the first of them.
    """
    rows = [side.grades[key] for key in keys]
    row = next((row for row in rows if (row.outcome == "correct") == right), rows[0])
    return row.answer or ""
