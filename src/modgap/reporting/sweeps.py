"""Recognises runs of several studies, and of `cells.json`, as seeds of one recipe.

Only their manifests are used.

Runs belong to one table when they have the same base model, problems, evaluation settings and
grading; they are seeds of one recipe when every setting of every stage except the seed, and the
training data, are the same, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modgap.analysis.cells import SeedRun, Sweep, Variant
from modgap.analysis.results import Settings
from modgap.core import registry
from modgap.core.recipe import NOT_IN_OLDER
from modgap.reporting.manifests import missing, read_manifest

if TYPE_CHECKING:
    from modgap.analysis.scores import Scores
    from modgap.reporting.collect import Collection, EvalRun, TrainStage


def find_sweeps(found: Collection) -> list[Sweep]:
    """The tables over seeds that runs and `cells.json` files make.

    A table needs a recipe with at least two seeds.

    Args:
        found: The runs, and what was read from files.
    """
    return [
        sweep
        for sweep in gather_sweeps(found)
        if any(len(variant.runs) > 1 for variant in sweep.recipes)
    ]


def gather_sweeps(found: Collection) -> list[Sweep]:
    """What runs and `cells.json` files hold for tables over seeds, single seeds included.

    Args:
        found: The runs, and what was read from files.
    """
    stages: dict[Path, list[TrainStage]] = {}
    for stage in found.stages:
        stages.setdefault(stage.path.parent, []).append(stage)
    tables: dict[str, Sweep] = {}
    for sweep in found.sweeps:
        _join(tables, sweep)
    trained: list[EvalRun] = []
    for run in found.evals:
        parts = stages.get(run.path.parent, [])
        if lacking := _lacking(run, parts):
            found.notes.append(
                f"{run.name} is not in the table over seeds: {lacking}; put the file back from a"
                " copy."
            )
        elif parts:
            trained.append(run)
    for run in trained:
        _add(tables, run, run.scores, stages[run.path.parent])
    for run in found.evals:
        if run.path.parent not in stages:
            base = run.manifest.resolved.get("model_fingerprint")
            key = _key(run, base) if base else ""
            sweep = tables.get(key)
            if sweep and _is_whole(run, run.scores, sweep):
                # If the study is not finished, its recipes do not say what they started from.
                if not sweep.model:
                    sweep = tables[key] = replace(sweep, model=run.model)
                sweep.untrained.append(SeedRun(run.name, None, 0, 0.0, right_counts(run.scores)))
    for sweep in tables.values():
        found.notes += _unlike(sweep)
        _sort(sweep)
    return list(tables.values())


def _unlike(sweep: Sweep) -> list[str]:
    """A note on each run whose manifests lack a setting that others of its recipe record.

    It stands in a row of its own: an older version of modgap, or a damaged file.
    """
    notes: list[str] = []
    for variant in sweep.recipes:
        alike = [
            other
            for other in sweep.recipes
            if other.recipe == variant.recipe and len(other.stages) == len(variant.stages)
        ]
        for number, stage in enumerate(variant.stages):
            known = {name for other in alike for name in other.stages[number]}
            if lacking := sorted(known - set(stage) - set(NOT_IN_OLDER)):
                names = ", ".join(run.name for run in variant.runs)
                notes.append(
                    f"{names}: the manifest of stage{number + 1} lacks {', '.join(lacking)}, which"
                    f" other runs of {variant.recipe} record: not in one row with them."
                )
    return notes


def _lacking(run: EvalRun, stages: Sequence[TrainStage]) -> str:
    """What of its training an evaluated recipe lacks; empty if it is whole, or was not trained.

    All of its stages must be there, with their manifests and the steps of their logs.
    """
    for stage in stages:
        if lacking := missing(stage.manifest):
            return f"{stage.path / 'manifest.json'} lacks {' and '.join(lacking)}"
        if not stage.log:
            return f"{stage.path / 'train_log.jsonl'} holds no step"
    wanted = len(_recipe_settings(run).get("stages", stages))
    if stages and len(stages) != wanted:
        return f"{run.path.parent} has the logs of {len(stages)} stages of {wanted}"
    return ""


def _recipe_settings(run: EvalRun) -> Settings:
    return read_manifest(run.path.parent).resolved


def _join(tables: dict[str, Sweep], read: Sweep) -> None:
    """Merge a sweep that was read from a file into the one with the same key, if there is one."""
    sweep = tables.setdefault(json.dumps([read.base, read.evaluation], sort_keys=True), read)
    if sweep is read:
        return
    sweep.untrained.extend(read.untrained)
    sweep.notes.extend(note for note in read.notes if note not in sweep.notes)
    for variant in read.recipes:
        for run in variant.runs:
            _add_run(sweep, variant, run)


def _add_run(sweep: Sweep, like: Variant, run: SeedRun) -> None:
    """Put a run with the others of its recipe, settings and data; the first of a seed counts."""
    alike = [
        v
        for v in sweep.recipes
        if (v.recipe, v.data, v.stages) == (like.recipe, like.data, like.stages)
    ]
    variant = alike[0] if alike else replace(like, runs=[])
    if not alike:
        sweep.recipes.append(variant)
    if twice := [other.name for other in variant.runs if other.seed == run.seed]:
        sweep.notes.append(
            f"Seed {run.seed} of {like.recipe} is there twice: {twice[0]} counts, {run.name} does"
            " not."
        )
        return
    variant.runs.append(run)


def _add(
    tables: dict[str, Sweep], run: EvalRun, score: Scores, stages: Sequence[TrainStage]
) -> None:
    """Put the run of a recipe where it belongs."""
    marks = stages[0].manifest.fingerprints
    key = _key(run, str(marks["model"]))
    if key not in tables:
        sides = {side: [score.views[v] for v in score.side(side)] for side in ("text", "vision")}
        asked_P = _asked(score)
        if not all(sides.values()) or not asked_P.any():
            return
        problems = [row.id for row, asked in zip(score.problems, asked_P, strict=True) if asked]
        tables[key] = Sweep(
            run.base, str(marks["model"]), evaluation_of(run), problems, sides, [], []
        )
    sweep = tables[key]
    if not _is_whole(run, score, sweep):
        return
    recipe = str(_recipe_settings(run).get("recipe") or run.path.parent.name)
    settings = [
        {k: v for k, v in stage.manifest.resolved.items() if k != "seed"} for stage in stages
    ]
    data = {name: mark for name, mark in marks.items() if name != "model"}
    seeds = [stage.manifest.resolved.get("seed") for stage in stages]
    seed = seeds[0] if len(set(seeds)) == 1 else "/".join(map(str, seeds))
    steps = sum(len(stage.log) for stage in stages)
    seconds = round(
        sum(row.numbers.get("time_total", 0.0) for stage in stages for row in stage.log), 1
    )
    _add_run(
        sweep,
        Variant(recipe, data, settings, []),
        SeedRun(run.name, seed, steps, seconds, right_counts(score)),
    )


def _key(run: EvalRun, base: str) -> str:
    return json.dumps([base, evaluation_of(run)], sort_keys=True)


def evaluation_of(run: EvalRun) -> Settings:
    """How a run was evaluated and graded.

    Everything that must be the same in one table except the model.
    """
    asked = {
        name: value
        for name, value in run.manifest.resolved.items()
        if name not in ("model_fingerprint", "model")
    }
    data = run.manifest.fingerprints.get("data_fingerprint")
    return {**asked, "data_fingerprint": data, "mode": run.mode}


def _is_whole(run: EvalRun, score: Scores, sweep: Sweep) -> bool:
    """Whether every problem is complete in both views.

    If not, the table leaves the run out and a note says so.
    """
    paired = int((score.paired_P & _asked(score)).sum())
    if paired == len(sweep.problems):
        return True
    sweep.notes.append(
        f"{run.name} is not in the table over seeds: it has {paired:,} of its"
        f" {len(sweep.problems):,} problems complete in both views."
    )
    return False


def _asked(score: Scores) -> NDArray[np.bool_]:
    """Problems that the data set has in every view of both sides."""
    return ~np.logical_or.reduce(
        score.absent_PV[:, score.side("text") + score.side("vision")], axis=1
    )


def right_counts(score: Scores) -> dict[str, NDArray[np.int64]]:
    """View -> right samples of each problem, of the views that are complete."""
    asked_P = _asked(score)
    whole_V = np.logical_and.reduce(score.complete_PV[asked_P], axis=0)
    counts_PV = score.correct_PVS[asked_P].sum(axis=2).astype(np.int64)
    return {view: counts_PV[:, v] for v, view in enumerate(score.views) if whole_V[v]}


def _sort(sweep: Sweep) -> None:
    """Recipes in the order of the registry, runs by seed."""
    order = list(registry.RECIPES)
    sweep.recipes.sort(
        key=lambda v: (order.index(v.recipe) if v.recipe in order else len(order), v.recipe)
    )
    for variant in sweep.recipes:
        variant.runs.sort(key=lambda run: (isinstance(run.seed, str), run.seed))
