"""`modgap demo`: problems, two recipes, the gap before and after and a report, on a laptop.

It needs no network. It is a study like any other (`modgap study`), on problems that it makes, with
the bundled testbed model and a budget of a few minutes on two cores. An interrupted demo resumes
with the same command.
"""

from __future__ import annotations

import time
from pathlib import Path

from modgap.analysis.results import ReportSummary
from modgap.core.installation import require_training
from modgap.core.options import EvalOptions, StudySpec
from modgap.core.progress import progress_bars, say, show
from modgap.core.record import RunFolder
from modgap.datasets.synthetic import VERSION, write_dataset
from modgap.reporting.terminal import print_numbers
from modgap.workflows.study import run_study

RECIPES = ("full-text", "no-text")
_TRAIN, _TEST, _SAMPLES = 32, 60, 2
# Few problems, all of them in every step: the training curve shows learning, not which problems
# were drawn. So few steps mostly teach these problems; the test problems show whether the model
# learns more.
_SETTINGS = (
    "steps=8", "prompts_per_step=32", "mini_batch=8", "max_refills=0", "lr=5e-5",
    "validation_problems=0", "eval_every=0",
)  # fmt: skip


def run_demo(out: Path, *, seed: int = 0) -> ReportSummary:
    """Make problems, train the testbed model with two recipes, and report their gaps.

    Args:
        out: Gets `data/` and `study/`.
        seed: Of the problems, the training and the sampling.

    Returns:
        The numbers of the report.
    """
    require_training()
    started = time.monotonic()
    data = out / "data"
    run = RunFolder(out)
    resolved = {"seed": seed, "train": _TRAIN, "test": _TEST, "synthetic": VERSION}
    run.check_place("demo")
    with run.lock():
        run.start("demo", resolved)
        if not (data / "train.json").exists():  # written last
            say(f"drawing {_TRAIN + _TEST} geometry problems", started)
            with progress_bars() as bars:
                write_dataset(data, _TRAIN, _TEST, seed, progress=bars.counter("drawing problems"))
    spec = StudySpec(
        data=data,
        model="tiny",
        recipes=RECIPES,
        out=out / "study",
        benchmark="synthetic",
        settings=(*_SETTINGS, f"seed={seed}"),
        options=EvalOptions(samples=_SAMPLES, seed=seed),
    )
    numbers = run_study(spec, given={"command": "modgap demo"})
    print_numbers(numbers)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    show(
        f"\n{_TEST} problems a view: enough to see how it works, too few for a conclusion."
        f" Took {minutes} min {seconds} s."
    )
    show(f"report: {(out / 'study' / 'report.html').resolve()}")
    return numbers
