"""Reads run folders, training folders and study folders into plain data.

Needs neither the data set nor a model.

A report recognises a folder by its content: `responses.jsonl` is an evaluation, `train_log.jsonl` a
training stage, a folder of either (`eval/`, `stage1/`) a recipe, a folder of recipes a study. A
folder of studies (`seed0/`, `seed1/`) is all of them, and so is one of evaluations (the --out of
`modgap eval --models`). A file is the `cells.json` of an earlier report.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modgap.analysis.cells import Sweep, read_cells
from modgap.analysis.results import read_import_note
from modgap.analysis.scores import Scores
from modgap.core.errors import UserError
from modgap.core.files import open_lines, open_regular
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow
from modgap.reporting.manifests import Manifest, read_manifest

ROLLOUTS_SHOWN = 40
"""Rollouts of a stage that are read, evenly spaced: a file may hold hundreds of thousands."""
TEXTS = ("prompt", "response")
"""Fields of a rollout that are shown in full."""
NOT_SHOWN = ("seed",)
"""Fields of a rollout that are not shown."""
_ALSO = "eval-on-"
"""What the folders of `study --also` begin with."""
MOST_NAMED = 6
"""The most folders that a note names."""


@dataclass(frozen=True, slots=True)
class LogRow:
    """A line of train_log.jsonl: the step and every number of it, nested ones as `outer.inner`."""

    step: int
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A line of rollouts.jsonl: `texts` (prompt and response), and its other fields, shortened."""

    facts: dict[str, object]
    texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class EvalRun:
    """An evaluation: its problems, responses and grades.

    Attributes:
        name: Its name in the report: the recipe in a study, else the folder.
        path: Its folder.
        manifest: What its manifest.json says.
        problems: By id; problems that the file lacks are rebuilt from the grades (id and gold
            answer only).
        scores: The verdicts, and where the responses are.
        base: The model that the study of this run started from; empty for a run outside a study.
        also: The other set that the study measured on (`study --also`); empty for its own.
    """

    name: str
    path: Path
    manifest: Manifest
    problems: dict[str, ProblemRow]
    scores: Scores
    base: str = ""
    also: str = ""

    @property
    def model(self) -> str:
        """The model as given; in a study the one that training started from."""
        return self.base or self.manifest.model

    @property
    def mode(self) -> str:
        """How it was graded."""
        return " and ".join(self.scores.modes) or "not graded"


@dataclass(frozen=True, slots=True)
class TrainStage:
    """One stage of a training run.

    Attributes:
        recipe: The recipe or folder that it belongs to.
        title: `stage1`, or the folder's name if it is the only stage.
        path: Its folder.
        manifest: What its manifest.json says.
        log: The lines of train_log.jsonl, one a step (the last wins).
        rollouts: Some lines of rollouts.jsonl, in order.
    """

    recipe: str
    title: str
    path: Path
    manifest: Manifest
    log: list[LogRow]
    rollouts: list[Rollout]


@dataclass(slots=True)
class Collection:
    """Everything that one report shows, in the order to show it.

    The first evaluation is the one to compare with.

    `sweeps` are the tables over seeds: those read from a `cells.json`, then those that
    `page.numbers_of` finds. `data` is the folder in which diagrams were looked for, if one was
    given.
    """

    evals: list[EvalRun] = field(default_factory=list)
    stages: list[TrainStage] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: Path | None = None


def collect(paths: Sequence[Path | str]) -> Collection:
    """Read the folders of a report.

    Args:
        paths: Evaluation runs, training runs, recipe folders, studies, folders of studies or of
            evaluations, `cells.json` files, in any combination.

    Raises:
        UserError: A folder is not one of these, or a file in it is broken; one line that says which
            and what to give.
    """
    found = Collection()
    for path in map(Path, paths):
        before = len(found.evals) + len(found.stages)
        if path.is_file() and path.suffix == ".json":
            found.sweeps += read_cells(path)
            continue
        if not path.is_dir():
            raise UserError(
                f"{path} is not a folder: give the --out of modgap eval, train or study."
            )
        if _is_eval(path) or _is_stage(path) or _parts(path):
            _add_recipe(found, path, _folder_name(path))
        else:
            _add_study(found, path)
            for study in _studies(path):
                _add_study(found, study)
            runs = [part for part in path.iterdir() if _is_eval(part)]
            for run in sorted(runs, key=lambda run: (read_manifest(run).created or "~", run.name)):
                _add_recipe(found, run, run.name)
        if len(found.evals) + len(found.stages) == before:
            inside = _named(list(_runs_below(path)))
            raise UserError(
                f"{path} is not a run: it has no responses.jsonl (modgap eval), train_log.jsonl"
                " (modgap train) or RECIPE/eval (modgap study); give"
                f" {f'the runs in it: {inside}' if inside else 'one that does'}."
            )
    _say_hidden(found, [path for path in map(Path, paths) if path.is_dir()])
    _tell_apart(found)
    return found


