"""Runs the parts of docs/experiments/findings/plan.md, in calls that end in time.

    python bench/findings.py pretrain --work WORK --out OUT --seconds 560    # the second testbed
    python bench/findings.py run 1 6 --work WORK --out OUT --seconds 560     # also 2, 4, 3, 5
    python bench/findings.py left [--cells DIR]
    python bench/findings.py page [--cells DIR] [--out DIR]

`run` trains and measures what no cells have yet (those of `--cells` and of WORK), several jobs side
by side on the visible accelerators, and stops in time; the same command resumes. After each run
OUT/partN.json has its right samples of each problem: copy it to `--cells`, the folder of the plan.
WORK holds models, data and run folders; without it only unfinished runs are lost. `--try` is the
whole chain in miniature on a CPU; its cells are in OUT alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from findings_parts import (
    BEGINS,
    CELLS,
    DOSES,
    FIRST,
    HERE,
    MIXED,
    MODEL_OF,
    PLAN,
    SECOND,
    STEPS_OF_STAGE,
    SWAPPED,
    Done,
    Study,
    done,
    dose_name,
    miniature,
    swap_name,
    whole,
)

from modgap.analysis.cells import SeedRun, Sweep, Variant, read_cells, write_cells
from modgap.core.json_files import write_text
from modgap.core.options import parse_seeds
from modgap.reporting.collect import Collection, collect
from modgap.reporting.sweeps import gather_sweeps, right_counts

MODGAP = [sys.executable, "-m", "modgap"]
GRACE = 20.0  # seconds that a stopped command gets
POLL = 3.0
SAMPLES = 4
PRETRAINING = "--mixture-steps 2500 --eval-every 125 --eval-problems 100"
"""Options of the second testbed's pretraining that are not the defaults."""


