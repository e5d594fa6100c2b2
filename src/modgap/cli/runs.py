"""The commands around results: `grade`, `report`. Parses first, imports late."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from modgap.cli.data import EngineArgs
from modgap.core.errors import UsageError, UserError

Mode = Literal["strict", "relative", "exact", "paper"]


def grade(
    run: Path,
    *,
    mode: Mode = "strict",
    judge: str | None = None,
    judge_engine: Literal["hf", "vllm", "openai"] | None = None,
    judge_model: str | None = None,
    judge_check: int = 200,
    judge_max_tokens: int | None = None,
    seed: int = 42,
    api_key_env: str = "OPENAI_API_KEY",
    concurrency: int = 32,
    timeout: float = 600.0,
    max_retries: int = 8,
    engine_args: EngineArgs = (),
    batch_size: int = 16,
    device: str | None = None,
) -> None:
    """Grade a run's responses again; no model is needed, and for MathVerse a judge helps.

    Args:
        run: Run folder of an evaluation.
        mode: `strict` (within 0.005), `relative` (or 1%), `paper` (the original's verdicts),
            `exact` (no tolerance).
        judge: What settles the MathVerse answers that rules cannot compare: the URL of an
            OpenAI-compatible server (http://localhost:8000/v1), or a model that is loaded here
            (Qwen/Qwen3-8B, a folder). Its verdicts are kept in the run: a grading that was
            interrupted goes on, and one without --judge goes by them.
        judge_engine: `openai` for a URL; for a model `vllm` where it is installed, else `hf`.
        judge_model: The judge's name on the server; the only model that it serves if not given.
        judge_check: How many answers that the rules decided to ask the judge about as well, to
            report how far it agrees with them; 0 for none.
        judge_max_tokens: How many tokens the judge may write: 16 if not given (paper mode: always
            2). One whose thinking cannot be switched off needs thousands.
        seed: Of the choice of answers for --judge-check.
        api_key_env: Name of the environment variable that holds the key (openai).
        concurrency: Most requests under way at once (openai).
        timeout: Seconds that one request may take (openai).
        max_retries: Most retries of one request (openai).
        engine_args: key=value for vLLM's own constructor, e.g. gpu_memory_utilization=0.8 (vllm);
            repeatable.
        batch_size: Questions answered together (hf).
        device: `cpu`, `cuda`, `cuda:1`; the best there is if not given (hf).
    """
    from modgap.analysis.original import print_original
    from modgap.analysis.original_mathverse import print_mathverse
    from modgap.core.progress import progress_bars, say
    from modgap.core.record import RunFolder
    from modgap.reporting.terminal import print_summary
    from modgap.workflows.grade import grade_run

    folder, asked = RunFolder(run), None
    if judge is None and (judge_engine or judge_model or judge_max_tokens):
        raise UsageError(
            "--judge-engine, --judge-model and --judge-max-tokens say how to ask a judge: give"
            " --judge."
        )
    if judge is not None:
        from modgap.workflows.judging import JudgeOptions, make_judge

        folder.manifest()  # before the judge is looked for
        asked = make_judge(
            JudgeOptions(
                judge, judge_engine, judge_model, judge_max_tokens, judge_check, seed, api_key_env, concurrency,
                timeout, max_retries, engine_args, batch_size, device,
            )
        )  # fmt: skip
    with progress_bars() as bars:
        summary = grade_run(folder, mode, progress=bars, judge=asked, check=judge_check, seed=seed)
    if asked and summary.judge is None:
        say(
            "nothing in this run is for a judge: its problems are graded as numbers, by rules alone"
        )
    print_summary(summary, run.name)
    if summary.original:
        print_original(summary.original)
    if summary.mathverse and summary.mathverse.original:
        print_mathverse(summary.mathverse.original)


def report(
    *runs: Path,
    out: Path = Path("report.html"),
    images: int = 200,
    figures: bool = False,
    template: Literal["full", "paper"] = "full",
) -> None:
    """One HTML page from runs, training runs or studies, and their numbers on the terminal.

    Args:
        runs: Run folders, studies, folders of studies, or the cells.json of an earlier report; the
            first evaluation is the one that the others are compared with.
        out: The page.
        images: Most diagrams that the page embeds.
        figures: Also write the charts (PNG, SVG) and the tables (Markdown, LaTeX, CSV) to
            OUT_figures/; with several seeds cells.json, too, from which the table over seeds can be
            made again.
        template: `paper` also lays the numbers into the shape of the paper's tables, on the page
            and as OUT.md.
    """
    from modgap.reporting.page import build_report
    from modgap.reporting.terminal import print_numbers

    if not runs:
        raise UserError("no run given: name the --out of an evaluation, a training or a study.")
    if images < 0:
        raise UserError(f"--images {images}: must not be negative; 0 embeds none.")
    print_numbers(build_report(list(runs), out, images=images, figures=figures, template=template))
    print(f"report: {out.resolve()}")
    if figures:
        print(f"figures and tables: {out.resolve().with_name(out.stem + '_figures')}")
    if template == "paper":
        print(f"the paper's tables: {out.resolve().with_suffix('.md')}")
