"""The commands around results: `grade`, `explain`, `export`, `report`, `ls`, `results`.

Parses first, imports late.
"""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App

from modgap.cli.groups import RESULTS
from modgap.core.errors import UsageError, UserError
from modgap.core.options import AllowOutside, JudgeOptions
from modgap.core.progress import show
from modgap.core.text import counted

if TYPE_CHECKING:
    from pydantic import BaseModel

Mode = Literal["strict", "relative", "exact", "paper"]
results_app = App(
    name="results",
    help="Reference results: write rows for docs/results/, and check them.",
    help_format="markdown",
    group=RESULTS,
)


def grade(run: Path, *, mode: Mode = "strict", options: JudgeOptions | None = None) -> None:
    """Grade a run's responses again; no model is needed, and for MathVerse a judge helps.

    ```
    modgap grade runs/3b --mode relative
    modgap grade runs/mathverse --judge http://localhost:8000/v1
    ```

    Args:
        run: Run folder of an evaluation.
        mode: `strict` (within 0.005), `relative` (or 1%), `paper` (the original's verdicts),
            `exact` (no tolerance).
        options: How to judge.
    """
    from modgap.analysis.original import print_original
    from modgap.analysis.original_mathverse import print_mathverse
    from modgap.core.progress import progress_bars, say
    from modgap.reporting.terminal import print_summary
    from modgap.workflows.grade import grade as grade_again

    options = options or JudgeOptions()
    if options.judge is None and (options.engine or options.model or options.max_tokens):
        raise UsageError(
            "--judge-engine, --judge-model and --judge-max-tokens say how to ask a judge: give"
            " --judge."
        )
    with progress_bars() as bars:
        summary = grade_again(run, mode=mode, judge=options, progress=bars).summary
    if options.judge is not None and summary.judge is None:
        say(
            "nothing in this run is for a judge: its problems are graded as numbers, by rules alone"
        )
    print_summary(summary, run.name)
    if summary.original:
        print_original(summary.original)
    if summary.mathverse and summary.mathverse.original:
        print_mathverse(summary.mathverse.original)


def explain(run_a: Path, run_b: Path, *, out: Path | None = None, json: bool = False) -> None:
    """Why two runs differ on the same problems, in parts that add up; no model is needed.

    The runs may be imported from other tools, whose own verdicts then count. The parts are prompts,
    truncation, extraction, tolerance, judge, and sampling/other, the remainder.


    ```
    modgap explain runs/ours runs/vlmevalkit
    modgap explain runs/strict runs/paper --out why.md
    ```

    Args:
        run_a: Run folder of an evaluation or an import.
        run_b: Another one, of the same problems.
        out: Also write it to this file: .json with everything, .md as it is printed.
        json: Print the JSON instead of the tables.
    """
    from rich.console import Console

    from modgap.core.json_files import write_text
    from modgap.reporting.explained import explained_tables, markdown, notes
    from modgap.reporting.terminal import as_rich, print_line
    from modgap.workflows.explain import explain as explain_runs

    if out is not None and out.suffix not in (".json", ".md"):
        raise UsageError(f"--out {out}: give a file .json or .md.")
    found = explain_runs(run_a, run_b)
    text = _json(found)
    if out is not None:
        write_text(out, text if out.suffix == ".json" else markdown(found))
    if json:
        show(text, end="")
        return
    console = Console()
    print_line(console, found.sentence, "bold")
    print_line(console, f"A: {found.run_a}, graded {found.graded_a}")
    print_line(console, f"B: {found.run_b}, graded {found.graded_b}")
    for words in notes(found):
        print_line(console, f"Note: {words}", "yellow")
    for table in explained_tables(found):
        console.print(as_rich(table, plain=not console.is_terminal))
    print_line(console, found.method)
    if out is not None:
        show(f"written: {out}")


def cut(
    run: Path,
    *,
    out: Path,
    views: str | None = None,
    samples: int | None = None,
    limit: int | None = None,
) -> None:
    """Write a part of an evaluation as a run of its own: fewer views, samples or problems.

    ```
    modgap cut runs/3b --out runs/3b-100 --limit 100 --views full-text,image-only
    ```

    Args:
        run: Run folder of an evaluation; it stays as it is.
        out: Folder of the part.
        views: Comma-separated, of the run's views; all if not given.
        samples: The first samples of each problem and view; all if not given.
        limit: The first problems; all if not given.
    """
    from modgap.reporting.terminal import print_summary
    from modgap.workflows.cut import cut as write_part

    part = write_part(run, out, views=views, samples=samples, limit=limit)
    print_summary(part.summary, out.name)


