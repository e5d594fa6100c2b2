"""Several models in one command, scheduled over the visible accelerators: `modgap eval --models FILE`.

Each model is a `modgap eval` in a process of its own, on one accelerator (or as many as its replicas need); its run is
in `OUT/NAME`, its words are in `OUT/NAME.log`. What the original's two parallel runners did, and where this differs:

* they count GPUs from 0 up; here the mask that is in force (`CUDA_VISIBLE_DEVICES`, Slurm's) is divided, UUIDs and all;
* there, a GPU on which jobs fail at once takes one after the other off the queue until it is empty; here a job that
  failed is tried once more on another accelerator, and one whose job another one then does is used no more;
* an interrupt ends every process of every job; the exit code tells of failures, and the last lines name them.

```
run_fleet(["tiny", "Qwen/Qwen2.5-VL-3B-Instruct"], Path("PGPS9K"), Path("runs/fleet"), EvalOptions(engine="vllm"))
```
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.progress import progress_bars, say
from modgap.core.record import RunFolder
from modgap.workflows.evaluate import Progress
from modgap.workflows.job import POLL_S, Process, accelerators_for, eval_arguments
from modgap.workflows.measure import EvalOptions

_LONGEST_NAME = 80


@dataclass(eq=False)
class _Job:
    """One model.

    Attributes:
        model: As the list has it.
        out: Its run folder.
        log: What its process says.
        failed_on: The slots on which it failed.
        error: Why, the last time.
    """

    model: str
    out: Path
    log: Path
    failed_on: list[_Slot] = field(default_factory=list["_Slot"])
    error: str = ""


@dataclass(eq=False)
class _Slot:
    """Accelerators for one job at a time.

    Attributes:
        mask: Their `CUDA_VISIBLE_DEVICES`; `None` leaves it as it is.
        did: Jobs that were done on it.
        suspect: Whether another slot did what failed here, and nothing was done here: it is used no more.
    """

    mask: str | None
    did: int = 0
    suspect: bool = False

    def __str__(self) -> str:
        return "this machine" if self.mask is None else f"accelerator {self.mask}"


def read_models(path: Path) -> list[str]:
    """The models of a list: one a line; blank lines and what follows a `#` are left out, and so are repetitions.

    Raises:
        UserError: There is no such file, or no model in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"--models {path} cannot be read ({why}): give a file with one model a line.") from None
    models = list(dict.fromkeys(found for line in lines if (found := re.sub(r"(^|\s)#.*", "", line).strip())))
    if not models:
        raise UserError(f"--models {path} names no model: write one a line, as --model takes it.")
    return models


