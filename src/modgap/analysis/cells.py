"""What a table over seeds is made of, and the small file that keeps it: `cells.json`.

The responses of a sweep are too large to keep with a project: 35 runs of 8,000 responses are a
quarter of a gigabyte. The table needs only the number of right samples of each problem and view:
one digit each.

```
sweeps[]                 one for each base model and way of evaluating
  model, base, evaluation, problems[], sides
  untrained[]            evaluations of the base model
  recipes[]              name, data, stages[] (every setting but the seed)
    runs[]               name, seed, steps, seconds, right: view -> a digit a problem
```
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from modgap.analysis.results import Result, Seed, Settings, first_fault
from modgap.core.errors import UserError
from modgap.core.files import read_text
from modgap.core.json_files import write_text
from modgap.core.text import counted

FORMAT = "modgap cells 1"
ABOUT = (
    "Right samples of each problem, a digit each; `modgap report` makes the table over seeds from"
    " this file."
)
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One evaluated model.

    Attributes:
        name: What the report calls it.
        seed: The training seed: a number, or words where the stages had several; None for the base
            model.
        steps: Training steps of all stages.
        seconds: Time in these steps: rollout, update, validation and checkpoint.
        right: View -> how many samples of each problem were right, `[problems]`.
    """

    name: str
    seed: Seed
    steps: int
    seconds: float
    right: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Variant:
    """A recipe with certain settings, and its runs: one for each seed.

    Attributes:
        recipe: Its name.
        data: Fingerprints of what it was trained and validated on.
        stages: The settings of each stage but the seed.
        runs: By seed.
    """

    recipe: str
    data: Settings
    stages: list[Settings]
    runs: list[SeedRun]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Runs that can stand in one table: one base model, the same problems, evaluated alike.

    Attributes:
        model: The base model's name.
        base: Its fingerprint.
        evaluation: How it was evaluated and graded, data fingerprint and samples included.
        problems: Ids.
        sides: `text` and `vision` -> the views on that side.
        untrained: Evaluations of the base model; several are repetitions.
        recipes: In the order of the table.
        notes: What a reader must know: runs that were left out.
    """

    model: str
    base: str
    evaluation: Settings
    problems: list[str]
    sides: dict[str, list[str]]
    untrained: list[SeedRun]
    recipes: list[Variant]
    notes: list[str] = field(default_factory=list[str])

    @property
    def samples(self) -> int:
        """Of each problem and view."""
        return int(self.evaluation["samples"])

    def rates(self, run: SeedRun, side: str) -> NDArray[np.float64]:
        """Share of right samples of each problem on a side, over its views, `[problems]`."""
        return np.mean([run.right[view] for view in self.sides[side]], axis=0) / self.samples


# ---- the file ------------------------------------------------------------------------------------
class _Run(Result):
    name: str
    seed: Seed
    steps: int
    seconds: float
    right: dict[str, str]


class _Recipe(Result):
    recipe: str
    data: Settings
    stages: list[Settings]
    runs: list[_Run]


class _Sides(Result):
    text: list[str]
    vision: list[str]


class _Sweep(Result):
    model: str
    base: str
    evaluation: Settings
    sides: _Sides
    notes: list[str]
    problems: list[str]
    untrained: list[_Run]
    recipes: list[_Recipe]


class _Cells(Result):
    format: str = FORMAT
    about: str = ABOUT
    digest: str = ""
    sweeps: list[_Sweep]


def write_cells(sweeps: Sequence[Sweep], path: Path) -> None:
    """Write `cells.json`: one line for each run, so that a change shows in a diff."""
    cells = _Cells(sweeps=[_written(sweep) for sweep in sweeps])
    content = cells.model_dump(mode="json")
    content["digest"] = _digest(content["sweeps"])
    write_text(path, _pretty(content) + "\n")


def read_cells(path: Path) -> list[Sweep]:
    """Read `cells.json`.

    Raises:
        UserError: It is not such a file, or it is damaged; one line that says what to give.
    """
    remedy = "give run folders, or the cells.json that modgap report RUNS --figures wrote"
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {remedy}.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a file of {FORMAT!r}: {remedy}.")
    try:
        sweeps = [_read(sweep) for sweep in _Cells.model_validate(content).sweeps]
    except ValidationError as error:  # also a ValueError
        raise UserError(f"{path} is damaged ({first_fault(error)}): {remedy}.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}.") from None
    # Files written before have none.
    if content.get("digest") and content["digest"] != _digest(content.get("sweeps")):
        raise UserError(f"{path} was changed after it was written: {remedy}.")
    return sweeps


def _digest(sweeps: Any) -> str:
    """Of a file's sweeps: a changed setting can make a sentence of the report wrong, or drop it."""
    return hashlib.sha256(json.dumps(sweeps, sort_keys=True).encode()).hexdigest()[:16]


