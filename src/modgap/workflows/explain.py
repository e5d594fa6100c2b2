"""Why two runs differ on the same problems: `modgap explain RUN_A RUN_B`.

The runs may be of `modgap eval`, or imported from another tool, whose own verdicts then count. The
parts and how they add up are in `analysis.explained`, the swaps in `analysis.swaps`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modgap.analysis.explained import (
    PARTS,
    Difference,
    Explanation,
    Flip,
    difference,
)
from modgap.analysis.resampling import Floats
from modgap.analysis.run import load_run
from modgap.analysis.swaps import Grader, JudgeOf, Stored
from modgap.core.errors import UserError, command_line
from modgap.core.prompt import of_paper
from modgap.core.record import GradeRow, Key, ProblemRow, Response, RunManifest
from modgap.core.view import ALL_VIEWS
from modgap.grading.answer import Mode
from modgap.grading.graders import find_grader
from modgap.grading.judge import is_open
from modgap.reporting.sampling import NAMES, sampling_of, value_words

REFERENCE: Mode = "strict"
"""The grader of ours that two other tools are compared by."""
Cell = tuple[str, str]
"""A problem in a view."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two runs.

    Attributes:
        path: Its folder.
        manifest: What it is.
        problems: By id.
        responses: By key.
        grades: By key: those of the last grading, or another tool's own.
        grader: How these came about.
    """

    path: Path
    manifest: RunManifest
    problems: Mapping[str, ProblemRow]
    responses: Mapping[Key, Response]
    grades: Mapping[Key, GradeRow]
    grader: Grader

    @property
    def resolved(self) -> Mapping[str, Any]:
        return self.manifest.get("resolved", {})

    def limit(self) -> float | None:
        """The token limit of the responses; infinite if they are longer than any; else `None`."""
        known = sampling_of(self.manifest).get("max_tokens")
        if isinstance(known, int | float) and known > 0:
            return known
        cut = [row.completion_tokens for row in self.responses.values()
               if row.finish_reason == "length"]  # fmt: skip
        return max(cut, default=0) or None

    def counts_tokens(self) -> bool:
        return any(row.completion_tokens for row in self.responses.values())


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
    halves = _Halves(a, b, cells, keys_a, keys_b)
    return _explanation(halves, dict(left_out))


# ---- the two runs --------------------------------------------------------------------------------


def _side(path: Path | str) -> _Side:
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
    return _Side(
        Path(path), manifest, problems, {row.key: row for row in run.responses},
        {row.key: row for row in grades}, grader,
    )  # fmt: skip


def _with_all_verdicts(side: _Side, other: _Side) -> _Side:
    """The run, its judge with the other run's verdicts too where it is the same judge."""
    mine, theirs = side.grader.judge, other.grader.judge
    if side.grader.tool or mine != theirs or not mine.name:
        return side
    judge = JudgeOf(mine.name, mine.mode, mine.tokens, {**theirs.said, **mine.said})
    grader = Grader(side.grader.extraction, side.grader.tolerance, judge)
    return _Side(side.path, side.manifest, side.problems, side.responses, side.grades, grader)


def _shared(a: _Side, b: _Side, left_out: Counter[str]) -> list[Cell]:
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


def _usable(side: _Side, cells: Iterable[Cell], left_out: Counter[str]) -> dict[Cell, list[Key]]:
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


# ---- the parts -----------------------------------------------------------------------------------


