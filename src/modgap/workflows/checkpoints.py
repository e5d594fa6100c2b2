"""The saved steps of a training run: one of them to train from, all of them to be evaluated.

`RUN:stage2:step_40` names a checkpoint of the run in the folder RUN (`last` and `best`, too). verl
saves sharded checkpoints and only the last and the best are merged to a model folder; a further one
is merged when it is asked for, which needs verl.

```
evaluate_checkpoints("runs/kl", "every=40", Path("PGPS9K"), Path("runs/kl-steps"), options)
```
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from modgap.core.errors import UserError
from modgap.core.files import locked
from modgap.core.options import EvalOptions
from modgap.core.progress import progress_bars, say
from modgap.core.record import RunFolder
from modgap.training.verl.merge import has_shards, saved_step
from modgap.workflows.models import print_fleet, run_fleet

_SHARDED = "verl/global_step_"


def stages_of(run: Path) -> dict[str, Path]:
    """The stages of a training run by name, in order; a stage's folder is a run of one stage.

    Raises:
        UserError: It is no training run.
    """
    if saved_steps(run):
        return {run.name: run}
    named = [(re.fullmatch(r"stage(\d+)", path.name), path) for path in run.glob("stage*")]
    found = {int(match[1]): path for match, path in named if match and path.is_dir()}
    if not found:
        raise UserError(f"{run} is no training run: give the --out of modgap train.")
    return {found[number].name: found[number] for number in sorted(found)}


def saved_steps(stage: Path) -> list[int]:
    """The steps that a stage has saved completely, in order."""
    steps: set[int] = set()
    complete = saved_step(stage / "verl")
    for path in (*stage.glob("checkpoints/step_*"), *stage.glob(f"{_SHARDED}*")):
        match = re.fullmatch(r"(global_)?step_(\d+)", path.name)
        if match and (not match[1] or (int(match[2]) <= complete and has_shards(path / "actor"))):
            steps.add(int(match[2]))
    return sorted(steps)


def find_checkpoint(reference: str, *, merging: bool = True) -> Path:
    """The model folder of `RUN:stageN:step_N`.

    Args:
        reference: Without a stage the last one that has saved a step, without a step its last one;
            `last` and `best` instead of `step_N`.
        merging: Whether to merge a sharded checkpoint, which the folder else does not hold yet.

    Raises:
        UserError: There is no such run, stage or step; the message lists what there is.
    """
    from modgap.training.checkpoint import checkpoint, step_folder  # which imports torch

    run, stage, step = _parsed(reference)
    stages = stages_of(run)
    if stage and stage not in stages:
        raise UserError(
            f"--start-from {reference}: {run} has no {stage}: choose from {', '.join(stages)}."
        )
    saved = [name for name, folder in stages.items() if saved_steps(folder)]
    if not stage and not saved:
        raise UserError(f"--start-from {reference}: {run} has saved no step yet.")
    folder = stages[stage or saved[-1]]
    steps = saved_steps(folder)
    if step == "best" and steps:
        return checkpoint(folder, "best")
    number = steps[-1] if step == "last" and steps else _number(step)
    if number not in steps:
        raise UserError(
            f"--start-from {reference}: {folder} has not saved {step}: choose from"
            f" {', '.join(f'step_{number}' for number in steps) or 'nothing'}."
        )
    return merged(folder, number) if merging else step_folder(folder, number)


def _parsed(reference: str) -> tuple[Path, str, str]:
    """The run, the stage (empty for none) and the step of a reference."""
    run, stage, step = reference, "", "last"
    head, _, tail = run.rpartition(":")
    if head and re.fullmatch(r"step_\d+|last|best", tail):
        run, step = head, tail
        head, _, tail = run.rpartition(":")
    if head and re.fullmatch(r"stage\d+", tail):
        run, stage = head, tail
    if not Path(run).is_dir():
        raise UserError(
            f"--start-from {reference}: {run} is no folder: write it as RUN:stage1:step_N, RUN the"
            " --out of modgap train."
        )
    return Path(run), stage, step


def _number(step: str) -> int:
    return int(step.removeprefix("step_")) if step.startswith("step_") else -1


def merged(stage: Path, step: int) -> Path:
    """The model folder of a saved step; a sharded one is merged first, by one process at a time."""
    from modgap.training.checkpoint import step_folder  # which imports torch

    folder = step_folder(stage, step)
    if (folder / "config.json").exists() or not (sharded := stage / f"{_SHARDED}{step}").exists():
        return folder
    from modgap.models.lora import merge_adapter
    from modgap.training.verl.merge import merge

    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock"), wait=True):
        if (folder / "config.json").exists():
            return folder
        say(f"merging {sharded} to {folder}")
        start = _start_of(stage.parent)
        source = Path(start) if Path(start, "config.json").is_file() else None
        return merge(sharded, folder, source, merge_adapter=merge_adapter)


def chosen_steps(stages: dict[str, Path], which: str) -> dict[str, tuple[Path, int]]:
    """Name -> stage and step of the checkpoints to evaluate.

    Args:
        stages: As `stages_of` returns them.
        which: `all`, or `every=N` for the steps that N divides and the last one of each stage.

    Raises:
        UserError: `which` is neither; or nothing is saved.
    """
    every = re.fullmatch(r"every=(\d+)", which)
    if which != "all" and (every is None or not int(every[1])):
        raise UserError(f"--checkpoints {which}: give all, or every=N with N of at least 1.")
    found: dict[str, tuple[Path, int]] = {}
    for name, stage in stages.items():
        steps = saved_steps(stage)
        for step in steps:
            if every is None or step % int(every[1]) == 0 or step == steps[-1]:
                found[f"{name}_step_{step}"] = stage, step
    if not found:
        raise UserError(f"{' and '.join(map(str, stages.values()))} saved no step: train it first.")
    return found


def _start_of(run: Path) -> str:
    """The model that a run started from; empty where its manifest does not say."""
    folder = RunFolder(run)
    if not (run / "stage1").is_dir() or not folder.manifest_path.exists():
        return ""
    return str(folder.manifest().get("given", {}).get("model", ""))


def _is_path(model: str) -> bool:
    """Whether a model is written as a path, not as a name or the id of a hub."""
    return Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1


def evaluate_checkpoints(
    run: str,
    which: str,
    data: Path,
    out: Path,
    options: EvalOptions,
    *,
    benchmark: str = "pgps9k",
    limit: int | None = None,
) -> int:
    """Evaluate the saved steps of a training run, and report them with the gap over steps.

    Where the run's manifest names the model that it started from, that is step 0.

    Args:
        run: The --out of a training, or one stage of it.
        which: See `chosen_steps`.
        data: The data set.
        out: Gets a run folder for each step, `stage1_step_40`, and `report.html`; an interrupted
            evaluation resumes there.
        options: How to evaluate.
        benchmark: Layout of the data set.
        limit: Only this number of problems, from the first.

    Returns:
        1 if a step failed, else 0.

    Raises:
        UserError: It is no training run, or has saved nothing.
    """
    from modgap.reporting.page import build_report

    chosen = chosen_steps(stages_of(Path(run)), which)
    models = {name: str(merged(*place)) for name, place in chosen.items()}
    start = _start_of(Path(run))
    if start and _is_path(start) and not Path(start).exists():
        say(f"no step 0: {run} started from {start}, which does not exist from this folder")
    elif start:
        models = {"stage1_step_0": start, **models}
    with progress_bars() as bars:
        done, failed = run_fleet(
            list(models.values()), data, out, options, names=list(models), benchmark=benchmark,
            limit=limit, progress=bars,
        )  # fmt: skip
    folders: Sequence[Path] = list(done.values())
    print_fleet(done, failed, out)
    if folders:
        build_report(folders, out / "report.html")
        say(f"report: {(out / 'report.html').resolve()}")
    return 1 if failed else 0
