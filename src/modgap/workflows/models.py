"""Several models in one command: `modgap eval --models FILE`.

Each model is a `modgap eval` in a process of its own, on one accelerator (or as many as its
replicas need). Its run is in `OUT/NAME`, its output in `OUT/NAME.log`. This replaces the original's
two parallel runners, with these differences:

* they count GPUs from 0 up; here the mask in force (`CUDA_VISIBLE_DEVICES`, Slurm's) is divided,
  with UUIDs as well;
* there, a GPU on which every job fails at once empties the queue; here a failed job is tried once
  more on another accelerator, and if it succeeds there, the first accelerator is not used again;
* an interrupt ends every process of every job; the exit code reports failures, and the last lines
  name them.

```
models = ["tiny", "Qwen/Qwen2.5-VL-3B-Instruct"]
run_fleet(models, Path("PGPS9K"), Path("runs/fleet"), EvalOptions(engine="vllm"))
```
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modgap.core.errors import UserError
from modgap.core.files import read_text
from modgap.core.options import EvalOptions
from modgap.core.progress import Progress, progress_bars, show
from modgap.core.record import RunFolder
from modgap.core.secrets import safe_arguments
from modgap.core.text import counted
from modgap.workflows.evaluate import is_complete
from modgap.workflows.jobs import Scheduler, Step, accelerators_for, eval_arguments
from modgap.workflows.problems import read_problems

_LONGEST, _LONGEST_NAME = 1000, 80


def read_models(path: Path) -> list[str]:
    """The models of a list, one a line.

    Blank lines, what follows a `#` and repetitions are left out.

    Raises:
        UserError: The file does not exist, or names no model.
    """
    try:
        lines = read_text(path, "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(
            f"--models {path} cannot be read ({why}): give a file with one model a line."
        ) from None
    models = list(
        dict.fromkeys(found for line in lines if (found := re.sub(r"(^|\s)#.*", "", line).strip()))
    )
    for model in models:
        if len(model) > _LONGEST or not model.isprintable():
            raise UserError(
                f"--models {path}: {model[:40]!a}... is not a model: write one a line, as --model"
                " takes it."
            )
    if not models:
        raise UserError(f"--models {path} names no model: write one a line, as --model takes it.")
    return models


def run_names(models: Sequence[str], out: Path | None = None) -> dict[str, str]:
    """A folder's name for each model: safe, and each its own.

    If several models would share a name, the one whose run is there keeps it, else the first. A
    training's `.../stage2/checkpoints/step_9` is `..._stage2_step_9`: a table has little room.

    Args:
        models: As they are given.
        out: Where their runs lie, or will.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for model in sorted(
        models, key=lambda model: not (out and _model_of(out / _plain_name(model)) == model)
    ):
        name = plain = _plain_name(model)
        if not name or name.endswith(".log") or name.casefold() in taken:
            name = f"{plain}-{hashlib.sha256(model.encode()).hexdigest()[:8]}".lstrip("-")
        taken.add(name.casefold())
        names[model] = name
    return {model: names[model] for model in models}


def _plain_name(model: str) -> str:
    shown = model.replace("/checkpoints/", "/")
    return (
        re.sub(r"[^\w.+=@-]+", "_", shown, flags=re.ASCII)
        .strip("._-")[-_LONGEST_NAME:]
        .lstrip("._-")
    )


