"""The commands around data and the testbed model: `data`, `import`, `power`, `model`.

Parses first, imports late.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from modgap.cli.groups import DATA, TRAIN
from modgap.core import registry
from modgap.core.errors import UsageError, UserError
from modgap.core.installation import require_training
from modgap.core.options import AllowOutside
from modgap.core.progress import show
from modgap.core.prompt import Style
from modgap.core.secrets import safe_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modgap.datasets.faults import Report
    from modgap.original.importing import Imported
    from modgap.workflows.logs.importing import ImportedLog
    from modgap.workflows.power import Plan

Source = Literal["original", "lmms-eval", "vlmevalkit", "inspect"]
data_app = App(
    name="data", help="Make, check and prepare problems.", help_format="markdown", group=DATA
)
model_app = App(name="model", help="Make the testbed model.", help_format="markdown", group=TRAIN)


@data_app.command
def synth(
    *, out: Path, train: int = 1000, test: int = 200, seed: int = 0, force: bool = False
) -> None:
    """Make plane-geometry problems with their diagrams, in PGPS9K's layout.

    ```
    modgap data synth --out geo --train 1000 --test 200
    ```

    Args:
        out: Folder to write.
        train: Problems of the train split.
        test: Problems of the test split.
        seed: The same seed gives the same files.
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
            out, train, test, seed, progress=bars.counter("drawing problems"), force=force
        )
    show(f"{train} train and {test} test problems in {out}")


@data_app.command
def check(folder: Path, *, benchmark: str = "pgps9k", allow_outside: AllowOutside = False) -> int:
    """Validate a data set: its counts, every fault by name, and what is unusual about its images.

    The exit code is 1 if there is a fault.


    ```
    modgap data check PGPS9K
    modgap data check my-problems.jsonl --benchmark pairs
    ```

    Args:
        folder: A folder in PGPS9K's layout, a JSONL file of `pairs`, or MathVerse's parquet or
            JSON.
        benchmark: Which layout: pgps9k, synthetic, pairs, mathverse, or one of your own,
            module:object or path/to/file.py:object.
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


def import_answers(
    *folders: Path,
    out: Path,
    gt: Path | None = None,
    view: str | None = None,
    results_root: Path | None = None,
    scan_output: Path | None = None,
    source: Annotated[Source, Parameter(name="--from")] = "original",
    scorer: str | None = None,
    allow_outside: AllowOutside = False,
) -> None:
    """Make a run of answers that another program collected, and grade it; needs no diagrams.

    The original repository's: for PGPS9K folders of qprob_N_attemptJ.txt, for MathVerse files
    *_generations.jsonl, scored or not. With --from the per-sample logs of another tool on
    MathVerse, whose verdicts are kept beside our grades; and any log of inspect_ai's task
    modgap/gap.


    ```
    modgap import answers_full_cond answers --gt PGPS9K/test.json --out runs/imported
    modgap import --from vlmevalkit outputs/MODEL --out runs/vlmevalkit
    ```

    Args:
        folders: Answer folders, or files of generations or folders of them; a model's kinds are the
            views of one run. Several models make several runs, OUT/MODEL. With --from the files of
            one model, or their folder: *_samples_*.jsonl and *_results.json of lmms-eval, .xlsx,
            .tsv or .json of VLMEvalKit, .eval or .json of inspect_ai.
        out: Run folder.
        gt: PGPS9K's test.json. Generations carry their gold answers; with MathVerse's own files
            (parquet or JSON) they get subjects, images and the problems without an answer as well.
            With --from MathVerse's own files, for logs whose rows do not say their problem.
        view: Of all answer folders; if not given, one whose name has `full_cond` is full-text, any
            other image-only.
        results_root: Also every folder below this one that holds answers.
        scan_output: Also write the original's figures of every folder to this text file, as its
            eval.py --scan-output does.
        source: Which program collected the answers: `original`, `lmms-eval`, `vlmevalkit` or
            `inspect`.
        scorer: Which score is the verdict, where a log has several.
        allow_outside: Links in these folders may lead out of them. Of a log: keep the places of the
            diagrams that it names, which a report then embeds.
    """
    from modgap.core.progress import progress_bars

    if source != "original":
        if any(option is not None for option in (view, results_root, scan_output)):
            raise UsageError(
                "--view, --results-root and --scan-output are for the original's answers: a log of"
                f" {source} says its views itself."
            )
        return _import_logs(source, folders, out, gt, scorer, allow_outside=allow_outside)
    if scorer is not None:
        raise UsageError(f"--scorer {scorer}: the original's answers have one; leave it out.")
    from modgap.original.import_mathverse import import_generations
    from modgap.original.import_pgps9k import import_answers as import_folders
    from modgap.original.mathverse import generation_files

    if files := generation_files(folders, results_root, allow_outside=allow_outside):
        if view is not None:
            raise UserError(
                f"--view {view}: generations say their versions themselves; leave it out."
            )
        with progress_bars() as bars:
            runs = import_generations(
                files, out, gt=gt, given=given(), progress=bars, allow_outside=allow_outside
            )
        _print_all(runs, scan_output, results_root)
        return
    if gt is None:
        raise UserError("--gt is missing: answer folders need the data set's test.json.")
    with progress_bars() as bars:
        runs = import_folders(
            folders, gt, out, view=view, results_root=results_root, given=given(), progress=bars,
            allow_outside=allow_outside,
        )  # fmt: skip
    _print_all(runs, scan_output, results_root)


def _print_all(runs: Sequence[Imported], scan_output: Path | None, root: Path | None) -> None:
    from modgap.original.importing import print_imported, write_scan

    for run in runs:
        print_imported(run)
    if scan_output is not None:
        write_scan(runs, scan_output, root)
        show(f"the original's figures: {scan_output}")


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
    """Train the testbed model from scratch and write its model card; takes minutes on a GPU.

    The defaults made the bundled checkpoint. `python -m modgap.testbed --help` has every option.


    ```
    modgap model pretrain --out testbed
    ```

    Args:
        out: Folder; complete parts in it are kept, and the same command resumes.
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
            f"{name}: {split.problems} sound problems, {split.images} diagrams, {len(split.types)}"
            " types"
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
        show(f"{report.shared_images} diagrams are used by more than one split")
    for fault in report.faults:
        show(f"{fault.severity}: {fault}")
    errors, warnings = len(report.errors), len(report.warnings)
    show(
        f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)} in"
        f" {report.path}"
    )


