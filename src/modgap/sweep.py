"""Studies with several jobs at a time, and for several training seeds: `modgap study --seeds 0,1,2 --jobs 8`.

With seeds, `OUT/seedN/` is a study like any other. The jobs are `modgap train` and `modgap eval` in processes of their
own, each on one of the visible accelerators; at the end the studies are gone through one by one, which finds everything
there and writes what is still missing: the reports. A recipe that begins as another one does waits for it and takes its
stages.

```
run_sweep(Path("PGPS9K"), "tiny", ["full-text", "kl"], Path("runs/sweep"), seeds=(0, 1, 2), jobs=6)
```
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.recipe import Recipe
from modgap.display import say
from modgap.measure import EvalOptions, model_notes
from modgap.study import resolve_recipes, run_study, settings_for, share_stages


def run_sweep(
    data: Path,
    model: str,
    recipes: Sequence[str],
    out: Path,
    *,
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    benchmark: str = "pgps9k",
    engine: str = "local",
    settings: Sequence[str] = (),
    limit: int | None = None,
    options: EvalOptions | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[Path, dict[str, Any]]:
    """Run a study, or one for each training seed, several jobs at a time.

    Args:
        data: As in `run_study`, and so are model, recipes, benchmark, engine, settings, limit, options and given.
        model: The base model.
        recipes: Names of recipes.
        out: Study folder; with seeds it gets one for each, `seedN/`.
        seeds: Training seeds; the evaluation's seed is one of the options.
        jobs: Processes at a time; they take turns on the visible accelerators.
        benchmark: Layout of the data set.
        engine: What trains.
        settings: `key=value` for every recipe.
        limit: Only the first so many test problems.
        options: How to evaluate.
        given: The arguments as the user gave them.

    Returns:
        The numbers of each study's report, by its folder.

    Raises:
        UserError: As `run_study`; or a job failed, which the message names with its log.
    """
    from modgap.models.load import resolve

    options = options or EvalOptions()
    options.check()
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: must be at least 1.")
    studies = {out: list(settings)}
    if seeds is not None:
        if not seeds or len(set(seeds)) != len(seeds):
            raise UserError(f"--seeds {','.join(map(str, seeds))}: give each seed once.")
        if clash := [s for s in settings if s.partition("=")[0].strip().rpartition(".")[2] == "seed"]:
            raise UserError(f"--set {clash[0]} and --seeds exclude each other: leave one of them out.")
        studies = {out / f"seed{seed}": [*settings, f"seed={seed}"] for seed in seeds}
    notes = model_notes(resolve(model))
    plans = {folder: resolve_recipes(recipes, chosen, notes) for folder, chosen in studies.items()}
    if jobs > 1:
        fixed = ["--data", str(data), "--benchmark", benchmark, "--style", options.style]
        measured = [*fixed, *([] if limit is None else ["--limit", str(limit)]), *eval_arguments(options)]
        with Jobs(jobs, out / "logs") as pool:
            for folder, chosen in studies.items():
                asked = ["eval", *measured, "--model", model, "--out", str(folder / "base" / "eval")]
                pool.add(f"{folder.name} base", (lambda argv=asked: argv,))
                for name, recipe in plans[folder].items():
                    first = _begins_as(recipe, plans[folder])
                    commands = _recipe_commands(recipe, plans[folder], folder, model, fixed, measured, engine, chosen)
                    pool.add(f"{folder.name} {name}", commands, first and f"{folder.name} {first}")
            pool.run()
    return {
        folder: run_study(
            data, model, recipes, folder, benchmark=benchmark, engine=engine, settings=chosen, limit=limit,
            options=options, given=given,
        )
        for folder, chosen in studies.items()
    }  # fmt: skip


def _recipe_commands(
    recipe: Recipe,
    plans: Mapping[str, Recipe],
    folder: Path,
    model: str,
    fixed: Sequence[str],
    measured: Sequence[str],
    engine: str,
    settings: Sequence[str],
) -> tuple[Callable[[], list[str]], ...]:
    """Train a recipe, then measure its last checkpoint; each command is made when the one before is done."""

    def train() -> list[str]:
        share_stages(folder, recipe, plans)
        chosen = [part for setting in settings_for(recipe, plans, settings) for part in ("--set", setting)]
        out = str(folder / recipe.name)
        return ["train", recipe.name, *fixed, "--model", model, "--out", out, "--engine", engine, *chosen]

    def measure() -> list[str]:
        from modgap.training.checkpoint import final_checkpoint

        final = final_checkpoint(folder / recipe.name / f"stage{len(recipe.stages)}")
        return ["eval", *measured, "--model", str(final), "--out", str(folder / recipe.name / "eval")]

    return train, measure


def _begins_as(recipe: Recipe, plans: Mapping[str, Recipe]) -> str | None:
    """The recipe whose stages another one can begin with: the most stages in common, and the least to wait for."""

    def common(other: Recipe) -> int:
        pairs = list(zip(recipe.stages, other.stages, strict=False))
        return next((n for n, (mine, theirs) in enumerate(pairs) if mine != theirs), len(pairs))

    order = list(plans)
    earlier = [
        other
        for other in plans.values()
        if (len(other.stages), order.index(other.name)) < (len(recipe.stages), order.index(recipe.name))
        and common(other)
    ]
    return max(earlier, key=lambda other: (common(other), -len(other.stages))).name if earlier else None


def eval_arguments(options: EvalOptions) -> list[str]:
    """The options of `modgap eval` that differ from the defaults, as arguments; the style goes with the data."""
    names = {"engine_args": "--engine-arg"}
    out: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name == "style" or value == option.default:
            continue
        name = names.get(option.name, "--" + option.name.replace("_", "-"))
        out += [part for one in (value if isinstance(value, tuple) else (value,)) for part in (name, str(one))]
    return out


@dataclass
class _Job:
    name: str
    commands: Sequence[Callable[[], list[str]]]
    after: str | None
    done: threading.Event = field(default_factory=threading.Event)
    error: str = ""


class Jobs:
    """Runs `modgap` commands in processes of their own, so many at a time, each on one of the visible accelerators.

    A job that fails takes the ones that wait for it along, and no other. Leaving the block ends what still runs.

    Args:
        at_once: Processes at a time.
        logs: Folder of the jobs' logs.
    """

    def __init__(self, at_once: int, logs: Path) -> None:
        self._jobs: dict[str, _Job] = {}
        self._logs = logs
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._free = threading.Semaphore(at_once)
        self._load: dict[str | None, int] = dict.fromkeys(visible_accelerators() or [None], 0)
        self._threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // at_once))

    def add(self, name: str, commands: Sequence[Callable[[], list[str]]], after: str | None = None) -> None:
        """Plan a job: its commands one after the other, once the job `after` is done."""
        self._jobs[name] = _Job(name, commands, after)

    def run(self) -> None:
        """Run everything.

        Raises:
            UserError: Jobs failed; the others have run.
        """
        started = time.monotonic()
        with ThreadPoolExecutor(len(self._jobs)) as pool, _terminated_as_interrupt():
            try:
                waiting = {pool.submit(self._run_job, job): job for job in self._jobs.values()}
                for count, future in enumerate(as_completed(waiting), start=1):
                    future.result()
                    job = waiting[future]
                    say(f"{job.name}: {job.error or 'done'} ({count} of {len(waiting)})", started)
            except BaseException:
                self.stop()
                raise
        if failed := [job for job in self._jobs.values() if job.error]:
            raise UserError(
                f"{len(failed)} of {len(self._jobs)} jobs failed, the first is {failed[0].name}: {failed[0].error}; "
                "what is done is kept, give the same command again."
            )

    def stop(self) -> None:
        """End every process, and start no other."""
        with self._lock:
            self._stopped = True
            children = list(self._children)
        for kind, patience in ((signal.SIGINT, 10.0), (signal.SIGKILL, 5.0)):
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, kind)
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(patience)
            children = [child for child in children if child.poll() is None]

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _run_job(self, job: _Job) -> None:
        try:
            if job.after is not None:
                before = self._jobs[job.after]
                before.done.wait()
                if before.error:
                    job.error = f"not begun, it waits for {before.name}"
                    return
            for command in job.commands:
                with self._slot() as environment:
                    job.error = self._run_command(job.name, command(), environment)
                if job.error:
                    return
        finally:
            job.done.set()

    @contextlib.contextmanager
    def _slot(self) -> Generator[dict[str, str]]:
        """A place to run, on the accelerator that has the least to do; the environment that says which."""
        with self._free:
            with self._lock:
                device = min(self._load, key=self._load.__getitem__)
                self._load[device] += 1
            try:
                mask = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
                yield {"OMP_NUM_THREADS": self._threads, **mask}
            finally:
                with self._lock:
                    self._load[device] -= 1

    def _run_command(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> str:
        """Run one command to its end; what went wrong, or nothing."""
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f"{name.replace(' ', '_')}.log"
        with path.open("ab") as log:
            with self._lock:
                if self._stopped:
                    return "interrupted"
                child = subprocess.Popen(
                    [sys.executable, "-m", "modgap", *arguments],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment},
                    start_new_session=True,
                )  # fmt: skip
                self._children.add(child)
            status = child.wait()
            with self._lock:
                self._children.discard(child)
        if not status:
            return ""
        lines = path.read_text(errors="replace").strip().splitlines()
        return f"exit {status}, {lines[-1].removeprefix('modgap: ') if lines else 'no word'} ({path})"


def visible_accelerators() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may be set to for one GPU each: the mask's entries, or all; empty without a GPU."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is not None:
        return [entry.strip() for entry in mask.split(",") if entry.strip() and entry.strip() != "-1"]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


@contextlib.contextmanager
def _terminated_as_interrupt() -> Generator[None]:
    """Let SIGTERM end what runs as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a comma-separated list.

    Raises:
        UserError: One of them is no number.
    """
    parts: Iterable[str] = (part.strip() for part in text.split(",") if part.strip())
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        raise UserError(f"--seeds {text}: give whole numbers, comma-separated, e.g. 0,1,2.") from None