def run_names(models: Sequence[str], out: Path | None = None) -> dict[str, str]:
    """A folder's name for each model: safe, and each its own.

    Of those that would share one, that has it plain whose run lies there, else the first. A training's
    `.../stage2/checkpoints/step_9` is `..._stage2_step_9`: a table has little room.

    Args:
        models: As they are given.
        out: Where their runs lie, or will.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for model in sorted(models, key=lambda model: not (out and _model_of(out / _plain_name(model)) == model)):
        name = plain = _plain_name(model)
        if not name or name.endswith(".log") or name.casefold() in taken:
            name = f"{plain}-{hashlib.sha256(model.encode()).hexdigest()[:8]}".lstrip("-")
        taken.add(name.casefold())
        names[model] = name
    return {model: names[model] for model in models}


def _plain_name(model: str) -> str:
    told = model.replace("/checkpoints/", "/")
    return re.sub(r"[^\w.+=@-]+", "_", told, flags=re.ASCII).strip("._-")[-_LONGEST_NAME:].lstrip("._-")


def _model_of(run: Path) -> str | None:
    """The model that the run in a folder is of; none if there is no such run."""
    try:
        return RunFolder(run).manifest()["given"]["model"]
    except (UserError, KeyError, TypeError):
        return None


def run_fleet(
    models: Sequence[str],
    data: Path,
    out: Path,
    options: EvalOptions | None = None,
    *,
    benchmark: str = "pgps9k",
    limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Path], dict[str, str]]:
    """Measure several models, as many at a time as there are accelerators for; one at a time without any.

    Args:
        models: As `modgap eval --model` takes them.
        data: The data set.
        out: Gets a run folder and a log for each model; a fleet that was interrupted goes on there.
        options: How to evaluate, the same for all.
        benchmark: Layout of the data set.
        limit: Only the first so many problems.
        progress: Told how many models are done.

    Returns:
        The run folders of the models that were measured; and of those that failed, why, in one line.

    Raises:
        UserError: The options or the folder cannot be used.
    """
    options = options or EvalOptions()
    options.check()
    if (out / "manifest.json").exists() or any((out / f"{split}.json").exists() for split in ("train", "test")):
        raise UserError(f"--out {out} is a run or a data set: give a folder for the runs of all models.")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder for the runs of all models.")
    asked = ["--data", str(data), "--benchmark", benchmark, "--style", options.style, *eval_arguments(options)]
    asked += [] if limit is None else ["--limit", str(limit)]
    jobs = [_Job(model, out / name, out / f"{name}.log") for model, name in run_names(models, out).items()]
    out.mkdir(parents=True, exist_ok=True)
    fleet = _Fleet(jobs, _slots(options), asked, progress)
    try:
        fleet.run()
    finally:
        fleet.stop()
    return (
        {job.model: job.out for job in jobs if not job.error},
        {job.model: f"{job.error} ({job.log})" for job in jobs if job.error},
    )


def _slots(options: EvalOptions) -> list[_Slot]:
    """Where jobs run: the visible accelerators, divided; this machine as it is where there is nothing to divide."""
    devices, each = accelerators_for(options)
    if not each:
        return [_Slot(None)]
    return [_Slot(",".join(devices[at : at + each])) for at in range(0, len(devices) - each + 1, each)]


class _Fleet:
    """Runs jobs on slots, from one thread, with which they end."""

    def __init__(
        self, jobs: Sequence[_Job], slots: Sequence[_Slot], asked: Sequence[str], progress: Progress | None
    ) -> None:
        self._queue, self._count, self._slots = list(jobs), len(jobs), slots
        self._asked, self._progress = asked, progress
        self._running: dict[_Slot, tuple[_Job, Process]] = {}
        self._done = 0
        self._started = time.monotonic()

    def run(self) -> None:
        """Run every job to its end."""
        if self._progress:
            self._progress("models", 0, self._count)
        while self._queue or self._running:
            for slot in self._slots:
                if slot not in self._running and (job := self._next(slot)):
                    self._start(job, slot)
            if not self._running:  # what is left failed on the only slot that works
                for job in self._queue:
                    self._finished(job, f"failed: {job.error}")
                return
            time.sleep(POLL_S)
            for slot, (job, process) in list(self._running.items()):
                if (status := process.poll()) is not None:
                    del self._running[slot]
                    job.error = process.last_words() if status else ""
                    self._ended(job, slot, status)

    def _next(self, slot: _Slot) -> _Job | None:
        """A job for a slot: none that failed there, and none for a slot that does not work while others do."""
        if slot.suspect:
            return None
        job = next((job for job in self._queue if slot not in job.failed_on), None)
        if job is not None:
            self._queue.remove(job)
        return job

    def _start(self, job: _Job, slot: _Slot) -> None:
        arguments = ["eval", "--model", job.model, "--out", str(job.out), *self._asked]
        process = Process(arguments, job.log, mask=slot.mask, at_once=len(self._slots))
        self._running[slot] = (job, process)
        say(f"{job.model}: started on {slot} (log: {job.log})", self._started)

    def _ended(self, job: _Job, slot: _Slot, status: int) -> None:
        if status == 0:
            slot.did += 1
            for other in job.failed_on:
                other.suspect = other.did == 0
                if other.suspect:
                    say(f"{other} is used no more: what failed there was done on {slot}", self._started)
            return self._finished(job, "done")
        job.failed_on.append(slot)
        others = [other for other in self._slots if other not in job.failed_on and not other.suspect]
        if len(job.failed_on) == 1 and others and status != 2:
            say(f"{job.model}: failed on {slot} ({job.error}); once more on another one", self._started)
            self._queue.append(job)
        else:
            self._finished(job, f"failed: {job.error}")

    def _finished(self, job: _Job, how: str) -> None:
        self._done += 1
        say(f"{job.model}: {how} ({self._done} of {self._count})", self._started)
        if self._progress:
            self._progress("models", self._done, self._count)

    def stop(self) -> None:
        """End every job that still runs."""
        Process.end(process for _, process in self._running.values())


def evaluate_models(
    models: Path, data: Path, out: Path, options: EvalOptions, *, benchmark: str = "pgps9k", limit: int | None = None
) -> int:
    """What `modgap eval --models` does: `run_fleet` of a list, with progress shown and the numbers printed.

    Returns:
        1 if a model failed, else 0.
    """
    with progress_bars() as bars:
        runs, failed = run_fleet(
            read_models(models), data, out, options, benchmark=benchmark, limit=limit, progress=bars
        )
    print_fleet(runs, failed, out)
    return 1 if failed else 0


def print_fleet(runs: Mapping[str, Path], failed: Mapping[str, str], out: Path) -> None:
    """Print the numbers of all runs, what failed and how to go on."""
    from modgap.reporting.collect import collect
    from modgap.reporting.page import numbers_of
    from modgap.reporting.terminal import print_numbers

    if runs:
        numbers: dict[str, Any] = numbers_of(collect(list(runs.values())))[0]
        print_numbers(numbers)
        words = ["modgap", "report", *map(str, runs.values()), "--out", str(out / "report.html")]
        print(f"\nreport them: {shlex.join(words)}")
    for model, why in failed.items():
        print(f"modgap: {model} failed: {why}", file=sys.stderr)
    if failed:
        again = "what is done is kept, give the same command again"
        print(f"modgap: {len(failed)} of {len(failed) + len(runs)} models failed; {again}.", file=sys.stderr)
