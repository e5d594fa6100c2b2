"""The parts of the difference between two runs in each problem and view; see `explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modgap.analysis.explained import PARTS
from modgap.analysis.resampling import Floats
from modgap.analysis.swaps import LAST_BOX, Grader, JudgeOf, Stored
from modgap.core.manifest import RunManifest
from modgap.core.prompt import of_paper
from modgap.core.rows import GradeRow, Key, ProblemRow, Response
from modgap.core.text import counted
from modgap.grading.answer import Mode
from modgap.grading.graders import opened_by_template
from modgap.reporting.sampling import NAMES, sampling_of, value_words

REFERENCE: Mode = "strict"
"""The grader of ours that two other tools are compared by."""
Cell = tuple[str, str]
"""A problem in a view."""


@dataclass(frozen=True, slots=True)
class Side:
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
        """The arguments that made the run."""
        return self.manifest.get("resolved", {})

    def limit(self) -> float | None:
        """The token limit: recorded, else that of the cut responses; `None` if unknown."""
        known = sampling_of(self.manifest).get("max_tokens")
        if isinstance(known, int | float) and known > 0:
            return known
        cut = [row.completion_tokens for row in self.responses.values()
               if row.finish_reason == "length"]  # fmt: skip
        return max(cut, default=0) or None

    def counts_tokens(self) -> bool:
        """Whether the run records how many tokens its responses have."""
        return any(row.completion_tokens for row in self.responses.values())


class Halves:
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
        a: Side,
        b: Side,
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
            references = [Grader(LAST_BOX, REFERENCE, JudgeOf())]
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
                    f"{counted(stored.unswapped, 'verdict')} of a judge on answers of"
                    f" {(self.a, self.b)[n].path} could not be swapped, as the other judge was not"
                    " asked: counted as equal."
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
            self.notes["truncation"] = (
                f"responses of {side.path} cut at {counted(shorter, 'token')}"
            )

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
                f"One run lacks the prompt of {unknown:,} of {len(asked):,} problems and views:"
                " what the prompt changes there is in sampling/other."
            )
        if False in asked:
            self.notes["prompts"] = (
                f"on {sum(same is False for same in asked):,} of {len(asked):,} problems and"
                " views, asked in other words, with what sampling changes there"
            )
        questions = sum(
            _plain(a.problems[name].question_of(view)) != _plain(b.problems[name].question_of(view))
            for name, view in self.cells
        )
        if questions:
            self.warnings.append(
                f"The runs ask another question in {questions:,} of {len(self.cells):,} problems"
                " and views: are they of the same version of the data set?"
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


def _stored(side: Side, cells: Sequence[Cell], keys: Mapping[Cell, Sequence[Key]]) -> Stored:
    rows = [side.responses[key] for cell in cells for key in keys[cell]]
    return Stored(
        rows, side.grades, side.problems, side.grader,
        paper_style=of_paper(str(side.resolved.get("style") or "")),
        by_template=opened_by_template(side.responses.values()),
    )  # fmt: skip


def _models(a: Side, b: Side) -> list[str]:
    """The models' names where the runs are of two models, as far as they are recorded."""
    marks = [side.resolved.get("model_fingerprint") for side in (a, b)]
    if all(marks):
        return [] if marks[0] == marks[1] else [_name(a) or "A's", _name(b) or "B's"]
    names = [_name(side) for side in (a, b)]
    # A log may lack the organisation before the name.
    short = [name.rstrip("/").rpartition("/")[2].casefold() for name in names]
    return names if all(names) and short[0] != short[1] else []


def _name(side: Side) -> str:
    return str(side.resolved.get("model") or side.manifest.get("given", {}).get("model") or "")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _method_words(a: Side, b: Side, references: Sequence[Grader]) -> str:
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
