"""The command line. Parses first, imports late: `modgap --help` loads no torch.

Every command is a thin wrapper around a typed function of the package. Those around data and the
testbed model are in `cli_data.py`, those around results in `cli_results.py`; the reference,
`docs/cli.md`, is generated from all three.
"""

from __future__ import annotations

import gc
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import App, Parameter

from modgap.cli.data import (
    Benchmark,
    EngineArgs,
    StyleName,
    data_app,
    given,
    import_answers,
    model_app,
    power,
    versions_as_views,
)
from modgap.cli.runs import grade, report
from modgap.core import registry
from modgap.core.errors import UsageError, UserError
from modgap.core.version import __version__

app = App(
    name="modgap",
    help="Measure, explain and close the modality gap of multimodal LLMs.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # main says what it means
)
for part in (data_app, model_app):
    app.command(part)
app.command(import_answers, name="import")
for command in (power, grade, report):
    app.command(command)

Temperature = float | Literal["model"] | None
Set = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), consume_multiple=True)]


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
    try:
        status = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        # The last line says what is wrong; the ones before it are a panel.
        print(f"modgap: {' '.join(str(error).split())} See modgap --help.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "modgap: interrupted; what is done is kept, give the same command again.",
            file=sys.stderr,
        )
        return 130
    except SystemExit as error:
        # What rich makes of a broken pipe on its console.
        return 0 if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    except BrokenPipeError:
        # Whoever read the output has seen enough; printing comes last, so the work is done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        usage = isinstance(error, UsageError)
        print(
            f"modgap: {_one_line(error)}{' See modgap --help.' if usage else ''}", file=sys.stderr
        )
        return 2 if usage else 1
    return status if isinstance(status, int) else 0