def _model_of(run: Path) -> str | None:
    """The model of the run in a folder; none if the folder has no run."""
    try:
        return RunFolder(run).manifest().get("given", {})["model"]
    except (UserError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Fleet:
    """The jobs of several models, see `plan_fleet`.

    Attributes:
        runs: Model -> its run folder; the log lies beside it, `NAME.log`.
        commands: Model -> what comes after `modgap`.
        devices: The accelerators that they share; empty where there are none, or each job finds its
            own.
        each: How many of them one evaluation takes.
        at_once: How many run at a time.
    """

    runs: dict[str, Path]
    commands: dict[str, list[str]]
    devices: list[str]
    each: int
    at_once: int

    def log(self, model: str) -> Path:
        """Where the output of a model's evaluation goes."""
        run = self.runs[model]
        return run.with_name(f"{run.name}.log")

    def lines(self) -> list[str]:
        """The plan in words, for `--dry-run`: a line for the whole, and one for each job."""
        place = f"accelerators {', '.join(self.devices)}" if self.devices else "this machine"
        if self.devices and self.each:
            place += f", {self.each} each"
        lines = [f"{counted(len(self.runs), 'job')}, {self.at_once} at a time on {place}:"]
        for number, (model, command) in enumerate(self.commands.items(), start=1):
            before = " (resumes the run there)" if _model_of(self.runs[model]) else ""
            lines.append(f"  {number}. {model} -> {self.runs[model]}{before}")
            lines.append(f"     modgap {shlex.join(safe_arguments(command))}")
            lines.append(f"     log: {self.log(model)}")
        return lines


def plan_fleet(
    models: Sequence[str],
    data: Path,
    out: Path,
    options: EvalOptions | None = None,
    *,
    benchmark: str = "pgps9k",
    limit: int | None = None,
    names: Sequence[str] | None = None,
) -> Fleet:
    """The jobs that `run_fleet` runs, with the same arguments and errors; nothing is written."""
    options = options or EvalOptions()
    options.check()
    if (out / "manifest.json").exists() or any(
        (out / f"{split}.json").exists() for split in ("train", "test")
    ):
        raise UserError(
            f"--out {out} is a run or a data set: give a folder for the runs of all models."
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder for the runs of all models.")
    asked = ["--data", str(data), "--benchmark", benchmark, "--style", options.wording]
    asked += eval_arguments(options)
    asked += [] if limit is None else ["--limit", str(limit)]
    devices, each = accelerators_for(options)
    at_once = len(devices) // each if each else 1
    named = run_names(models, out) if names is None else dict(zip(models, names, strict=True))
    runs = {model: out / name for model, name in named.items()}
    commands = {
        model: ["eval", "--model", model, "--out", str(run), *asked] for model, run in runs.items()
    }
    return Fleet(runs, commands, devices[: at_once * each], each, at_once)


def run_fleet(
    models: Sequence[str],
    data: Path,
    out: Path,
    options: EvalOptions | None = None,
    *,
    names: Sequence[str] | None = None,
    benchmark: str = "pgps9k",
    limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Path], dict[str, str]]:
    """Measure several models, as many at a time as there are accelerators; else one at a time.

    Args:
        models: As `modgap eval --model` takes them.
        data: The data set.
        out: Gets a run folder and a log for each model; an interrupted fleet resumes there, and no
            process is started for a run that is complete.
        options: How to evaluate, the same for all.
        names: The folder's name of each model; by default one made from the model.
        benchmark: Layout of the data set.
        limit: Only this number of problems, from the first.
        progress: Called with how many models are done.

    Returns:
        The run folders of the models that were measured; and of those that failed, why, in one
        line.

    Raises:
        UserError: The options or the folder cannot be used.
    """
    plan = plan_fleet(models, data, out, options, benchmark=benchmark, limit=limit, names=names)
    report = None if progress is None else functools.partial(progress, "models")
    scheduler = Scheduler(plan.at_once, plan.devices, retry=True, progress=report)
    complete = _complete(plan, data, options or EvalOptions(), benchmark, limit)
    for model, command in plan.commands.items():
        steps = [] if model in complete else [Step(plan.each, functools.partial(list, command))]
        scheduler.add(model, steps, plan.log(model))
    out.mkdir(parents=True, exist_ok=True)
    failed = {job.name: job.error for job in scheduler.run()}
    return {model: run for model, run in plan.runs.items() if model not in failed}, failed


def _complete(
    plan: Fleet, data: Path, options: EvalOptions, benchmark: str, limit: int | None
) -> set[str]:
    """The models whose evaluation is complete; the problems are read if one has a run."""
    begun = {model: run for model, run in plan.runs.items() if (run / "manifest.json").exists()}
    if not begun:
        return set()
    outside = options.allow_outside
    problems = read_problems(benchmark, data, limit=limit, allow_outside=outside)
    complete: set[str] = set()
    for model, run in begun.items():
        # What is refused is said by the model's own process.
        with contextlib.suppress(Exception):
            if is_complete(problems, model, run, options):
                complete.add(model)
    return complete


def evaluate_models(
    models: Path,
    data: Path,
    out: Path,
    options: EvalOptions,
    *,
    benchmark: str = "pgps9k",
    limit: int | None = None,
    dry_run: bool = False,
) -> int:
    """What `modgap eval --models` does: `run_fleet` with progress, then the numbers printed.

    With `dry_run` only the plan is printed.

    Returns:
        1 if a model failed, else 0.
    """
    if dry_run:
        plan = plan_fleet(read_models(models), data, out, options, benchmark=benchmark, limit=limit)
        show("\n".join(plan.lines()))
        return 0
    with progress_bars() as bars:
        runs, failed = run_fleet(
            read_models(models), data, out, options, benchmark=benchmark, limit=limit, progress=bars
        )
    print_fleet(runs, failed, out)
    return 1 if failed else 0


def print_fleet(runs: Mapping[str, Path], failed: Mapping[str, str], out: Path) -> None:
    """Print the numbers of all runs, what failed and how to resume."""
    from modgap.reporting.collect import collect
    from modgap.reporting.page import numbers_of
    from modgap.reporting.terminal import print_numbers

    if runs:
        numbers = numbers_of(collect(list(runs.values())))[0]
        print_numbers(numbers)
        words = ["modgap", "report", *map(str, runs.values()), "--out", str(out / "report.html")]
        show(f"\nreport them: {shlex.join(words)}")
    for model, why in failed.items():
        show(f"modgap: {model} failed: {why}", error=True)
    if failed:
        again = "finished work is kept: give the command again once the cause is gone"
        show(
            f"modgap: {len(failed)} of {len(failed) + len(runs)} models failed; {again}.",
            error=True,
        )
