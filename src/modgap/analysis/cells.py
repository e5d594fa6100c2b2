"""What a table over seeds is made of, and the small file that keeps it: `cells.json`.

The responses of a sweep are far too large to be kept with a project: 35 runs of 8,000 are a quarter of a gigabyte. The
table needs no more than how many samples of each problem were right: one digit a problem and view.

```
sweeps[]                 one for each base model and way of evaluating
  model, base, evaluation, problems[], sides
  untrained[]            evaluations of the base model
  recipes[]              name, data, stages[] (every setting but the seed)
    runs[]               name, seed, steps, seconds, right: view -> a digit a problem
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modgap.core.errors import UserError
from modgap.core.record import write_text

FORMAT = "modgap cells 1"
ABOUT = "Right samples of each problem, a digit each; `modgap report` makes the table over seeds from this file."
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

Settings = dict[str, Any]
"""Stage settings as the manifest of a training stage has them."""


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One evaluated model.

    Attributes:
        name: What the report calls it.
        seed: The training seed: a number, or words where the stages had several; None for the base model.
        steps: Training steps of all stages.
        seconds: Time in these steps: rollout, update, validation and checkpoint.
        right: View -> how many samples of each problem were right, `[problems]`.
    """

    name: str
    seed: int | str | None
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
    data: dict[str, Any]
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
    evaluation: dict[str, Any]
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


def write_cells(sweeps: Sequence[Sweep], path: Path) -> None:
    """Write `cells.json`: one line for each run, so that a change shows in a diff."""
    told = {"format": FORMAT, "about": ABOUT, "sweeps": [_sweep(sweep) for sweep in sweeps]}
    write_text(path, _pretty(told) + "\n")


def read_cells(path: Path) -> list[Sweep]:
    """Read `cells.json`.

    Raises:
        UserError: It is no such file, or it is damaged; one line that says what to give.
    """
    remedy = "give run folders, or the cells.json that modgap report RUNS --figures wrote"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {remedy}.") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise UserError(f"{path} is no file of {FORMAT!r}: {remedy}.")
    try:
        return [_read_sweep(sweep) for sweep in told["sweeps"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {remedy}.") from None


def _sweep(sweep: Sweep) -> dict[str, Any]:
    return {
        "model": sweep.model, "base": sweep.base, "evaluation": sweep.evaluation, "sides": sweep.sides,
        "notes": sweep.notes, "problems": sweep.problems,
        "untrained": [_run(sweep, run) for run in sweep.untrained],
        "recipes": [
            {"recipe": v.recipe, "data": v.data, "stages": v.stages, "runs": [_run(sweep, run) for run in v.runs]}
            for v in sweep.recipes
        ],
    }  # fmt: skip


def _run(sweep: Sweep, run: SeedRun) -> dict[str, Any]:
    right = {view: _digits(counts, sweep.samples) for view, counts in run.right.items()}
    return {"name": run.name, "seed": run.seed, "steps": run.steps, "seconds": run.seconds, "right": right}


def _digits(counts_P: NDArray[np.int64], samples: int) -> str:
    if samples < len(DIGITS):
        return "".join(DIGITS[count] for count in counts_P)
    return " ".join(map(str, counts_P))


def _read_sweep(told: Mapping[str, Any]) -> Sweep:
    samples, problems = int(told["evaluation"]["samples"]), [str(name) for name in told["problems"]]
    sides = {side: [str(view) for view in told["sides"][side]] for side in ("text", "vision")}

    def run(row: Mapping[str, Any]) -> SeedRun:
        right = {view: _counts(digits, samples, len(problems)) for view, digits in row["right"].items()}
        if missing := [view for views in sides.values() for view in views if view not in right]:
            raise ValueError(f"{row['name']} has no view {missing[0]}")
        return SeedRun(str(row["name"]), row["seed"], int(row["steps"]), float(row["seconds"]), right)

    if not problems or not all(sides.values()) or samples < 1:
        raise ValueError("no problems, views or samples")
    recipes = [
        Variant(str(v["recipe"]), dict(v["data"]), [dict(s) for s in v["stages"]], [run(row) for row in v["runs"]])
        for v in told["recipes"]
    ]
    if not all(variant.runs for variant in recipes):
        raise ValueError("a recipe without runs")
    untrained = [run(row) for row in told["untrained"]]
    return Sweep(
        str(told["model"]), str(told["base"]), dict(told["evaluation"]), problems, sides, untrained, recipes,
        [str(note) for note in told["notes"]],
    )  # fmt: skip


def _counts(digits: str, samples: int, problems: int) -> NDArray[np.int64]:
    if samples < len(DIGITS):
        counts_P = np.array([DIGITS.index(digit) for digit in digits], np.int64)
    else:
        counts_P = np.array([int(count) for count in digits.split()], np.int64)
    if len(counts_P) != problems or counts_P.max(initial=0) > samples or counts_P.min(initial=0) < 0:
        raise ValueError(f"not the counts of {problems} problems with {samples} samples")
    return counts_P


def _pretty(value: Any, indent: str = "") -> str:
    """JSON with a line for each setting group and run: nested down to what holds no lists of objects."""
    inner = indent + " "
    if isinstance(value, dict) and any(_nested(part) for part in value.values()):
        rows = [f"{inner}{json.dumps(key)}: {_pretty(part, inner)}" for key, part in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if _nested(value):
        return "[\n" + ",\n".join(f"{inner}{_pretty(part, inner)}" for part in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def _nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, dict) for part in value)
