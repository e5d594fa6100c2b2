"""The commands around data and the testbed model: `data`, `power`, `model`.

Parses first, imports late.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from modgap.cli.groups import DATA, TRAIN
from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.installation import require_training
from modgap.core.options import AllowOutside
from modgap.core.progress import show
from modgap.core.prompt import Style
from modgap.core.secrets import safe_arguments
from modgap.core.text import counted

if TYPE_CHECKING:
    from modgap.datasets.faults import Report
    from modgap.workflows.power import Plan
data_app = App(
    name="data", help="Make, check and prepare problems.", help_format="markdown", group=DATA
)
model_app = App(
    name="model",
    help="Make the testbed models; swap parts of two checkpoints.",
    help_format="markdown",
    group=TRAIN,
)


@data_app.command
def synth(
    *,
    out: Path,
    train: int = 1000,
    test: int = 200,
    seed: int = 0,
    family: str = "geometry",
    force: bool = False,
) -> None:
    """Make problems with their pictures, in PGPS9K's layout: plane geometry, or charts and tables.

    ```
    modgap data synth --out geo --train 1000 --test 200
    modgap data synth --out charts --family charts
    ```

    Args:
        out: Folder to write.
        train: Problems of the train split.
        test: Problems of the test split.
        seed: The same seed gives the same files.
        family: `geometry`, or `charts`: bar charts and tables.
        force: Replace an earlier set of synthetic problems in that folder.
    """
    from modgap.core.progress import progress_bars
    from modgap.datasets.synthetic import write_dataset

    for name, count in (("train", train), ("test", test)):
        if count < 0:
            raise UserError(f"--{name} {count}: must not be negative.")
    if train + test == 0:
        raise UserError("--train 0 --test 0: give at least one problem.")
    with progress_bars() as bars:
        bars.doing("drawing problems")
        write_dataset(
            out, train, test, seed, progress=bars.counter("drawing problems"), force=force,
            family=family,
        )  # fmt: skip
    show(f"{train} train and {counted(test, 'test problem')} in {out}")


@data_app.command
def check(folder: Path, *, benchmark: str = "pgps9k", allow_outside: AllowOutside = False) -> int:
    """Validate a data set: its counts, every fault by name, and what is unusual about its images.

    The exit code is 1 if there is a fault.


    ```
    modgap data check PGPS9K
    modgap data check my-problems.jsonl --benchmark pairs
    ```

    Args:
        folder: A folder in PGPS9K's or Geometry3K's layout, a JSONL file of `pairs`, or MathVerse's
            or Geometry3K's parquet or JSON.
        benchmark: Which layout: pgps9k, synthetic, charts, pairs, mathverse, geometry3k,
            geometry3k-choices, or one of your own, module:object or path/to/file.py:object.
        allow_outside: The data set may name, or link to, images outside its folder.
    """
    from modgap.core.progress import progress_bars

    entry = registry.DATASETS.entry(benchmark)
    if not entry.check:
        raise UserError(f"--benchmark {benchmark} has no check: its `DatasetEntry` names none.")
    check_data = registry.load(entry.check)
    # A check of one's own need not have the parameter.
    more = {"allow_outside": True} if allow_outside else {}
    with progress_bars() as bars:
        bars.doing(f"reading {folder}")
        report = check_data(folder, progress=bars.counter("checking diagrams"), **more)
    print_check(report)
    return 0 if report.ok else 1


@data_app.command
def prepare(
    folder: Path,
    *,
    out: Path,
    variant: Literal["full-text", "no-text", "contrastive"],
    style: Style = "aligned",
    allow_outside: AllowOutside = False,
    force: bool = False,
) -> None:
    """Write the training parquet files of a variant, in verl's format.

    ```
    modgap data prepare PGPS9K --out parquet --variant contrastive
    ```

    Args:
        folder: A folder in PGPS9K's layout.
        out: Folder for train.parquet, test.parquet and manifest.json.
        variant: Conditions in the text, conditions in the image only, or both for the contrastive
            KL.
        style: `paper` equals the original scripts' output value for value.
        allow_outside: Links in the folder may lead out of it.
        force: Replace files of another variant or style.
    """
    from modgap.core.progress import progress_bars, warn
    from modgap.core.record import RunFolder
    from modgap.datasets.parquet import prepare as write

    record = RunFolder(out)
    record.check_place("prepare")
    with progress_bars() as bars:
        bars.doing(f"reading {folder}")
        done = write(
            folder, out, variant, style=style, progress=bars.counter("writing parquet"), warn=warn,
            allow_outside=allow_outside, force=force,
        )  # fmt: skip
    options = {"folder": str(folder), "out": str(out), "variant": variant, "style": style}
    record.replace_manifest("prepare", options, given())
    show(done)


def power(
    *,
    gap: float,
    problems: int | None = None,
    samples: int | None = None,
    text_accuracy: float | None = None,
    consistency: float | None = None,
    correlation: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    run: Path | None = None,
) -> None:
    """How many problems, and samples of each, it takes to detect a gap.

    It plans a paired two-sided test in the normal approximation. The chance of solving a problem
    varies over problems, equally in both views. More samples reduce the noise within a problem;
    only more problems reduce the noise between problems.


    ```
    modgap power --gap 5
    modgap power --gap 5 --problems 1000 --run runs/3b
    ```

    Args:
        gap: The gap to detect, in percentage points.
        problems: Number of problems, to print the chance to detect the gap with them.
        samples: Samples of each problem in each view, beside 1, 2, 4 and 8.
        text_accuracy: Accuracy in the text-centric view, 0 to 1; 0.6 if neither it nor --run is
            given.
        consistency: How alike a problem's samples are: 0 if all problems are equally hard, 1 if
            each is solved always or never; 0.6 if not given.
        correlation: Between a problem's chances in the two views; 0.6 if not given.
        power: The chance to detect the gap.
        alpha: Size of the test.
        run: An evaluation from which the three assumptions are estimated where they are not given.
    """
    from modgap.workflows.power import Assumptions, plan

    assumed = Assumptions(text_accuracy, consistency, correlation)
    _print_plan(
        plan(gap, assumed, problems=problems, samples=samples, target=power, alpha=alpha, run=run)
    )


@model_app.command
def pretrain(
    *,
    out: Path,
    family: str = "geometry",
    arch: str = "qwen2.5-vl",
    phase: str = "data,glyphs,mixture,final",
    problems: int = 200_000,
    glyph_steps: int = 700,
    mixture_steps: int = 3500,
    batch: int = 256,
    seed: int = 1,
    minutes: float = float("inf"),
    workers: int | None = None,
    eval_every: int = 250,
    final_problems: int = 1000,
    pick: str | None = None,
) -> None:
    """Train a testbed model from scratch and write its model card; takes minutes on a GPU.

    The defaults made the bundled checkpoint. `python -m modgap.testbed --help` has every option.


    ```
    modgap model pretrain --out testbed
    modgap model pretrain --out testbed2 --family charts --arch qwen3-vl --seed 2
    ```

    Args:
        out: Folder; complete parts in it are kept, and the same command resumes.
        family: Of the problems: `geometry`, or `charts`: bar charts and tables.
        arch: Architecture: `qwen2.5-vl`, or `qwen3-vl`, which is larger.
        phase: Comma-separated, of data, glyphs, mixture, final.
        problems: Training problems.
        glyph_steps: Steps in which the vision tower learns to see characters.
        mixture_steps: Steps in which the whole model learns to read and to solve.
        batch: Rows a step.
        seed: Of the data, the weights and the batches.
        minutes: Stop training after this number of minutes; the same command resumes.
        workers: Processes that make the data.
        eval_every: Steps between checkpoints with their figures.
        final_problems: Held-out problems for the model card.
        pick: The checkpoint to take (step_2250) instead of the one nearest to the middle of the
            bands.
    """
    require_training()
    from modgap.core.progress import progress_bars
    from modgap.testbed.data import Plan
    from modgap.testbed.run import Exams
    from modgap.testbed.run import pretrain as make

    plan = Plan(
        family=family,
        arch=arch,
        problems=problems,
        glyph_steps=glyph_steps,
        mixture_steps=mixture_steps,
        batch=batch,
        seed=seed,
    )
    phases = [name.strip() for name in phase.split(",") if name.strip()]
    count = os.cpu_count() or 2 if workers is None else workers
    with progress_bars():
        make(
            out, plan, phases, count, minutes, Exams(eval_every, final_problems=final_problems),
            pick=pick,
        )  # fmt: skip


@model_app.command
def swap(base: str, other: str, *, parts: str, out: Path) -> None:
    """Write a model with some parts of another checkpoint: which part carries what was learned?

    The parts are `tower` (the vision encoder), `merger` (what brings its features to the language
    model) and `language` (all the rest). The model is written in fp32.


    ```
    modgap model swap tiny runs/kl/stage1/checkpoints/step_60 --parts tower,merger --out swapped
    ```

    Args:
        base: The model that is kept otherwise; as --model of other commands.
        other: A checkpoint of the same shape to take the parts from.
        parts: Comma-separated, of tower, merger, language.
        out: Folder to write.
    """
    require_training()
    from modgap.models.swap import swap as write

    chosen = [part.strip() for part in parts.split(",") if part.strip()]
    write(base, other, chosen, out)
    show(f"{base} with {', '.join(chosen)} of {other} in {out}")


def versions_as_views(
    benchmark: str, views: str | None, problem_versions: str | None
) -> str | None:
    """The views that `--problem-versions` asks for; those of `--views` where it is not given."""
    from modgap.core.registry import DATASETS
    from modgap.core.view import VERSION_VIEWS, parse_versions

    if problem_versions is None:
        return views
    if not VERSION_VIEWS.keys() & DATASETS.entry(benchmark).views:
        raise UserError(
            f"--problem-versions {problem_versions}: only --benchmark mathverse has versions; use"
            " --views."
        )
    if views is not None:
        raise UserError(
            "--problem-versions and --views say the same thing twice: give one of them."
        )
    return ",".join(parse_versions(problem_versions))


def given(**more: Any) -> dict[str, Any]:
    """The command line as it was given, for manifests, and the arguments resolved."""
    return {"command": shlex.join(safe_arguments(sys.argv)), **more}


def print_check(report: Report) -> None:
    """Print what a check of a data set found: the counts, then every fault."""
    for name, split in report.splits.items():
        show(
            f"{name}: {counted(split.problems, 'sound problem')},"
            f" {counted(split.images, 'diagram')}, {counted(len(split.types), 'type')}"
        )
        if split.versions:
            show(
                "  versions:"
                f" {', '.join(f'{name} {count}' for name, count in split.versions.items())}"
            )
        else:
            show(
                f"  {split.leaky} state a number or an equation in the question, {split.bare} no"
                " condition in words"
            )
        for kind, count in split.types.most_common():
            show(f"  {count:6} {kind}")
    if report.shared_images:
        show(f"{counted(report.shared_images, 'diagram')} in more than one split")
    for fault in report.faults:
        show(f"{fault.severity}: {fault}")
    errors, warnings = len(report.errors), len(report.warnings)
    show(f"{counted(errors, 'error')}, {counted(warnings, 'warning')} in {report.path}")


def _print_plan(plan: Plan) -> None:
    """The plan as a small table, and what it assumes."""
    from rich.console import Console

    from modgap.reporting import tables as t
    from modgap.reporting.terminal import as_rich, print_line

    console = Console()
    print_line(
        console,
        f"Problems needed to find a gap of {plan.points:g} points with a chance of"
        f" {100 * plan.target:g}% (paired two-sided test at {100 * plan.alpha:g}%):",
        "bold",
    )
    head = ("samples a view", "problems needed", "responses")
    rows = [
        (str(n), f"{problems:,}", f"{2 * n * problems:,}") for n, problems in plan.needed.items()
    ]
    if plan.problems:
        head += (f"chance with {counted(plan.problems, 'problem')}",)
        rows = [
            (*row, f"{100 * plan.power[n]:.1f}%") for row, n in zip(rows, plan.needed, strict=True)
        ]
    console.print(as_rich(t.Table("", head, tuple(rows), left=0), plain=not console.is_terminal))
    said = ", ".join(
        f"{name.replace('_', ' ')} {value:.3g} ({plan.sources[name]})"
        for name, value in plan.assumptions.items()
    )
    print_line(console, f"Assumed: {said}.")
    print_line(
        console,
        "Consistency: how alike a problem's samples are (0: all problems equally hard, 1: always or"
        " never solved). Correlation: between its chances in the two views. --run RUN measures all"
        " three; normal approximation.",
    )