class _Halves:
    """Both runs over the cells that they share, and the parts of the difference in each cell.

    Axis C is the cells.

    Args:
        a: The first run.
        b: The second.
        cells: What both have.
        keys_a: The samples of each cell in A.
        keys_b: Those in B.

    Attributes:
        a_C: Accuracy of A's samples.
        b_C: Accuracy of B's.
        parts: Part -> its value in each cell.
        notes: Part -> what is to be said of it.
        warnings: What keeps the runs from being comparable.
        method: How the parts were computed.
        noise: See `Explanation.sampling_noise`, as a variance for each cell.
    """

    def __init__(
        self,
        a: _Side,
        b: _Side,
        cells: Sequence[Cell],
        keys_a: Mapping[Cell, Sequence[Key]],
        keys_b: Mapping[Cell, Sequence[Key]],
    ) -> None:
        self.a, self.b, self.cells = a, b, list(cells)
        self.keys_a, self.keys_b = keys_a, keys_b
        self._stored = [
            _stored(side, self.cells, keys) for side, keys in ((a, keys_a), (b, keys_b))
        ]
        self.a_C, self.b_C = (self._of_cells(n, each.own) for n, each in enumerate(self._stored))
        self.notes: dict[str, str] = {}
        self.warnings: list[str] = []
        self.parts: dict[str, Floats] = dict.fromkeys(PARTS, np.zeros(len(self.cells)))
        references = list(dict.fromkeys(x.grader for x in (a, b) if not x.grader.tool))
        if not references:
            references = [Grader("last box after the thinking", REFERENCE, JudgeOf())]
        self.method = _method_words(a, b, references)
        self._add_grading(references)
        self._add_truncation(references)
        rest_C = self.b_C - self.a_C - np.sum([*self.parts.values()], axis=0)
        asked = [self._asked(cell) for cell in self.cells]
        differs_C = np.array([same is False for same in asked])
        self.parts["prompts"] = np.where(differs_C, rest_C, 0.0)
        self.parts["sampling/other"] = np.where(differs_C, 0.0, rest_C)
        self._say(asked)
        if not differs_C.any():
            del self.parts["prompts"]

    def _of_cells(self, side: int, values: Floats) -> Floats:
        """Means over the samples of each cell."""
        keys = (self.keys_a, self.keys_b)[side]
        ends = np.cumsum([len(keys[cell]) for cell in self.cells])[:-1]
        return np.array([part.mean() for part in np.split(values, ends)])

    def _add_grading(self, references: Sequence[Grader]) -> None:
        for reference in references:
            for n, stored in enumerate(self._stored):
                sign = 1 if n else -1
                for name, values in stored.grading_parts(reference).items():
                    part_C = sign * self._of_cells(n, values) / len(references)
                    self.parts[name] = self.parts[name] + part_C
        for n, stored in enumerate(self._stored):
            if stored.unswapped:
                self.warnings.append(
                    f"{stored.unswapped:,} verdicts of a judge on answers of"
                    f" {(self.a, self.b)[n].path} could not be swapped, as the other judge was not"
                    " asked about them: they count as equal."
                )

    def _add_truncation(self, references: Sequence[Grader]) -> None:
        limits = [side.limit() for side in (self.a, self.b)]
        known = [limit for limit in limits if limit is not None]
        if not known or limits[0] == limits[1]:
            self._say_unknown_truncation(limits)
            return
        shorter = int(min(known))
        for n, (side, limit) in enumerate(zip((self.a, self.b), limits, strict=True)):
            if limit == shorter:
                continue
            if not side.counts_tokens():
                self._say_unknown_truncation(limits)
                continue
            sign = 1 if n else -1
            for reference in references:
                lost = self._stored[n].graded(reference) - self._stored[n].graded_cut(
                    reference, shorter
                )
                part_C = sign * self._of_cells(n, lost) / len(references)
                self.parts["truncation"] = self.parts["truncation"] + part_C
            self.notes["truncation"] = f"responses of {side.path} cut at {shorter:,} tokens"

    def _say_unknown_truncation(self, limits: Sequence[float | None]) -> None:
        for side, limit in zip((self.a, self.b), limits, strict=True):
            if limit is None and not side.counts_tokens():
                self.notes["truncation"] = "not known"
                self.warnings.append(
                    f"{side.path} does not record how many tokens its responses have and whether"
                    " they were cut: what truncation changes is in the remainder."
                )

    def _asked(self, cell: Cell) -> bool | None:
        """Whether both runs asked a cell in the same words; `None` where one did not record it."""
        mine, theirs = (
            self.a.responses[self.keys_a[cell][0]], self.b.responses[self.keys_b[cell][0]]
        )  # fmt: skip
        if not mine.prompt or not theirs.prompt:
            return None
        same = mine.prompt.strip() == theirs.prompt.strip()
        return same and mine.prefill.strip() == theirs.prefill.strip()

    def _say(self, asked: Sequence[bool | None]) -> None:
        """Warnings, and what a part also holds."""
        a, b = self.a, self.b
        others: list[str] = []
        if models := _models(a, b):
            others.append(f"model {' and '.join(models)}")
        samplings = [sampling_of(side.manifest) for side in (a, b)]
        silent: list[str] = []
        for name in dict.fromkeys([*samplings[0], *samplings[1]]):
            if name in ("samples", "seed", "max_tokens", "version"):
                continue
            values = [sampling.get(name) for sampling in samplings]
            if None in values:
                silent.append(NAMES.get(name, name))
            elif values[0] != values[1]:
                said = " and ".join(value_words(name, value) for value in values)
                others.append(f"{NAMES.get(name, name)} {said}")
        if others:
            self.warnings.append(
                f"Not only the measurement differs: {'; '.join(others)}. What that changes is in"
                f" {'prompts and ' if False in asked else ''}sampling/other."
            )
        if silent:
            self.warnings.append(
                f"Not recorded in both runs: {', '.join(silent)}. What that changes is in"
                f" {'prompts and ' if False in asked else ''}sampling/other."
            )
        if unknown := sum(same is None for same in asked):
            self.warnings.append(
                f"{unknown:,} of {len(asked):,} problems and views have no prompt in one run: what"
                " the prompt changes there is in sampling/other."
            )
        if False in asked:
            self.notes["prompts"] = (
                f"on the {sum(same is False for same in asked):,} of {len(asked):,} problems and"
                " views that were asked in other words, with what sampling changes there"
            )
        questions = sum(
            _plain(a.problems[name].question_of(view)) != _plain(b.problems[name].question_of(view))
            for name, view in self.cells
        )
        if questions:
            self.warnings.append(
                f"{questions:,} of {len(self.cells):,} problems and views have another question in"
                " each run: are they of the same version of the data set?"
            )

    def by_problem(self, views: Sequence[str]) -> tuple[list[str], Any]:
        """The problems that have these views, and a function from cells to means over them."""
        wanted = [n for n, (_, view) in enumerate(self.cells) if view in views]
        names = list(dict.fromkeys(self.cells[n][0] for n in wanted))
        at = {name: p for p, name in enumerate(names)}
        row = np.array([at[self.cells[n][0]] for n in wanted])
        count = np.bincount(row, minlength=len(names))

        def mean(values_C: Floats) -> Floats:
            return np.bincount(row, weights=values_C[wanted], minlength=len(names)) / count

        return names, mean

    def noise_variances(self) -> Floats | None:
        """The variance of the difference in each cell from sampling; `None` with one sample."""
        found = np.zeros(len(self.cells))
        for keys, stored in zip((self.keys_a, self.keys_b), self._stored, strict=True):
            counts = [len(keys[cell]) for cell in self.cells]
            if min(counts) < 2:
                return None
            ends = np.cumsum(counts)[:-1]
            parts = np.split(stored.own, ends)
            found += np.array([part.var(ddof=1) / len(part) for part in parts])
        return found