@dataclass(frozen=True)
class Job:
    """One call of `run`.

    Attributes:
        part: Of the plan.
        work: Models, data, run folders.
        out: Gets the cells.
        cells: Cells of earlier calls.
        deadline: By the monotonic clock.
        jobs: Trainings and evaluations at a time.
        second: The second testbed's model.
        small: Whether this is the miniature.
        seeds: Training seeds instead of the plan's.
    """

    part: str
    work: Path
    out: Path
    cells: Path
    deadline: float
    jobs: int
    second: Path
    small: bool
    seeds: tuple[int, ...] = ()

    @property
    def studies(self) -> list[Study]:
        """Of the part."""
        found = [miniature(study) if self.small else study for study in PLAN[self.part]]
        return [replace(study, seeds=self.seeds) if self.seeds else study for study in found]

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def folder(self, study: Study) -> Path:
        """Where its runs are."""
        return self.work / f"part{self.part}" / study.benchmark

    def model(self, study: Study) -> str:
        """The base model."""
        return "tiny" if study.benchmark == FIRST else str(self.second)

    def data(self, study: Study) -> list[str]:
        """The options that name its problems."""
        given = ["--benchmark", study.benchmark]
        if self.small:
            given += ["--data", str(self.work / f"data-{study.benchmark}"), "--limit", "6"]
        return given

    @property
    def environment(self) -> dict[str, str]:
        """Of the commands: this checkout's code, and a cache in WORK."""
        path = os.pathsep.join(
            filter(None, [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
        )
        own = {"MODGAP_CACHE": str(self.work / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
        return {**os.environ, **own}

    def sampling(self) -> list[str]:
        """How each run is sampled."""
        device = ["--device", "cpu"] if self.small else []
        return ["--samples", "2" if self.small else str(SAMPLES), "--batch-size", "1024", *device]


# --- cells ----------------------------------------------------------------------------------------
def known(job: Job) -> list[Sweep]:
    """The cells of the part: of earlier calls, and of runs in WORK."""
    found = Collection()
    seen: set[tuple[str, str, object]] = set()
    files = [job.cells / f"part{job.part}.json"] if not job.small else []
    files += sorted((job.work / f"cells{job.part}").glob("*.json"))
    for file in filter(Path.exists, files):
        for sweep in read_cells(file):
            if file.parent == job.cells:
                sweep = whole(sweep, job.studies)
            recipes: list[Variant] = []
            for variant in sweep.recipes:
                runs = [r for r in variant.runs
                        if (sweep.model, variant.recipe, r.seed) not in seen]  # fmt: skip
                seen |= {(sweep.model, variant.recipe, run.seed) for run in runs}
                recipes += [replace(variant, runs=runs)] if runs else []
            first = all(other.model != sweep.model for other in found.sweeps)
            # One evaluation of the base model counts: further ones are its repetitions.
            untrained = sweep.untrained[:1] if first else []
            found.sweeps.append(replace(sweep, recipes=recipes, untrained=untrained))
    return gather_sweeps(found)


def write_known(job: Job) -> list[Sweep]:
    """OUT/partN.json from all that is known; returns it."""
    sweeps = known(job)
    if sweeps:
        job.out.mkdir(parents=True, exist_ok=True)
        write_cells(sweeps, job.out / f"part{job.part}.json")
    return sweeps


def keep(job: Job, study: Study) -> int:
    """Write the cells of each finished run in WORK that has none yet; returns their number."""
    cells = job.work / f"cells{job.part}"
    new = 0
    for seed in study.seeds:
        base = job.folder(study) / f"seed{seed}" / "base"
        for run in (job.folder(study) / f"seed{seed}").glob("*/eval/summary.json"):
            recipe = run.parent.parent
            file = cells / f"{study.benchmark}-{seed}-{recipe.name}.json"
            if recipe.name == "base" or file.exists() or job.left < GRACE:
                continue
            if (base / "eval" / "summary.json").exists():
                _write(_sweep_of([base, recipe], study, recipe.name, seed), file)
                new += 1
        for run in (job.folder(study) / f"further{seed}").glob("*/summary.json"):
            file = cells / f"{study.benchmark}-{seed}-{run.parent.name}.json"
            name = json.loads((run.parent.parent / f"{run.parent.name}.name").read_text())
            if not file.exists() and job.left > GRACE:
                _write(_further_of(job, study, run.parent, name, seed), file)
                new += 1
    if new:
        write_known(job)
    return new


def _write(sweep: Sweep, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_cells([sweep], file)


def _sweep_of(paths: Sequence[Path], study: Study, recipe: str, seed: int) -> Sweep:
    """One run with the base model's, as cells."""
    found = collect(paths)
    (sweep,) = gather_sweeps(found)
    (variant,) = sweep.recipes
    named = replace(variant.runs[0], name=f"{recipe} seed {seed}")
    base = [replace(run, name="base") for run in sweep.untrained]
    return replace(
        sweep, model=MODEL_OF[study.benchmark], untrained=base, notes=[],
        recipes=[replace(variant, runs=[named])],
    )  # fmt: skip


def _further_of(job: Job, study: Study, run: Path, name: str, seed: int) -> Sweep:
    """A swap or a step between, as cells beside those of the study that it belongs to."""
    recipe = name.partition(": ")[0]
    of_seed = job.folder(study) / f"seed{seed}"
    like = _sweep_of([of_seed / "base", of_seed / recipe], study, recipe, seed)
    (found,) = collect([run]).evals
    made = SeedRun(f"{name} seed {seed}", seed, 0, 0.0, right_counts(found.scores))
    return replace(like, recipes=[Variant(name, {}, [], [made])])


# --- commands -------------------------------------------------------------------------------------
def call(arguments: Sequence[str], job: Job, visit: Callable[[], bool]) -> None:
    """Run a command until it ends, the time is over, or `visit` says that all is there."""
    print("$", " ".join(arguments), flush=True)
    child = subprocess.Popen(arguments, env=job.environment, start_new_session=True)
    try:
        while child.poll() is None and job.left > 2 * GRACE:
            time.sleep(POLL)
            if visit():
                break
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    visit()


def link_stages(job: Job, study: Study, seed: int, recipes: Sequence[str]) -> None:
    """Let recipes of a seed begin with finished stages of others: those of other parts that train
    the same, and those of this part, also of earlier calls.
    """
    mine = job.folder(study) / f"seed{seed}"
    same = [
        replace(job, part=part).folder(other) / mine.name
        for part in PLAN
        for other in replace(job, part=part).studies
        if part != job.part
        and (other.benchmark, other.settings) == (study.benchmark, study.settings)
    ]
    for recipe in recipes:
        chain = mine / recipe
        begins = BEGINS.get(recipe, ())
        for number, other in enumerate(begins, start=1):
            _link(chain, mine / other, number)
        for theirs in (folder / recipe for folder in same):
            for number in range(len(begins) + 1, len(list(theirs.glob("stage*"))) + 1):
                _link(chain, theirs, number)


def _link(chain: Path, other: Path, number: int) -> None:
    """Let a recipe's stage be another one's, if that is finished and this has not begun.

    A stage belongs to the weights that it began with, so the stages before must be the same.
    """
    mine, theirs = (folder / f"stage{number}" for folder in (chain, other))
    before = [f"stage{n}" for n in range(1, number)]
    same = all((chain / name).resolve() == (other / name).resolve() for name in before)
    if same and (theirs / "result.json").exists() and not mine.exists():
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.unlink(missing_ok=True)
        mine.symlink_to(os.path.relpath(theirs, mine.parent), target_is_directory=True)


def study_command(
    job: Job, study: Study, recipes: tuple[str, ...], seeds: Sequence[int]
) -> list[str]:
    """`modgap study` of some recipes and seeds."""
    return [
        *MODGAP, "study", *job.data(study), "--model", job.model(study), "--out",
        str(job.folder(study)), "--seeds", ",".join(map(str, seeds)), "--jobs", str(job.jobs),
        "--recipes", study.references(recipes), "--set", *study.settings, *study.asked,
        *job.sampling(),
    ]  # fmt: skip


def missing(study: Study, finished: Done) -> dict[tuple[str, ...], list[int]]:
    """Recipes to train -> the seeds that lack the same ones."""
    out: dict[tuple[str, ...], list[int]] = {}
    for seed in study.seeds:
        # A swap needs its recipe's checkpoint.
        needed = {
            name.partition(": ")[0]
            for name, of in study.wanted()
            if of == seed and (name, seed) not in finished
        }
        recipes = tuple(name for name in study.recipes if name in needed)
        if recipes:
            out.setdefault(recipes, []).append(seed)
    return out


def further_commands(job: Job, study: Study, seed: int, finished: Done) -> list[str]:
    """Shell commands that measure one seed's swaps and steps between."""
    of_seed, out = job.folder(study) / f"seed{seed}", job.folder(study) / f"further{seed}"
    out.mkdir(parents=True, exist_ok=True)
    steps = 2 if job.small else STEPS_OF_STAGE
    commands: list[str] = []

    def add(name: str, model: Path, before: str = "") -> None:
        if (name, seed) in finished:
            return
        folder = out / name.replace(": ", "_").replace(" ", "_")
        (out / f"{folder.name}.name").write_text(json.dumps(name))
        asked = [*job.data(study), "--model", str(model), "--out", str(folder), *job.sampling()]
        commands.append(before + shlex.join([*MODGAP, "eval", *asked]))

    for recipe in study.recipes:
        stages = sorted((of_seed / recipe).glob("stage*/result.json"))
        if not stages:
            continue
        last = stages[-1].parent / "checkpoints" / f"step_{steps}"
        for parts in MIXED if recipe in SWAPPED else ():
            model = out / "models" / f"{recipe}-{'-'.join(parts)}"
            swap = ["model", "swap", "tiny", str(last), "--parts", ",".join(parts), "--out"]
            made = f"test -e {shlex.quote(str(model / 'config.json'))} || "
            made += shlex.join([*MODGAP, *swap, str(model)])
            add(swap_name(recipe, parts), model, f"({made}) && ")
        for dose in DOSES.get(recipe, ()):
            step = max(1, dose % STEPS_OF_STAGE * steps // STEPS_OF_STAGE)
            add(dose_name(recipe, dose), last.with_name(f"step_{step}"))
    return commands


def side_by_side(commands: Sequence[str], job: Job, visit: Callable[[], object]) -> None:
    """Run evaluations, `jobs` at a time, one accelerator each in turn."""
    from modgap.workflows.jobs import visible_accelerators

    devices = [] if job.small else visible_accelerators()
    running: list[subprocess.Popen[bytes]] = []
    queue = list(enumerate(commands))
    try:
        while (queue or running) and job.left > 2 * GRACE:
            running = [child for child in running if child.poll() is None]
            while queue and len(running) < job.jobs:
                number, command = queue.pop(0)
                mask = {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else {}
                with (job.work / "further.log").open("ab") as log:
                    child = subprocess.Popen(
                        ["sh", "-c", command], env=job.environment | mask, stdout=log, stderr=log,
                        start_new_session=True,
                    )  # fmt: skip
                running.append(child)
            time.sleep(POLL)
            visit()
    finally:
        for child in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()
    visit()


def run_part(job: Job, dry: bool) -> None:
    """Train and measure what is missing, until the time is over."""
    for study in job.studies:
        for recipes, seeds in missing(study, done(known(job), study)).items():
            for at in range(0, len(seeds), study.at_once):
                some = seeds[at : at + study.at_once]
                command = study_command(job, study, recipes, some)
                if dry:
                    print(shlex.join(command))
                elif job.left > 4 * GRACE and _ready(job, study):
                    run_seeds(job, study, recipes, some, command)
    if not dry:
        print_left(write_known(job), job.part, job.studies)


def run_seeds(
    job: Job, study: Study, recipes: tuple[str, ...], seeds: Sequence[int], command: Sequence[str]
) -> None:
    """One sweep, then its swaps and steps between."""
    cells = job.work / f"cells{job.part}"
    wanted = [cells / f"{study.benchmark}-{seed}-{name}.json" for seed in seeds for name in recipes]

    def visit() -> bool:
        keep(job, study)
        # Then only the sweep's own reports are missing, which nobody reads.
        return all(file.exists() for file in wanted)

    for seed in seeds:
        link_stages(job, study, seed, recipes)
    if not visit():
        call(command, job, visit)
    if not study.swaps:
        return
    for seed in seeds:
        side_by_side(further_commands(job, study, seed, done(known(job), study)), job, visit)


def _ready(job: Job, study: Study) -> bool:
    """Whether the model and the problems are there; small problems are drawn here."""
    if study.benchmark == SECOND and not (job.second / "config.json").exists():
        print(f"{job.second} is no model: run `pretrain` first, or give --second.", flush=True)
        return False
    if study.benchmark == SECOND and not job.small and (faults := unfit(job.second)):
        print(f"{job.second} is not what the plan demands: {'; '.join(faults)}", flush=True)
        return False
    folder = job.work / f"data-{study.benchmark}"
    if job.small and not (folder / "train.json").exists():
        from modgap.datasets.synthetic import write_dataset

        family = "charts" if study.benchmark == SECOND else "geometry"
        write_dataset(folder, 12, 6, seed=1, workers=1, family=family)
    return True


def print_left(sweeps: Sequence[Sweep], part: str, studies: Sequence[Study]) -> None:
    """What is missing, in one line for each study."""
    for study in studies:
        finished = done(sweeps, study)
        wanted = study.wanted()
        lacking = [run for run in wanted if run not in finished]
        print(
            f"part {part}, {study.benchmark}: {len(wanted) - len(lacking)} of {len(wanted)} runs"
            f" done, {len(lacking)} left"
            + (f", first {lacking[0][0]} seed {lacking[0][1]}" if lacking else ""),
            flush=True,
        )


def unfit(model: Path) -> list[str]:
    """What the plan demands of the second testbed's model card and is not so; greedy answers."""
    views = json.loads((model / "figures.json").read_text())["views"]
    text, image = (views[view]["greedy"] for view in ("full-text", "image-only"))
    demands = {
        f"full-text {text:.1%} is not 50 to 90%": 0.5 <= text <= 0.9,
        f"image-only {image:.1%} is not 20 to 70%": 0.2 <= image <= 0.7,
        f"a gap of {100 * (text - image):.1f} points is below 10": text - image >= 0.1,
        f"question-only {views['question-only']['greedy']:.1%} is above 5%":
            views["question-only"]["greedy"] <= 0.05,
    }  # fmt: skip
    for view in ("full-text", "image-only"):
        demands[f"{view}: {views[view]['mixed']:.1%} mixed groups are below 25%"] = (
            views[view]["mixed"] >= 0.25
        )
    return [words for words, met in demands.items() if not met]


def pretrain(job: Job, seed: int) -> None:
    """The second testbed, in WORK/testbed2; OUT gets the model in two files, and its figures."""
    folder = job.work / "testbed2"
    small = (
        "--problems 60 --glyph-steps 2 --mixture-steps 2 --warmup 1 --batch 4 --eval-every 2"
        " --eval-problems 1 --final-problems 1"
    )
    sizes = (small if job.small else PRETRAINING).split()
    asked = ["--family", SECOND, "--arch", "qwen3-vl", "--seed", str(seed)]
    minutes = ["--minutes", f"{max(0.1, (job.left - 8 * GRACE) / 60):.2f}"]
    workers = ["--workers", str(1 if job.small else os.cpu_count() or 2)]
    command = [sys.executable, "-m", "modgap.testbed", "--out", str(folder)]
    call([*command, *asked, *sizes, *minutes, *workers], job, lambda: False)
    job.out.mkdir(parents=True, exist_ok=True)
    for name in ("eval.jsonl", "plan.json"):
        if (folder / name).exists():
            shutil.copy(folder / name, job.out / f"testbed2-{name}")
    model = folder / "tiny"
    if not (model / "README.md").exists():
        print("not finished: give the same command again", flush=True)
        return
    packed = Path(shutil.make_archive(str(job.work / "testbed2"), "tar", model)).read_bytes()
    half = -(-len(packed) // 2)
    for number in range(2):  # small files travel better
        (job.out / f"testbed2.tar.{number}").write_bytes(
            packed[number * half : (number + 1) * half]
        )
    print((model / "README.md").read_text(), flush=True)
    print("by the plan:", "; ".join(unfit(model)) or "fit for use", flush=True)


def _jobs(small: bool) -> int:
    from modgap.workflows.jobs import visible_accelerators

    return 1 if small else 8 * max(1, len(visible_accelerators()))


def _second(work: Path) -> Path:
    """Where the second testbed is."""
    made = work / "testbed2" / "tiny"
    return made if made.exists() else HERE.parent / "src" / "modgap" / "models" / MODEL_OF[SECOND]


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["pretrain", "run", "left", "page"])
    parser.add_argument("part", nargs="*", help=f"one after the other, of {', '.join(PLAN)}")
    parser.add_argument("--work", type=Path, default=Path("runs/findings"))
    parser.add_argument("--out", type=Path, help="page: the plan's folder by default")
    parser.add_argument("--cells", type=Path, default=CELLS)
    parser.add_argument("--seconds", type=float, default=560)
    parser.add_argument("--jobs", type=int, help="8 for each accelerator by default")
    parser.add_argument("--second", type=Path, help="WORK/testbed2/tiny, else the bundled one")
    parser.add_argument("--seeds", default="", help="run, left: others than the plan's, e.g. 15,16")
    parser.add_argument("--seed", type=int, default=2, help="of the second testbed")
    parser.add_argument("--dry-run", action="store_true", help="run: print the commands")
    parser.add_argument("--try", dest="small", action="store_true", help="in miniature, on a CPU")
    given = parser.parse_args()
    work = given.work.resolve()
    if given.what == "page":
        from findings_page import write_page

        write_page(given.cells, given.out or given.cells)
        return 0
    if set(given.part) - set(PLAN) or (given.what == "run" and not given.part):
        parser.error(f"{given.what} {' '.join(given.part)}: parts are {', '.join(PLAN)}")
    job = Job(
        part="1", work=work, out=(given.out or work / "out").resolve(),
        cells=given.cells.resolve(), deadline=time.monotonic() + given.seconds,
        jobs=given.jobs or _jobs(given.small),
        second=(given.second or _second(work)).resolve(), small=given.small,
        seeds=parse_seeds(given.seeds),
    )  # fmt: skip
    if given.what == "left":
        for part in given.part or PLAN:
            of_part = replace(job, part=part)
            print_left(known(of_part), part, of_part.studies)
    elif given.what == "pretrain":
        work.mkdir(parents=True, exist_ok=True)
        pretrain(job, given.seed)
    else:
        work.mkdir(parents=True, exist_ok=True)
        write_text(work / ".gitignore", "*\n")
        for part in given.part:
            run_part(replace(job, part=part), given.dry_run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