def _import_logs(
    tool: str,
    files: Sequence[Path],
    out: Path,
    gt: Path | None,
    scorer: str | None,
    *,
    allow_outside: bool,
) -> None:
    """Import logs of another tool; those of inspect_ai's task `modgap/gap` know our problems."""
    from modgap.core.progress import progress_bars
    from modgap.reporting.terminal import print_summary
    from modgap.workflows.import_inspect import import_log
    from modgap.workflows.logs.importing import import_logs
    from modgap.workflows.logs.inspect_log import is_ours

    if tool == "inspect" and any(is_ours(path) for path in files):
        if len(files) != 1:
            raise UsageError(f"a log of modgap/gap makes a run of its own: {len(files)} are given.")
        if gt is not None or scorer is not None:
            raise UsageError("--gt and --scorer: a log of modgap/gap has its problems itself.")
        with progress_bars() as bars:
            summary = import_log(
                files[0], out, given=given(), progress=bars, allow_outside=allow_outside
            )
        print_summary(summary, out.name)
        return
    with progress_bars() as bars:
        done = import_logs(
            tool, files, out, gt=gt, scorer=scorer, given=given(), progress=bars,
            allow_outside=allow_outside,
        )  # fmt: skip
    _print_log(done)


def _print_log(done: ImportedLog) -> None:
    """The log's source, how many samples are errors and why, both verdicts, and our numbers."""
    from rich.console import Console

    from modgap.core.record import OUTCOMES
    from modgap.reporting import tables as t
    from modgap.reporting.terminal import as_rich, print_summary

    log = done.log
    show(f"{done.path}: {log.model or 'model not named'}, {len(log.samples):,} rows of {log.tool}")
    for path in log.files:
        show(f"  from {path}")
    count = sum(map(len, done.errors.values()))
    lost = sum(map(len, done.verdict_errors.values()))
    show(f"errors: {count:,} responses, {lost:,} scores of {log.tool}")
    for what, kinds in (("response", done.errors), ("score", done.verdict_errors)):
        for why, names in kinds.items():
            show(f"  {len(names):6,} {what}{'s' * (len(names) != 1)}: {why}")
    if done.agreement:
        rows = [
            (f"{log.tool}: {theirs.replace('_', ' ')}",
             *(f"{done.agreement.get((theirs, ours), 0):,}" for ours in OUTCOMES))
            for theirs in OUTCOMES
            if any(pair[0] == theirs for pair in done.agreement)
        ]  # fmt: skip
        head = (f"score {log.scorer}", *(f"ours: {name.replace('_', ' ')}" for name in OUTCOMES))
        console = Console()
        table = t.Table("Samples by both verdicts", head, tuple(rows), left=1)
        console.print(as_rich(table, plain=not console.is_terminal))
    show("Graded strict (the run's grades and summary):")
    print_summary(done.summary, done.path.name)


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
        head += (f"chance with {plan.problems:,} problems",)
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