def _stored(side: _Side, cells: Sequence[Cell], keys: Mapping[Cell, Sequence[Key]]) -> Stored:
    rows = [side.responses[key] for cell in cells for key in keys[cell]]
    return Stored(
        rows, side.grades, side.problems, side.grader,
        paper_style=of_paper(str(side.resolved.get("style") or "")),
    )  # fmt: skip


def _models(a: _Side, b: _Side) -> list[str]:
    """The models' names where the runs are of two models, as far as they are recorded."""
    marks = [side.resolved.get("model_fingerprint") for side in (a, b)]
    if all(marks):
        return [] if marks[0] == marks[1] else [_name(a) or "A's", _name(b) or "B's"]
    names = [_name(side) for side in (a, b)]
    # A log may lack the organisation before the name.
    short = [name.rstrip("/").rpartition("/")[2].casefold() for name in names]
    return names if all(names) and short[0] != short[1] else []


def _name(side: _Side) -> str:
    return str(side.resolved.get("model") or side.manifest.get("given", {}).get("model") or "")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _method_words(a: _Side, b: _Side, references: Sequence[Grader]) -> str:
    named = " and ".join(dict.fromkeys(reference.words for reference in references))
    words = (
        "Extraction, tolerance and judge: each run's own verdicts against those of the reference"
        f" grader ({named}) on the same responses, divided by the Shapley value"
        f"{', the mean over both references' if len(references) > 1 else ''}. Truncation: the"
        " longer responses cut at the shorter token limit. The rest is prompts where the words"
        " differ, else sampling/other."
    )
    if a.grader.tool or b.grader.tool:
        words += (
            " Another tool's part of extraction is what changes if the reference reads the answer"
            " that it extracted (without one: its verdict where the reference finds no answer);"
            " its tolerance is in its judge."
        )
    return words


# ---- the explanation -----------------------------------------------------------------------------


def _explanation(halves: _Halves, left_out: dict[str, int]) -> Explanation:
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
    warnings = [*halves.warnings]
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


def _gap(halves: _Halves, views: Sequence[str]) -> Difference | None:
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
        rest = next(part for part in accuracy.parts if part.name == "sampling/other")
        within = abs(rest.points) <= noise
        tail = (
            f" Sampling the same prompts again would change it by up to {noise:.1f} points in 95%"
            f" of cases, which {'explains' if within else 'does not explain'} sampling/other."
        )
    return f"{head} Of these, {said}.{tail}".replace("-", "−")


def _flips(halves: _Halves) -> list[Flip]:
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
        grades = [
            side.grades[keys[cell][0]] for side, keys in ((a, halves.keys_a), (b, halves.keys_b))
        ]
        found.append(
            Flip(
                problem_id=cell[0],
                view=cell[1],
                right_in="b" if right[1] else "a",
                a=float(halves.a_C[n]),
                b=float(halves.b_C[n]),
                because=max(parts, key=lambda name: sign * parts[name]),
                parts=parts,
                answer_a=grades[0].answer or "",
                answer_b=grades[1].answer or "",
                gold=a.problems[cell[0]].gold_of(cell[1]),
            )
        )
    order = Counter(flip.because for flip in found)
    return sorted(found, key=lambda flip: (-order[flip.because], flip.because, flip.right_in))