def export(*runs: Path, out: Path, name: str | None = None) -> None:
    """Write runs as the original repository's files, so that its own scripts can be run on them.

    ```
    modgap export runs/study --out exported
    ```

    PGPS9K: folders of qprob_N_attemptJ.txt for eval.py. MathVerse: *_generations.jsonl for
    eval-qwen.py and, of a run that is graded in mode paper, the scored file for eval-results.py.
    With them `summary.txt`, which has the figures that these scripts print, and of PGPS9K
    `gold.json` for --gt-file.

    Args:
        runs: Run folders, or studies, whose evaluations are all taken.
        out: Folder for the files.
        name: What the model is called in the files' names; if not given, the run's own name.
    """
    from modgap.original.export import export_runs, print_exported

    print_exported(export_runs(runs, out, name), out)


def report(
    *runs: Path,
    out: Path = Path("report.html"),
    images: int = 200,
    figures: bool = False,
    template: Literal["full", "paper"] = "full",
    json: bool = False,
    data: Path | None = None,
    index: Path | None = None,
    allow_outside: AllowOutside = False,
    force: bool = False,
) -> None:
    """One HTML page from runs, training runs or studies, and their numbers on the terminal.

    ```
    modgap report runs/3b runs/7b --out report.html --figures
    modgap report --index runs/ --out runs/index.html
    ```

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
        json: Print the numbers of the page as JSON instead of the tables.
        data: Where the diagrams are now, if the run or the data set was moved; they are found by
            their digests.
        index: One page over all runs in this folder instead, with their gaps; it links the pages
            of modgap report that are in them.
        allow_outside: Embed diagrams outside the data set that a run records, too.
        force: Replace files that no earlier report wrote.
    """
    from modgap.core.progress import progress_bars
    from modgap.reporting.index import write_index
    from modgap.reporting.page import build_report
    from modgap.reporting.terminal import print_numbers

    if index is not None:
        if runs or figures or json or data or template != "full":
            raise UsageError("--index makes a page over a folder: give it with --out alone.")
        return show(f"index: {write_index(index, out, force=force).resolve()}")
    if not runs:
        raise UserError("no run given: name the --out of an evaluation, a training or a study.")
    if images < 0:
        raise UserError(f"--images {images}: must not be negative; 0 embeds none.")
    with progress_bars() as bars:
        bars.doing("making the report")
        numbers = build_report(
            runs, out, images=images, figures=figures, template=template, data=data,
            allow_outside=allow_outside, force=force,
        )  # fmt: skip
    if json:
        return show(_json(numbers), end="")
    print_numbers(numbers)
    show(f"report: {out.resolve()}")
    if figures:
        show(f"figures and tables: {out.resolve().with_name(out.stem + '_figures')}")
    if template == "paper":
        show(f"the paper's tables: {out.resolve().with_suffix('.md')}")


def _json(found: BaseModel) -> str:
    """JSON of ASCII alone: what is printed has its other characters spelled out already."""
    text = dumps(found.model_dump(mode="json"), indent=2) + "\n"
    return text.replace("\x7f", "\\u007f")


def ls(folder: Path = Path("runs")) -> None:
    """The runs in a folder: what they are of, how far they are, and their gap.

    ```
    modgap ls runs/
    ```

    Args:
        folder: Runs are looked for in it and below it.
    """
    from rich.console import Console

    from modgap.reporting.listing import list_runs, listing
    from modgap.reporting.terminal import as_rich

    console = Console()
    console.print(as_rich(listing(list_runs(folder), folder), plain=not console.is_terminal))


@results_app.command(name="write")
def write_rows(
    *runs: Path,
    out: Path,
    source: str,
    benchmark: str = "",
) -> None:
    """Write the results of runs as rows of a file for docs/results/, which a pull request adds.

    Rows of the file with the same model, recipe and benchmark are replaced; others stay.


    ```
    modgap results write runs/3b --out docs/results/my-3b.json --source https://example.org/my-3b
    ```

    Args:
        runs: Run folders, studies, folders of studies, or a cells.json.
        out: The file.
        source: Where a reader finds the records: a page of the repository, or a link.
        benchmark: Of runs that do not record it.
    """
    from modgap.reporting.reference import Given, write_results

    if not runs:
        raise UserError("no run given: name the --out of modgap eval or study.")
    written = write_results(runs, out, Given(source, benchmark))
    show(f"{out}: {counted(len(written.rows), 'row')}")


@results_app.command(name="check")
def check_rows(*files: Path) -> int:
    """Validate files of results; the exit code is 1 if one is faulty.

    ```
    modgap results check docs/results/testbed.json
    ```

    Args:
        files: JSON files as in docs/results/.
    """
    from modgap.analysis.reference import read_results

    if not files:
        raise UserError("no file given: name files such as docs/results/testbed.json.")
    faulty = 0
    for path in files:
        try:
            rows = read_results(path).rows
        except UserError as error:
            faulty += 1
            show(f"modgap: {error}", error=True)
        else:
            empty = sum(row.measured is None for row in rows)
            show(f"{path}: {len(rows) - empty} measured, {empty} empty")
    return 1 if faulty else 0
