"""`modgap` commands in processes of their own, on the visible accelerators.

`eval --models` and `study --jobs` use it. A process ends with the thread that started it, however
that ends (Linux), and its own processes end with it.

```
scheduler = Scheduler(2, devices=["0", "1"])
scheduler.add("tiny", [Step(1, lambda: ["eval", "--model", "tiny", ...])], Path("runs/tiny.log"))
failed = scheduler.run()
```
"""

from __future__ import annotations

import ctypes
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from modgap.core import processes, registry
from modgap.core.errors import UserError
from modgap.core.files import open_own, open_regular
from modgap.core.options import EvalOptions, flag
from modgap.core.progress import say
from modgap.core.secrets import safe_arguments
from modgap.core.text import counted
from modgap.workflows.engine_start import accelerators_each

POLL_S = 0.2
_PATIENCE_S = 20.0
_LAST_BYTES = 1 << 20
"""How much of a log is looked at for its last line."""
_BAD_USAGE = 2
"""The exit code for bad arguments, with which another accelerator does not help."""


class Process:
    """A `modgap` command, from its start on.

    Args:
        arguments: What comes after `modgap`.
        log: Its output is appended there.
        mask: Its `CUDA_VISIBLE_DEVICES`; `None` leaves it as it is.
        at_once: Processes that share this machine's cores; each gets an equal part, unless
            `OMP_NUM_THREADS` is set.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, *, mask: str | None = None, at_once: int = 1
    ) -> None:
        self._mark = processes.new_mark()
        environment = {**os.environ, **processes.with_mark(self._mark)}
        if mask is not None:
            environment["CUDA_VISIBLE_DEVICES"] = mask
        if at_once > 1 and not environment.get("OMP_NUM_THREADS"):
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open_own(log, os.O_APPEND) as file:
            file.write(f"\n$ modgap {shlex.join(safe_arguments(arguments))}\n".encode())
            file.flush()
            self._start = file.tell()
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "modgap", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,
                preexec_fn=_with_parent(),
            )

    def poll(self) -> int | None:
        """Its exit status once it has ended, and whatever it left behind with it."""
        status = self._child.poll()
        if status is not None:
            processes.end({self._mark: self._child})
        return status

    def last_words(self) -> str:
        """The last line of its output, or how it ended."""
        with open_regular(self._log) as file:
            file.seek(max(self._start, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            text = file.read(_LAST_BYTES).decode("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = lines[-1].removeprefix("modgap: ") if lines else ""
        status = self._child.returncode
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
            return f"ended by {name}{'; last words: ' + last if last else ''}"
        return last or f"exit code {status}"

    @staticmethod
    def end(several: Iterable[Process]) -> None:
        """End processes: each is asked to end, with its own, and is killed if it does not.

        The ones that are asked end their own processes in order.
        """
        processes.end({process._mark: process._child for process in several}, _PATIENCE_S)


def _with_parent() -> Callable[[], None] | None:
    """Makes a child get SIGTERM when the thread that started it ends; only on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # before the fork
    return lambda: libc.prctl(1, signal.SIGTERM) and None