def read_eval(path: Path | str, name: str | None = None) -> EvalRun:
    """Read one evaluation folder.

    Raises:
        UserError: A line that is not the last cannot be read, or a response belongs to another run
            than the manifest.
    """
    path = Path(path)
    folder = RunFolder(path)
    known = folder.manifest() if folder.manifest_path.is_file() else {}
    asked = known.get("resolved", {}).get("samples")
    # `read_manifest` names a number of another type, but after faults of the responses.
    expected = asked if isinstance(asked, int) else None
    scores = Scores.stored(folder, folder.problems(), expected)
    return EvalRun(
        name=name or _folder_name(path),
        path=path,
        manifest=read_manifest(path),
        problems={row.id: row for row in scores.problems},
        scores=scores,
    )


def read_stage(path: Path | str, recipe: str) -> TrainStage:
    """Read one training stage: its log, and some of its rollouts.

    Raises:
        UserError: A line of the log that is not the last cannot be read.
    """
    path = Path(path)
    log: dict[int, LogRow] = {}
    for row in _json_lines(path / "train_log.jsonl"):
        step = row.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            raise UserError(
                f"{path / 'train_log.jsonl'}: the step {step!r} is not a whole number: correct that"
                " line."
            )
        log[step] = LogRow(step, _numbers(row))
    rollouts = [_rollout(row) for row in _spaced_lines(path / "rollouts.jsonl", ROLLOUTS_SHOWN)]
    return TrainStage(recipe, path.name, path, read_manifest(path), list(log.values()), rollouts)


# Recognising folders


def _is_eval(path: Path) -> bool:
    return (path / "responses.jsonl").is_file()


def _is_stage(path: Path) -> bool:
    return (path / "train_log.jsonl").is_file()


def _parts(path: Path) -> list[Path]:
    """The stages and the evaluations directly below a recipe's folder, in order.

    `eval` is the study's own, `eval-on-NAME` of another set (`study --also NAME=PATH`).
    """
    if not path.is_dir():
        return []
    stages = [
        part for part in path.iterdir() if re.fullmatch(r"stage\d+", part.name) and _is_stage(part)
    ]
    stages.sort(key=lambda part: int(part.name.removeprefix("stage")))
    others = sorted(part for part in path.glob(f"{_ALSO}*") if _is_eval(part))
    return stages + [part for part in [path / "eval", *others] if _is_eval(part)]


def _runs_below(path: Path, depth: int = 3) -> Iterator[Path]:
    """Every evaluation and training stage below a folder, in the order of their names.

    The search goes at most `depth` folders down.
    """
    for part in sorted(child for child in path.iterdir() if child.is_dir()):
        if _is_eval(part) or _is_stage(part):
            yield part
        if depth > 1:
            yield from _runs_below(part, depth - 1)


def _named(runs: Sequence[Path]) -> str:
    more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
    return ", ".join(map(str, runs[:MOST_NAMED])) + more


def _say_hidden(found: Collection, paths: Sequence[Path]) -> None:
    """Note the runs below the given folders that this report does not show."""
    shown = {part.path.resolve() for part in (*found.evals, *found.stages)}
    for path in paths:
        if hidden := [run for run in _runs_below(path) if run.resolve() not in shown]:
            found.notes.append(
                f"{path} also holds runs that are not shown here, give them, too: {_named(hidden)}."
            )