def _written(sweep: Sweep) -> _Sweep:
    def line(run: SeedRun) -> _Run:
        right = {view: _digits(counts_P, sweep.samples) for view, counts_P in run.right.items()}
        return _Run(name=run.name, seed=run.seed, steps=run.steps, seconds=run.seconds, right=right)

    return _Sweep(
        model=sweep.model,
        base=sweep.base,
        evaluation=sweep.evaluation,
        sides=_Sides(text=sweep.sides["text"], vision=sweep.sides["vision"]),
        notes=sweep.notes,
        problems=sweep.problems,
        untrained=[line(run) for run in sweep.untrained],
        recipes=[
            _Recipe(
                recipe=v.recipe, data=v.data, stages=v.stages, runs=[line(run) for run in v.runs]
            )
            for v in sweep.recipes
        ],
    )


def _read(sweep: _Sweep) -> Sweep:
    samples = sweep.evaluation.get("samples")
    if not sweep.problems or not sweep.sides.text or not sweep.sides.vision:
        raise ValueError("no problems or views")
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"{samples!r} samples of each problem")
    if empty := [variant.recipe for variant in sweep.recipes if not variant.runs]:
        raise ValueError(f"{empty[0]} has no runs")

    def read(line: _Run) -> SeedRun:
        if missing := [
            view for view in (*sweep.sides.text, *sweep.sides.vision) if view not in line.right
        ]:
            raise ValueError(f"{line.name} has no view {missing[0]}")
        right = {
            view: _counts(digits, samples, len(sweep.problems))
            for view, digits in line.right.items()
        }
        return SeedRun(line.name, line.seed, line.steps, line.seconds, right)

    return Sweep(
        model=sweep.model,
        base=sweep.base,
        evaluation=sweep.evaluation,
        problems=sweep.problems,
        sides={"text": sweep.sides.text, "vision": sweep.sides.vision},
        untrained=[read(line) for line in sweep.untrained],
        recipes=[
            Variant(v.recipe, v.data, v.stages, [read(line) for line in v.runs])
            for v in sweep.recipes
        ],
        notes=sweep.notes,
    )


def _digits(counts_P: NDArray[np.int64], samples: int) -> str:
    if samples < len(DIGITS):
        return "".join(DIGITS[count] for count in counts_P)
    return " ".join(map(str, counts_P))


def _counts(digits: str, samples: int, problems: int) -> NDArray[np.int64]:
    if samples < len(DIGITS):
        counts_P = np.array([DIGITS.index(digit) for digit in digits], np.int64)
    else:
        counts_P = np.array([int(count) for count in digits.split()], np.int64)
    if (
        len(counts_P) != problems
        or counts_P.max(initial=0) > samples
        or counts_P.min(initial=0) < 0
    ):
        each = f"{counted(problems, 'problem')} with {counted(samples, 'sample')}"
        raise ValueError(f"not the counts of {each}")
    return counts_P


def _pretty(value: Any, indent: str = "") -> str:
    """JSON with a line for each setting group and run.

    Objects are nested over several lines down to those that hold no lists of objects.
    """
    inner = indent + " "
    if isinstance(value, dict) and any(_nested(part) for part in value.values()):
        rows = [f"{inner}{json.dumps(key)}: {_pretty(part, inner)}" for key, part in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if _nested(value):
        return (
            "[\n" + ",\n".join(f"{inner}{_pretty(part, inner)}" for part in value) + f"\n{indent}]"
        )
    return json.dumps(value, ensure_ascii=False)


def _nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, dict) for part in value)