def _one_line(error: Exception) -> str:
    """What a person needs of an error; a bug keeps its kind, and says how to see more."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename}: {error.strerror}; check the path and its permissions, or give"
            " another one."
        )
    return f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)"


def run() -> None:
    """The console script."""
    # OpenMP threads that spin while they wait slow a busy machine down tenfold; read when torch is
    # loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Nor are numpy's own worth a tenth of a second of each processor, which is what they spin once
    # it is imported.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # What ends a job (kill, timeout, Slurm) ends it as Ctrl-C does, so that engines give back their
    # processes and GPUs.
    signal.signal(signal.SIGTERM, _interrupt)
    status = main()
    gc.freeze()  # so that the interpreter, which ends, does not look through all that is loaded for cycles
    sys.exit(status)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@app.command
def demo(*, out: Path = Path("demo"), seed: int = 0) -> None:
    """From nothing to a report on a laptop, offline: make problems, train two recipes, measure the
    gap.

    Args:
        out: Folder for everything it makes; an interrupted demo goes on there.
        seed: Of the problems, of the training and of the sampling.
    """
    from modgap.workflows.demo import run_demo

    run_demo(out, seed=seed)


@app.command
def doctor() -> int:
    """What is installed, which engines work here, and how much GPU memory there is."""
    from modgap.cli.doctor import diagnose

    return diagnose()


@app.command
def train(
    recipe: str,
    *,
    data: Path | None = None,
    model: str,
    out: Path | None = None,
    engine: Literal["local", "verl"] = "local",
    benchmark: Benchmark = "pgps9k",
    settings: Set = (),
    style: StyleName = "aligned",
    device: str | None = None,
    dry_run: bool = False,
    gpu: str | None = None,
) -> None:
    """Train a model with a recipe.

    Args:
        recipe: full-text, no-text, mix, curriculum, kl or kl-curriculum; to take the KL apart
            kl-forward, kl-full-vocab, kl-unclamped, kl-strong, kl-forward-strong or
            full-text-continued.
        data: The data set; its train split is trained on. May be left out with --benchmark
            synthetic.
        model: `tiny`, a folder, a Hugging Face id, `modelscope:ORG/NAME`, or an alias such as
            qwen2_5_vl_7b.
        out: Run folder; stages go to its stage1, stage2 and so on. Only a dry run goes without.
        engine: What trains: `local` in one process, `verl` on many GPUs (in an environment of its
            own).
        benchmark: Layout of the data set.
        settings: A setting, key=value or stageN.key=value; verl.KEY=value is any of verl's own;
            repeatable.
        style: Wording of the prompts.
        device: `cpu`, `cuda`, `cuda:1`; the best there is if not given.
        dry_run: Print the resolved recipe with tokens, FLOPs, memory and time a step (verl: its
            configuration, too).
        gpu: GPU that a dry run of the local engine is to expect, such as H100 or 4090; the one here
            if not given.
    """
    from modgap.core.progress import progress_bars, say
    from modgap.models.load import resolve
    from modgap.workflows.evaluate import locate, read_problems
    from modgap.workflows.measure import model_notes
    from modgap.workflows.train import dry_notes, print_plan, resolve_recipe, train_recipe

    if gpu is not None and (not dry_run or engine != "local"):
        raise UsageError("--gpu is for --dry-run of the local engine: a training takes --device.")
    if dry_run:
        at_hand = data is not None and data.exists()
        if data is not None and not at_hand:
            say(f"--data {data} does not exist; the dry run goes on without it")
        counted = engine == "verl" and at_hand
        problems = read_problems(benchmark, locate(benchmark, data), "train") if counted else None
        plan = resolve_recipe(recipe, settings, dry_notes(model))
        return print_plan(plan, engine, model, out or Path("OUT"), problems, gpu)
    if out is None:
        raise UsageError("--out is missing: give a folder for the run.")
    data = locate(benchmark, data)
    if out.resolve() == data.resolve():
        raise UserError(f"--out {out} is the data set itself: give another folder as --out.")
    problems = read_problems(benchmark, data, "train")
    if not registry.DATASETS.entry(benchmark).splits:
        say(f"{benchmark} has no splits: measure the result on problems of another file")
    plan = resolve_recipe(recipe, settings, model_notes(resolve(model)))
    with progress_bars() as bars:
        final = train_recipe(
            plan,
            problems,
            model,
            out,
            engine=engine,
            style=style,
            device=device,
            given=given(),
            bars=bars,
        )
    print(f"final checkpoint: {final}")
    if plan.stages[-1].settings.validation_problems and plan.stages[-1].settings.eval_every:
        print(f"best by validation: {final.parent / 'best'}")
    print(f"measure it: modgap eval --data {data} --model {final} --out {out / 'eval'}")


@app.command(name="eval")
def evaluate(
    *,
    data: Path | None = None,
    out: Path,
    model: str | None = None,
    models: Path | None = None,
    benchmark: Benchmark = "pgps9k",
    engine: Literal["hf", "vllm", "openai"] = "hf",
    views: str | None = None,
    problem_versions: str | None = None,
    samples: int | None = None,
    temperature: Temperature = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    limit: int | None = None,
    style: StyleName = "aligned",
    batch_size: int = 64,
    device: str | None = None,
    base_url: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    concurrency: int = 32,
    timeout: float = 600.0,
    max_retries: int = 8,
    prices: str | None = None,
    engine_args: EngineArgs = (),
    replicas: int = 1,
    ray_address: str | None = None,
) -> int | None:
    """Ask a model every test problem in several views, grade the answers and print the gap.

    Args:
        data: The data set; of MathVerse a parquet or JSON file, a folder of them, or its Hugging
            Face id. Left out with --benchmark synthetic, it is that benchmark's own problems.
        model: `tiny`, a folder, a Hugging Face id, `modelscope:ORG/NAME`, or an alias such as
            qwen2_5_vl_7b.
        models: In the place of --model a file with one a line (blank lines and # are left out):
            each becomes a run in OUT/NAME, as many at a time as there are accelerators for.
        out: Run folder; an interrupted run goes on there.
        benchmark: Layout of the data set.
        engine: What answers: `hf` and `vllm` load the model here, `openai` asks an
            OpenAI-compatible server for it.
        views: Comma-separated: full-text, image-only (the default), and the controls text-only,
            question-only, blank-image, swapped-image, transcribe. Of MathVerse: its versions, see
            --problem-versions.
        problem_versions: Of MathVerse, in the place of --views: text, vision, or a comma list of
            text-dominant, text-lite, vision-intensive, vision-dominant, vision-only (these five if
            not given), text-only.
        samples: Responses per problem and view; 4 if not given. What is not given of samples,
            temperature, max-tokens and seed, a run that exists keeps as it was begun.
        temperature: 0.6 if not given, for every model and engine (MathVerse in paper style 0.8); 0
            is greedy; `model` takes the model's own, and of a server whatever it applies by itself.
        max_tokens: Longest response; the model's own (paper style: 4096) if not given.
        seed: Each sample's seed is derived from it; 42 if not given.
        limit: Only the first so many problems.
        style: `paper` words prompts as the original did and takes its pixel limits.
        batch_size: Responses sampled together (hf).
        device: `cpu`, `cuda`, `cuda:1`; the best there is if not given (hf).
        base_url: Where the server is, e.g. http://localhost:8000/v1 (openai).
        api_key_env: Name of the environment variable that holds the key (openai).
        concurrency: Most requests under way at once (openai).
        timeout: Seconds that one request may take (openai).
        max_retries: Most retries of one request (openai).
        prices: What a million tokens of prompts and of responses cost, e.g. 0.15,0.60, to be told
            the run's cost.
        engine_args: key=value for the engine's own constructor, e.g. gpu_memory_utilization=0.8
            (vllm); repeatable.
        replicas: Engines that share the work, one an accelerator; more than one needs Ray (hf,
            vllm).
        ray_address: An existing Ray cluster to run the replicas on, e.g. auto.
    """
    from modgap.core.progress import progress_bars
    from modgap.core.view import parse_views
    from modgap.reporting.terminal import print_summary
    from modgap.workflows.evaluate import default_views, locate, read_problems, warn_about_images
    from modgap.workflows.measure import EvalOptions, evaluate_model
    from modgap.workflows.models import evaluate_models

    priced = _prices(prices)
    views = versions_as_views(benchmark, views, problem_versions)
    options = EvalOptions(
        views, samples, temperature, max_tokens, seed, style, engine, batch_size, device, base_url, api_key_env,
        concurrency, timeout, max_retries, engine_args, replicas, ray_address,
    )  # fmt: skip
    options.check()
    if (model is None) == (models is None):
        raise UsageError("give one of --model and --models (a file with one a line).")
    if prices is not None and models is not None:
        raise UsageError("--prices are those of one model: give it with --model.")
    data = locate(benchmark, data)
    problems = read_problems(benchmark, data, limit=limit)
    if models is not None:
        warn_about_images(problems, parse_views(views or default_views(problems)))
        problems.clear()  # they can be read, as was to be seen; each model's process reads its own
        return evaluate_models(models, data, out, options, benchmark=benchmark, limit=limit)
    assert model is not None
    with progress_bars() as bars:
        summary = evaluate_model(problems, model, out, options, given=given(), progress=bars)
    print_summary(summary, out.name, run=out, prices=priced)
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


@app.command
def convert(checkpoint: Path, *, out: Path) -> None:
    """Turn an FSDP checkpoint of verl into a Hugging Face folder (bf16), through verl's own merger;
    also of verl 0.5.

    The adapter of a LoRA training is merged, in fp32.

    Args:
        checkpoint: global_step_N/actor with its shards, global_step_N, or the folder of all steps
            (the last one then).
        out: The folder.
    """
    from modgap.models.lora import merge_adapter
    from modgap.training.verl.merge import merge

    print(f"model: {merge(checkpoint, out, merge_adapter=merge_adapter)}")


@app.command
def study(
    *,
    data: Path | None = None,
    model: str,
    recipes: str,
    out: Path,
    engine: Literal["local", "verl"] = "local",
    eval_engine: Literal["hf", "vllm"] = "hf",
    benchmark: Benchmark = "pgps9k",
    settings: Set = (),
    views: str | None = None,
    samples: int | None = None,
    temperature: Temperature = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    limit: int | None = None,
    style: StyleName = "aligned",
    batch_size: int = 64,
    device: str | None = None,
    engine_args: EngineArgs = (),
    replicas: int = 1,
    ray_address: str | None = None,
    seeds: str | None = None,
    jobs: int = 1,
) -> None:
    """Measure a model, train it with several recipes, measure each, and report them side by side.

    Args:
        data: The data set: train split for training, test split for measuring. May be left out with
            --benchmark synthetic.
        model: The base model of every recipe.
        recipes: Comma-separated: full-text, no-text, mix, curriculum, kl, kl-curriculum;
            kl-forward, kl-full-vocab, kl-unclamped, kl-strong, kl-forward-strong,
            full-text-continued.
        out: Study folder; an interrupted study goes on there.
        engine: What trains: `local` or `verl`.
        eval_engine: What answers.
        benchmark: Layout of the data set.
        settings: A setting of every recipe, key=value or stageN.key=value; repeatable.
        views: Views to evaluate; full-text,image-only if not given.
        samples: As in eval.
        temperature: As in eval.
        max_tokens: As in eval.
        seed: Of the evaluation, 42 if not given; training has --set seed=N.
        limit: Only the first so many test problems.
        style: Wording of the prompts.
        batch_size: Responses sampled together in evaluation.
        device: `cpu`, `cuda`, `cuda:1`; the best there is if not given.
        engine_args: As in eval.
        replicas: As in eval.
        ray_address: As in eval.
        seeds: Training seeds, comma-separated: a study each, in OUT/seedN, and one report of all.
        jobs: Trainings and evaluations at a time, which share the visible accelerators.
    """
    from modgap.core.record import write_json
    from modgap.reporting.page import build_report
    from modgap.reporting.terminal import print_numbers
    from modgap.workflows.evaluate import locate
    from modgap.workflows.measure import EvalOptions
    from modgap.workflows.study import run_study
    from modgap.workflows.sweep import parse_seeds, run_sweep

    names = [name.strip() for name in recipes.split(",") if name.strip()]
    options = EvalOptions(
        views, samples, temperature, max_tokens, seed, style, eval_engine, batch_size, device,
        engine_args=engine_args, replicas=replicas, ray_address=ray_address,
    )  # fmt: skip
    options.check()
    data = locate(benchmark, data)
    if seeds is None and jobs == 1:
        numbers = run_study(
            data, model, names, out, benchmark=benchmark, engine=engine, settings=settings, limit=limit,
            options=options, given=given(),
        )  # fmt: skip
    else:
        studies = run_sweep(
            data, model, names, out, seeds=None if seeds is None else parse_seeds(seeds), jobs=jobs,
            benchmark=benchmark, engine=engine, settings=settings, limit=limit, options=options, given=given(),
        )  # fmt: skip
        numbers = (
            studies[out] if out in studies else build_report(list(studies), out / "report.html")
        )
        write_json(out / "summary.json", numbers.model_dump(mode="json"))
    print_numbers(numbers)
    print(f"report: {(out / 'report.html').resolve()}")


if __name__ == "__main__":
    run()
