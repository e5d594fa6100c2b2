"""The command line. Parses first, imports late: `modgap --help` loads no torch.

Every command is a thin wrapper around a typed function of the package. Those around data and the
testbed model are in `data.py`, `import` is in `imports.py`, those around results are in `runs.py`;
the reference, `docs/reference/cli.md`, is generated from all of them.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cyclopts
from cyclopts import App, Parameter

from modgap.cli import pairs as _pairs  # noqa: F401 - adds `data init` and `data convert`
from modgap.cli.config import with_config
from modgap.cli.data import data_app, given, model_app, power, versions_as_views
from modgap.cli.groups import DATA, MEASURE, RESULTS, SETUP, TRAIN
from modgap.cli.imports import import_answers
from modgap.cli.runs import cut, explain, export, grade, ls, report, results_app
from modgap.cli.start import init
from modgap.cli.usage import usage_line
from modgap.core import registry
from modgap.core.disk import full_disk
from modgap.core.errors import UsageError, UserError, command_line, sentence
from modgap.core.files import check_local
from modgap.core.installation import missing_package, not_installed, require
from modgap.core.options import EvalOptions, Set, StudyArguments, TrainOptions, parse_seeds
from modgap.core.progress import brief, show
from modgap.core.secrets import keep_out_of_arguments
from modgap.core.version import __version__


def _only_local(_: object, value: Any) -> None:
    """Refuse paths that are addresses, of whatever option."""
    for path in value if isinstance(value, tuple) else (value,):
        if isinstance(path, Path):
            check_local(path)


app = App(
    name="modgap",
    help="Measure, explain and close the modality gap of multimodal LLMs.",
    version=__version__,
    help_format="markdown",
    help_epilogue=(
        "Every command takes --config FILE: its options from a TOML or YAML file"
        " (docs/reference/config.md)."
    ),
    suppress_keyboard_interrupt=False,  # main says what it means
    default_parameter=Parameter(validator=_only_local),
)
for part in (data_app, model_app, results_app):
    app.command(part)
app.command(import_answers, name="import", group=DATA)
for group, commands in {
    MEASURE: (power, grade),
    RESULTS: (cut, report, explain, ls, export),
    SETUP: (init,),
}.items():
    for command in commands:
        app.command(command, group=group)
# Shells read completions from the folder that the script goes to; no startup file is changed.
app.register_install_completion_command(
    add_to_startup=False, group=SETUP, help="Install the completion of commands in the shell."
)
app["--help"].group = SETUP
app["--version"].group = SETUP


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; those of the process if not given.

    Returns:
        0 done, 1 bad input or a failed run, 2 wrong usage, 130 interrupted.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    keep_out_of_arguments(tokens)
    try:
        tokens = with_config(app, tokens)
        status = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        show(f"modgap: {usage_line(error, app, tokens)}", error=True)
        return 2
    except KeyboardInterrupt:
        show(
            "modgap: interrupted; finished work is kept, give the same command again.",
            error=True,
        )
        return 130
    except SystemExit as error:
        # What rich makes of a broken pipe on its console.
        return 0 if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    except BrokenPipeError:
        # The reader of the output closed it; printing comes last, so the work is finished.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            show(traceback.format_exc(), error=True)
            return 1
        usage = isinstance(error, UsageError)
        line = usage_line(error, app, tokens) if usage else _one_line(error)
        show(f"modgap: {line}", error=True)
        return 2 if usage else 1
    return status if isinstance(status, int) else 0


def _one_line(error: Exception) -> str:
    """An error as one line; a bug keeps its type, and says how to see the traceback."""
    if package := missing_package(error):
        return f"{not_installed(package)}."
    if isinstance(error, UserError):
        return brief(sentence(str(error)))
    if why := full_disk(error):
        name = getattr(error, "filename", None)
        where = f"{name} cannot be written: " if name else ""
        return brief(f"{where}{why}. Make room there; the same command then resumes.")
    if isinstance(error, OSError) and error.filename is not None:
        return brief(
            f"{error.filename}: {error.strerror}; check the path and its permissions, or give"
            " another one."
        )
    return f"{brief(f'{type(error).__name__}: {error}')} (--debug shows where)"


def run() -> None:
    """The console script."""
    # OpenMP threads that spin while they wait slow a busy machine down tenfold; read when torch is
    # loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # numpy's own threads spin for a tenth of a second on each processor once it is imported.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # SIGTERM (kill, timeout, Slurm) ends the run as Ctrl-C does, so that engines end their
    # processes and free their GPUs.
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _repeat_interrupt
    status = main()
    # Without this the interpreter searches everything that is loaded for cycles when it exits.
    gc.freeze()
    sys.exit(status)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _repeat_interrupt(found: Any) -> None:
    """Interrupt again where Python dropped it.

    A signal may arrive in a callback of the garbage collector or the import system, and exceptions
    that are raised there end there.
    """
    if issubclass(found.exc_type, KeyboardInterrupt):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(found)


@app.command(group=SETUP)
def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """Make problems, train two recipes, measure the gap and report it, offline on a laptop.

    ```
    modgap demo --out demo
    ```

    Args:
        out: Folder for everything it makes; an interrupted demo resumes there.
        seed: Of the problems, of the training and of the sampling.
    """
    from modgap.workflows.demo import run_demo

    run_demo(out, seed=seed)


@app.command(group=SETUP)
def doctor() -> int:
    """What is installed, which engines work here, and how much GPU memory there is.

    ```
    modgap doctor
    ```
    """
    from modgap.cli.doctor import diagnose

    return diagnose()


@app.command(group=TRAIN)
def train(
    recipe: str,
    *,
    data: Path | None = None,
    model: str | None = None,
    out: Path | None = None,
    benchmark: str = "pgps9k",
    settings: Set = (),
    options: TrainOptions | None = None,
    dry_run: bool = False,
    gpu: str | None = None,
) -> None:
    """Train a model with a recipe.

    ```
    modgap train kl --data PGPS9K --model qwen2_5_vl_3b --out runs/kl --set lora_rank=64
    modgap train kl --benchmark synthetic --model tiny --out runs/tiny-kl --set steps=60 lr=3e-5
    ```

    Args:
        recipe: full-text, no-text, mix, curriculum, kl, kl-curriculum, kl-from-base or
            reverse-curriculum; to take the KL apart
            kl-forward, kl-full-vocab, kl-unclamped, kl-strong, kl-forward-strong or
            full-text-continued; distill, distill-jsd, distill-advantage, distill-frozen,
            distill-ema, distill-after-text, self-trace, papo, papo-unclamped, vppo,
            reading-reward. One of your own is module:object or path/to/file.py:object.
        data: The data set; its train split is trained on. May be left out with --benchmark
            synthetic.
        model: `tiny`, a folder, a Hugging Face id, `modelscope:ORG/NAME`, or an alias such as
            qwen2_5_vl_7b. May be left out with --start-from.
        out: Run folder; stages go to its stage1, stage2 and so on. Only a dry run needs none.
        benchmark: Layout of the data set: pgps9k, synthetic, charts, pairs, mathverse, geometry3k,
            geometry3k-choices, or one of your own, module:object or path/to/file.py:object.
        settings: A setting, key=value or stageN.key=value; verl.KEY=value is any of verl's own;
            repeatable.
        options: How to train.
        dry_run: Print the resolved recipe with tokens, FLOPs, memory and time a step (verl: its
            configuration, too).
        gpu: GPU that a dry run is to expect, such as H100 or 4090; the one here if not
            given, an H100 with verl.
    """
    from modgap.core.progress import progress_bars, say, warn
    from modgap.models.folder import model_notes
    from modgap.workflows.problems import locate, read_problems, warn_about_images
    from modgap.workflows.train import (
        check_start,
        idle_settings,
        resolve_recipe,
        starting_model,
        train_resolved,
    )

    options = options or TrainOptions()
    entry = registry.TRAINING_ENGINES.entry(options.engine)
    if gpu is not None and not (dry_run and "gpu" in entry.plan_takes):
        raise UsageError("--gpu is for --dry-run: a training takes --device.")
    if dry_run:
        return _print_plan(recipe, data, model, out, benchmark, settings, options, gpu)
    if out is None:
        raise UsageError("--out is missing: give a folder for the run.")
    if data is not None and out.resolve() == data.resolve():
        raise UserError(f"--out {out} is the data set itself: give another folder as --out.")
    with progress_bars() as bars:
        bars.doing(f"finding the model {options.start_from or model}")
        start = starting_model(model, options)
        folder = check_start(start, out, options)
        notes = model_notes(folder)
        plan = resolve_recipe(recipe, settings, notes, options)
        for line in idle_settings([recipe], settings, notes, options):
            warn(line)
        bars.doing(f"reading {data or benchmark}")
        place = locate(benchmark, data)
        problems = read_problems(benchmark, place, "train", allow_outside=options.allow_outside)
        if not registry.DATASETS.entry(benchmark).splits:
            say(f"{benchmark} has no splits: measure the result on problems of another file")
        elif plan.validates_on_test:
            anywhere = options.allow_outside
            problems += read_problems(benchmark, place, "test", allow_outside=anywhere)
        bars.doing("looking at the images")
        warn_about_images(problems)
        asked = given(
            data=str(place), benchmark=benchmark, settings=list(settings), model=str(start)
        )
        trained = train_resolved(
            plan, problems, start, out, options=options, given=asked, progress=bars
        )
    show(f"final checkpoint: {trained.final}")
    last = plan.stages[-1].settings
    if last.eval_every and (plan.validates_on_test or last.validation_problems):
        show(f"best by validation: {trained.final.parent / 'best'}")
    found = [] if data is None else ["--data", data]
    measure = ["eval", *found, "--benchmark", benchmark, "--model", trained.final]
    show(f"measure it: {command_line(*measure, '--out', out / 'eval')}")


def _print_plan(
    recipe: str,
    data: Path | None,
    model: str | None,
    out: Path | None,
    benchmark: str,
    settings: Sequence[str],
    options: TrainOptions,
    gpu: str | None,
) -> None:
    """What `train --dry-run` prints."""
    from modgap.core.progress import progress_bars, say
    from modgap.workflows.problems import locate, read_problems
    from modgap.workflows.train import (
        dry_notes,
        dry_run_lines,
        idle_settings,
        other_size,
        preset_lines,
        resolve_recipe,
        starting_model,
    )

    with progress_bars() as bars:
        bars.doing("planning")
        at_hand = data is not None and data.exists()
        if data is not None and not at_hand:
            say(f"--data {data} does not exist; the dry run ignores it")
        entry = registry.TRAINING_ENGINES.entry(options.engine)
        counted = at_hand and "problems" in entry.plan_takes
        problems = None
        if counted:
            place = locate(benchmark, data)
            problems = read_problems(benchmark, place, "train", allow_outside=options.allow_outside)
        start = str(starting_model(model, options, dry=True))
        notes = dry_notes(start)
        plan = resolve_recipe(recipe, settings, notes, options)
        lines = [*filter(None, [other_size(options, start)])]
        lines += [f"warning: {line}" for line in idle_settings([recipe], settings, notes, options)]
        lines += preset_lines(recipe, plan, notes, options)
        lines += dry_run_lines(plan, options.engine, start, out or Path("OUT"), problems, gpu)
        if problems is None and "problems" in entry.plan_takes:
            drawn = data is None and registry.DATASETS.entry(benchmark).own_data
            why = (
                f"{benchmark} draws its problems when training begins"
                if drawn
                else ("the data set is not here")
            )
            lines.append(f"{why}: whether it has enough of them was not looked at")
    show("\n".join(lines))


@app.command(name="eval", group=MEASURE)
def evaluate(
    *,
    data: Path | None = None,
    out: Path,
    model: str | None = None,
    models: Path | None = None,
    checkpoints: str | None = None,
    benchmark: str = "pgps9k",
    problem_versions: str | None = None,
    limit: int | None = None,
    prices: str | None = None,
    dry_run: bool = False,
    options: EvalOptions | None = None,
) -> int | None:
    """Ask a model every test problem in several views, grade the answers and print the gap.

    ```
    modgap eval --benchmark synthetic --model Qwen/Qwen2.5-VL-3B-Instruct --out runs/3b
    modgap eval --data PGPS9K --model gpt-4o-mini --engine openai --out runs/gpt-4o-mini
    ```

    Args:
        data: The data set; of MathVerse a parquet or JSON file, a folder of them, or its Hugging
            Face id. Left out with --benchmark synthetic, it is that benchmark's own problems.
        model: `tiny`, a folder, a Hugging Face id, `modelscope:ORG/NAME`, or an alias such as
            qwen2_5_vl_7b.
        models: Instead of --model a file with one model a line (blank lines and # are left out):
            each becomes a run in OUT/NAME, as many at a time as there are accelerators for.
        checkpoints: `all`, or every=40: the saved steps of the training run that --model names,
            each a run in OUT/stageN_step_M; OUT/report.html shows the gap over steps.
        out: Run folder; an interrupted run resumes there.
        benchmark: Layout of the data set: pgps9k, synthetic, charts, pairs, mathverse, geometry3k,
            geometry3k-choices, or one of your own, module:object or path/to/file.py:object.
        problem_versions: Of MathVerse, instead of --views: text, vision, or a comma list of
            text-dominant, text-lite, vision-intensive, vision-dominant, vision-only (these five if
            not given), text-only.
        limit: Only this number of problems, from the first.
        prices: What a million tokens of prompts and of responses cost, e.g. 0.15,0.60, to print
            the run's cost.
        dry_run: With --models: check the list, the options and the data, and print the jobs
            without running them.
        options: How to evaluate.
    """
    from modgap.core.progress import progress_bars
    from modgap.core.record import RunFolder
    from modgap.reporting.terminal import print_summary
    from modgap.workflows import evaluate as workflow
    from modgap.workflows.checkpoints import evaluate_checkpoints
    from modgap.workflows.models import evaluate_models
    from modgap.workflows.problems import (
        check_views,
        default_views,
        locate,
        read_problems,
        warn_about_images,
    )

    priced = _prices(prices)
    options = options or EvalOptions()
    options = replace(options, views=versions_as_views(benchmark, options.views, problem_versions))
    options.check()
    if (model is None) == (models is None):
        raise UsageError("give one of --model and --models (a file with one a line).")
    if dry_run and models is None:
        raise UsageError("--dry-run prints the jobs of --models FILE: give that list.")
    if prices is not None and (models is not None or checkpoints is not None):
        raise UsageError("--prices are those of one model: give it with --model.")
    if checkpoints is not None and model is None:
        raise UsageError("--checkpoints are those of a training run: give it with --model.")
    several = models is not None or checkpoints is not None
    if not several:
        RunFolder(out).check_place("eval")
    with progress_bars() as bars:
        bars.doing(f"reading {data or benchmark}")
        data = locate(benchmark, data)
        problems = read_problems(benchmark, data, limit=limit, allow_outside=options.allow_outside)
        if several:
            views = options.chosen(default_views(problems))
            check_views(problems, views)
            warn_about_images(problems, views)
            problems.clear()  # reading them was the check; each model's process reads them again
    if checkpoints is not None and model is not None:
        return evaluate_checkpoints(
            model, checkpoints, data, out, options, benchmark=benchmark, limit=limit
        )
    if models is not None:
        return evaluate_models(
            models, data, out, options, benchmark=benchmark, limit=limit, dry_run=dry_run
        )
    assert model is not None
    asked = given(data=str(data), benchmark=benchmark, limit=limit)
    with progress_bars() as bars:
        bars.doing(f"finding the model {model}")
        run = workflow.evaluate(problems, model, out, options=options, given=asked, progress=bars)
    print_summary(run.summary, out.name, run=out, prices=priced)
    return None


def _prices(text: str | None) -> tuple[float, float] | None:
    """The two prices of `--prices`."""
    if text is None:
        return None
    try:
        prompt, response = (float(part) for part in text.split(","))
        if not 0 <= prompt < math.inf or not 0 <= response < math.inf:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--prices {text}: give what a million tokens of prompts and of responses cost, as"
            " 0.15,0.60."
        ) from None
    return prompt, response


@app.command(group=TRAIN)
def convert(checkpoint: Path, *, out: Path) -> None:
    """Turn an FSDP checkpoint of verl into a Hugging Face folder (bf16) with verl's own merger.

    Checkpoints of verl 0.5 work as well. The adapter of a LoRA training is merged in fp32. verl
    unpickles the shards: shards that hold more than tensors are refused, but convert only
    checkpoints whose source you trust.


    ```
    modgap convert checkpoints/global_step_100 --out model
    ```

    Args:
        checkpoint: global_step_N/actor with its shards, global_step_N, or the folder of all steps
            (the last one then).
        out: The folder.
    """
    require("torch")
    from modgap.models.lora import merge_adapter
    from modgap.training.verl.merge import merge

    show(f"model: {merge(checkpoint, out, merge_adapter=merge_adapter)}")


@app.command(group=TRAIN)
def study(*, spec: StudyArguments, seeds: str | None = None) -> None:
    """Measure a model, train it with several recipes, measure each, and report them side by side.

    ```
    modgap study --benchmark synthetic --model tiny --recipes full-text,no-text,kl --out runs/study
    modgap study --benchmark synthetic --model tiny --recipes kl --seeds 0,1,2 --out runs/seeds
    ```

    Args:
        spec: What to do.
        seeds: Training seeds, comma-separated: a study each, in OUT/seedN, and one report of all.
    """
    from modgap.core.progress import progress_bars
    from modgap.reporting.terminal import print_numbers
    from modgap.workflows.sweep import study as run_them

    asked = given()
    spec = replace(spec, seeds=None if seeds is None else parse_seeds(seeds))
    with progress_bars() as bars:
        bars.doing("checking the study")
        numbers = run_them(spec, given=asked)
    print_numbers(numbers)
    show(f"report: {(spec.out / 'report.html').resolve()}")


if __name__ == "__main__":
    run()