# ---- the scheduler -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A command of a job.

    Attributes:
        accelerators: How many it takes, where there are any.
        arguments: Makes them, when the step before is done.
        name: Which part of the job it is, for a reader.
    """

    accelerators: int
    arguments: Callable[[], list[str]]
    name: str = ""


@dataclass(eq=False)
class Job:
    """Commands one after the other.

    Attributes:
        name: What it is called on the terminal.
        steps: Those that are not done, the running one included.
        log: Gets the output of its processes.
        after: The job that must be done before.
        process: The running step.
        devices: The accelerators that the running step has.
        failed_on: The accelerators on which the step failed.
        failure: Why it failed there, the last time.
        done: Whether it has ended, well or not.
        error: Why it failed.
    """

    name: str
    steps: list[Step]
    log: Path
    after: str | None = None
    process: Process | None = None
    devices: tuple[str, ...] = ()
    failed_on: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    failure: str = ""
    done: bool = False
    error: str = ""


class Scheduler:
    """Runs jobs, several at a time, on the accelerators with the least to do.

    They run from one thread and end with it. A job that fails takes the ones that wait for it
    along, and no other.

    Args:
        at_once: Processes at a time.
        devices: The accelerators that they share; without any, each process finds what is there.
        retry: Whether a step that failed is tried once more on other accelerators. If it succeeds
            there, accelerators on which nothing has succeeded are not used again: one that fails
            at once would empty the queue.
        progress: Called with how many jobs have ended, and how many there are.
    """

    def __init__(
        self,
        at_once: int,
        devices: Sequence[str] = (),
        *,
        retry: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.jobs: dict[str, Job] = {}
        self._at_once, self._retry, self._progress = at_once, retry, progress
        self._load = dict.fromkeys(devices, 0)
        self._most = math.ceil(at_once / max(1, len(devices)))  # on one accelerator
        self._works: set[str] = set()  # accelerators on which a step succeeded
        self._suspect: set[str] = set()
        self._waiting: list[Job] = []
        self._started = time.monotonic()

    def add(self, name: str, steps: Sequence[Step], log: Path, after: str | None = None) -> None:
        """Plan a job: its commands one after the other, once the job `after` is done.

        The job `after` may be added later.
        """
        self.jobs[name] = Job(name, list(steps), log, after)

    def run(self) -> list[Job]:
        """Run every job to its end.

        Returns:
            Those that failed.
        """
        self._started = time.monotonic()
        self._waiting = list(self.jobs.values())
        if min(self._at_once, len(self.jobs)) > len(self._load) > 0 and takes_turns():
            say(
                "jobs on one GPU take turns: small models are several times as fast side by side,"
                " after `nvidia-cuda-mps-control -d` (NVIDIA MPS)"
            )
        if self._progress:
            self._progress(0, len(self.jobs))
        try:
            while self._waiting:
                for job in list(self._waiting):
                    self._advance(job)
                for job in [job for job in self._waiting if job.done]:
                    self._finished(job)
                time.sleep(POLL_S)
        finally:
            Process.end(job.process for job in self._waiting if job.process)
        return [job for job in self.jobs.values() if job.error]

    def _finished(self, job: Job) -> None:
        self._waiting.remove(job)
        count = len(self.jobs) - len(self._waiting)
        how = f"failed: {job.error}" if job.error else "done"
        say(f"{job.name}: {how} ({count} of {len(self.jobs)})", self._started)
        if self._progress:
            self._progress(count, len(self.jobs))

    def _advance(self, job: Job) -> None:
        """See whether a job's process has ended, and start its next one if there is room."""
        if job.process:
            status = job.process.poll()
            if status is None:
                return
            self._ended(job, job.process, status)
            if job.failed_on:  # it has ended, or is tried again after the others
                return
        before = self.jobs[job.after] if job.after else None
        if before and not before.done:
            return
        if before and before.error:
            job.error = f"not begun, it waits for {before.name}"
        elif job.steps:
            self._start(job)
        job.done = not job.process and (bool(job.error) or not job.steps)

    def _start(self, job: Job) -> None:
        """Start the next step of a job, if its accelerators have room."""
        step = job.steps[0]
        usable = self._usable(job)
        if len(usable) < step.accelerators and self._load:  # it failed on those that work
            job.error = job.failure
            return
        devices = tuple(sorted(usable, key=self._load.__getitem__)[: step.accelerators])
        running = sum(other.process is not None for other in self.jobs.values())
        if running == self._at_once or any(self._load[device] == self._most for device in devices):
            return
        try:
            mask = ",".join(devices) or None
            job.process = Process(step.arguments(), job.log, mask=mask, at_once=self._at_once)
        except Exception as error:  # one job's own
            job.error = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            )
            return
        job.devices = devices
        for device in devices:
            self._load[device] += 1
        what = f"{step.name} started" if step.name else "started"
        say(f"{job.name}: {what} on {_named(devices)} (log: {job.log})", self._started)

    def _usable(self, job: Job) -> list[str]:
        """The accelerators for a job: not those on which it failed, nor those that do not work."""
        failed = set[str]().union(*job.failed_on)
        return [device for device in self._load if device not in failed | self._suspect]

    def _ended(self, job: Job, process: Process, status: int) -> None:
        """Free the accelerators of a step that has ended, and decide what is next."""
        devices, job.process, job.devices = job.devices, None, ()
        for device in devices:
            self._load[device] -= 1
        if status == 0:
            job.steps.pop(0)
            self._works.update(devices)
            for others in job.failed_on:
                if self._works.isdisjoint(others):
                    self._suspect.update(others)
                    say(
                        f"{_named(others)} is used no more: what failed there was done on"
                        f" {_named(devices)}",
                        self._started,
                    )
            job.failed_on.clear()
            return
        words = process.last_words()
        job.failed_on.append(devices)
        job.failure = f"{words} ({job.log})"
        others_left = devices and len(self._usable(job)) >= job.steps[0].accelerators
        if self._retry and len(job.failed_on) == 1 and others_left and status != _BAD_USAGE:
            say(
                f"{job.name}: failed on {_named(devices)} ({words}); once more on another one",
                self._started,
            )
            self._waiting.remove(job)
            self._waiting.append(job)  # the others come first
        else:
            job.error = job.failure
            job.done = True


def _named(devices: Sequence[str]) -> str:
    return f"accelerator {','.join(devices)}" if devices else "this machine"


# ---- what an evaluation needs --------------------------------------------------------------------


def takes_turns() -> bool:
    """Whether processes on one GPU take turns where MPS, which is installed, would mix them."""
    pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps")
    return shutil.which("nvidia-cuda-mps-control") is not None and not (pipes / "control").exists()


def visible_accelerators() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may be set to for one GPU each.

    These are the entries of the present mask, or all GPUs; empty without a GPU.
    """
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is not None:
        return [
            entry.strip() for entry in mask.split(",") if entry.strip() and entry.strip() != "-1"
        ]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


def accelerators_for(options: EvalOptions) -> tuple[list[str], int]:
    """The accelerators that jobs divide among them, and how many of them one evaluation takes.

    Returns:
        No accelerators where one is named (`cuda:1`): a job finds it in the mask in force. 0 for an
        evaluation that does not run on this machine's, or where there are none.

    Raises:
        UserError: An evaluation takes more than there are.
    """
    devices = visible_accelerators() if options.device in (None, "cuda") else []
    served = registry.INFERENCE_ENGINES.entry(options.engine).served
    if not devices or served or options.ray_address is not None:
        return devices, 0
    each = options.replicas * accelerators_each(options)
    if each > len(devices):
        raise UserError(
            f"a model needs {counted(each, 'accelerator')} (--replicas, tensor_parallel_size) and"
            f" there are {len(devices)}: give fewer, or more accelerators."
        )
    return devices, each


def eval_arguments(options: EvalOptions) -> list[str]:
    """The options of `modgap eval` that differ from the defaults, as arguments.

    The style is given with the data.
    """
    out: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name == "style" or value == option.default:
            continue
        if value is True:
            out.append(flag(option.name))
            continue
        for one in value if isinstance(value, tuple) else (value,):
            out += [flag(option.name), str(one)]
    return out