def _add_recipe(found: Collection, path: Path, name: str, base: str = "") -> None:
    for part in [path, *_parts(path)]:
        if _is_stage(part):
            found.stages.append(read_stage(part, name))
        if _is_eval(part):
            also = _also(part)
            run = replace(read_eval(part, f"{name} on {also}" if also else name), base=base)
            run = replace(run, also=also)
            found.evals.append(run)
            if not run.manifest.whole:
                found.notes.append(
                    f"{name} has no manifest.json: its model, data and sampling are not known, nor"
                    " whether it is complete; put the file back from a copy."
                )
            found.notes += [
                f"{name}, imported: {warning}" for warning in read_import_note(part).warnings
            ]
            if run.scores.n_responses and not run.scores.modes:
                found.notes.append(
                    f"{name} is not graded yet: give `modgap grade {part}`, or finish its"
                    " evaluation."
                )


def _add_study(found: Collection, path: Path) -> None:
    """The base model first, then the recipes in the order in which they were started."""
    begun = {part: _begun(part) for part in path.iterdir() if _parts(part)}
    base = read_manifest(path).model
    for part in sorted(begun, key=lambda part: (part.name != "base", begun[part], part.name)):
        _add_recipe(found, part, part.name, base)
        if not _is_eval(part / "eval"):
            found.notes.append(f"{part.name} is trained or in training, but not evaluated yet.")


def _studies(path: Path) -> list[Path]:
    """The studies directly below a folder, in the order of their names: those of several seeds."""
    return [
        part
        for part in sorted(path.iterdir())
        if part.is_dir() and read_manifest(part).kind == "study"
    ]


def _begun(part: Path) -> str:
    return min(read_manifest(folder).created or "~" for folder in _parts(part))


def _folder_name(path: Path) -> str:
    path = Path(os.path.abspath(path))
    return path.parent.name if _named_by_parent(path) else path.name


def _named_by_parent(path: Path) -> bool:
    """Whether a folder is a part of a recipe's, which has the name."""
    return bool(path.parent.name) and (path.name == "eval" or bool(_also(path)))


def _also(path: Path) -> str:
    """The other set that an evaluation of a study is of; empty for the study's own."""
    beside = path.name.startswith(_ALSO) and _is_eval(path.with_name("eval"))
    return path.name.removeprefix(_ALSO) if beside else ""


def _tell_apart(found: Collection) -> None:
    """Prefix equal names of runs and trainings (two studies' `base`) with the parent folder."""
    _tell_stages_apart(found)
    names = [run.name for run in found.evals]
    twice = {name for name in names if names.count(name) > 1}
    used: set[str] = set()
    for position, run in enumerate(found.evals):
        name = (
            f"{Path(os.path.abspath(run.path)).parent.parent.name}/{run.name}"
            if run.name in twice
            else run.name
        )
        unique, number = name, 1
        while unique in used:
            number += 1
            unique = f"{name} ({number})"
        used.add(unique)
        if unique != run.name:
            found.evals[position] = replace(run, name=unique)


def _tell_stages_apart(found: Collection) -> None:
    folders: dict[str, dict[Path, None]] = {}
    for stage in found.stages:
        folders.setdefault(stage.recipe, {})[stage.path.parent] = None
    for position, stage in enumerate(found.stages):
        alike = list(folders[stage.recipe])
        if len(alike) > 1:
            above = [Path(os.path.abspath(folder)).parent.name for folder in alike]
            number = alike.index(stage.path.parent)
            twice = (
                f" ({above[: number + 1].count(above[number])})"
                if above.count(above[number]) > 1
                else ""
            )
            found.stages[position] = replace(stage, recipe=f"{above[number]}/{stage.recipe}{twice}")


# Reading files


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open_lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return  # torn by a kill
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path} line {number}: not valid JSON ({error}): remove that line."
                ) from None
            if not isinstance(row, dict):
                raise UserError(f"{path} line {number}: it is no object: remove that line.")
            yield row


def _numbers(row: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """The numbers of a line of a log; those of an object in it as `outer.inner`."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name] = float(value)
    return found


def _rollout(row: Mapping[str, object]) -> Rollout:
    facts = {name: value for name, value in row.items() if name not in (*TEXTS, *NOT_SHOWN)}
    return Rollout(facts, {name: str(row[name]) for name in TEXTS if row.get(name)})


def _spaced_lines(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """About `count` lines, evenly spaced by bytes, so that a file of any length costs the same."""
    if not path.is_file():
        return
    size = path.stat().st_size
    seen = -1
    with open_regular(path) as file:
        for part in range(count):
            file.seek(size * part // count)
            if part:
                file.readline()
            start = file.tell()
            line = file.readline()
            if start <= seen or not line.endswith(b"\n"):
                continue
            seen = start
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row
