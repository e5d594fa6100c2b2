"""Run folders -> one HTML page that needs nothing else, the numbers on it, and tables for papers.

```
numbers = build_report([Path("runs/base"), Path("runs/kl")], Path("report.html"))
```

Charts and tables are made here, so that the page shows everything except the problem viewer without
JavaScript. A content security policy lets the page load nothing and run only its own script. Tables
are also written as files: LaTeX (booktabs) and CSV beside Markdown.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import re
import shlex
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modgap.analysis.cells import Sweep, write_cells
from modgap.analysis.gap import GapChange
from modgap.analysis.pooled import pooled_gaps
from modgap.analysis.results import LoggedStage, PaperTable, ReportSummary, Summary
from modgap.analysis.seed_summary import seed_numbers
from modgap.analysis.summary import changes, summarise_run
from modgap.analysis.transcription import KINDS, Readings
from modgap.analysis.warnings import warnings
from modgap.core.errors import UserError, unknown
from modgap.core.files import read_start
from modgap.core.json_files import write_text
from modgap.core.places import check_writable
from modgap.core.text import as_utf8, counted
from modgap.reporting import panels
from modgap.reporting import tables as t
from modgap.reporting.causal import ASSUMES, causal_panels, causal_table
from modgap.reporting.collect import Collection, EvalRun, TrainStage, collect
from modgap.reporting.comparable import (
    benchmark_given,
    by_benchmark,
    by_set,
    differences,
    side_by_side,
    style_words,
)
from modgap.reporting.curves import averaged, logged, measured, rollouts
from modgap.reporting.curves import training as training_panels
from modgap.reporting.diagrams import found_in
from modgap.reporting.figures import dashes_of, inlined, write_figures
from modgap.reporting.frame import (
    Parts,
    frame,
    is_a_report,
    katex,
    page_template,
    script_hash,
)
from modgap.reporting.judged import doubt_words, judge_tables, judged, open_words
from modgap.reporting.mathverse import mathverse_tables
from modgap.reporting.opening import facts, splits
from modgap.reporting.paper import paper_tables
from modgap.reporting.robustness import of_runs, robustness_table, sentences
from modgap.reporting.same_data import data_words
from modgap.reporting.sampling import greedy_words, sampling_of, sampling_table, unequal_words
from modgap.reporting.seed_tables import READING, as_markdown, seed_tables
from modgap.reporting.sweeps import find_sweeps
from modgap.reporting.viewer import embed_json, viewer_data
from modgap.reporting.words import (
    ANNOTATED,
    causal_words,
    change_words,
    graded_words,
    headline,
    reply_words,
    training_words,
    unsolvable_words,
)

if TYPE_CHECKING:
    from markupsafe import Markup

IMAGES = 200
"""Default for the most diagrams that a page embeds."""
TEMPLATES = ("full", "paper")
_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%",
        "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
        "−": "$-$", "–": "--", "—": "---", "\x00": "",
    }
)  # fmt: skip
_INTERVAL = "95% interval"
# What a spreadsheet begins a formula with; the last four are the full-width forms of the first.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?(\d[\d,]*(\.\d*)?|\.\d+)([eE][+-]?\d+)?%?", re.ASCII)
_TABLE = b"**"
"""What the paper's tables in Markdown begin with."""


def build_report(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    images: int = IMAGES,
    figures: bool = False,
    template: str = "full",
    data: Path | str | None = None,
    allow_outside: bool = False,
    force: bool = False,
) -> ReportSummary:
    """Make the report of runs, trainings and studies.

    Args:
        paths: Folders; see `collect`. The first evaluation is the one that the others are compared
            with.
        out: The HTML file.
        images: The most diagrams to embed, balanced over the four outcomes of a pair.
        figures: Also write the charts (PNG, SVG) and the tables (LaTeX, CSV, Markdown) into
            `OUT_figures/` beside the page; where a recipe has several seeds, `seeds.md` and
            `cells.json`, too.
        template: `full`, or `paper`: also the numbers in the shape of the paper's tables, as a
            section of the page and as Markdown in `OUT.md`.
        data: Where the diagrams are now, if the run or the data set was moved; they are found by
            their digests.
        allow_outside: Embed diagrams outside the folders that the runs record, too.
        force: Replace files that no earlier report wrote.

    Returns:
        The numbers of the page.

    Raises:
        UserError: A file is in the way that no earlier report wrote, a folder is not a run, or the
            template does not exist; one line that says which.
    """
    if template not in TEMPLATES:
        raise unknown("template", template, TEMPLATES)
    out = Path(out)
    _check_out(out, figures, template, force)
    with _without_collector():
        found = collect(paths)
        if data is not None:
            found.data = Path(data)
            found.evals, notes = found_in(found.evals, found.data)
            found.notes += notes
        numbers, page = render(found, images, template, allow_outside=allow_outside)
    write_text(out, page)
    if template == "paper":
        write_text(out.with_suffix(".md"), as_utf8(_paper_page(numbers)))
    if figures:
        folder = out.with_name(f"{out.stem}_figures")
        write_figures(numbers, folder)
        write_tables(numbers, folder)
        if found.sweeps:
            write_seeds(numbers, found.sweeps, folder, shlex.join(map(str, paths)))
    return numbers


@contextlib.contextmanager
def _without_collector() -> Generator[None]:
    """No cyclic garbage collection: rows hold no cycles, and it would walk over all of them.

    That is a quarter of the time of a report of 100,000 responses.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _paper_page(numbers: ReportSummary) -> str:
    """The paper's tables in Markdown, and what a reader must know before the numbers."""
    notes = [f"- {t.one_cell(warning)}" for warning in numbers.warnings]
    return "\n".join(
        [t.as_markdown(paper_tables(numbers)), *(["Notes:\n"] if notes else []), *notes]
    )


def _check_out(out: Path, figures: bool, template: str, force: bool) -> None:
    """Refuse to write over what no earlier report wrote. Raises `UserError`."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file, such as {out / 'report.html'}.")
    check_writable(out.absolute().parent)
    folder, page = out.with_name(f"{out.stem}_figures"), out.with_suffix(".md")
    ours = is_a_report(out)
    others = [out] if out.exists() and not ours else []
    our_page = page.is_file() and read_start(page, len(_TABLE)) == _TABLE
    if template == "paper" and page.exists() and not our_page:
        others.append(page)
    if figures and not ours and folder.is_dir() and any(folder.iterdir()):
        others.append(folder)
    if figures and folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and the figures go there: give another --out.")
    if others and not force:
        raise UserError(
            f"{others[0]} was not written by modgap report: give another --out, or --force to"
            " replace it."
        )


def numbers_of(found: Collection) -> tuple[ReportSummary, list[Readings]]:
    """The numbers of a collection, as `build_report` returns them.

    Also gives how the problems of each evaluation were read.
    """
    readings = [Readings.of(run.scores) for run in found.evals]
    runs: dict[str, Summary] = {}
    for run, read in zip(found.evals, readings, strict=True):
        summary = summarise_run(run.scores, read)
        runs[run.name] = summary.model_copy(update={"judge": judged(run)})
    of_run = {run.name: run.scores for run in found.evals}
    changed: dict[str, GapChange] = {}
    for alike in by_set(found.evals):
        changed |= changes({run.name: of_run[run.name] for run in alike})
    training = logged(found.stages)
    for name, stages in measured(found.evals, runs).items():
        training.setdefault(f"{name} (measured)" if name in training else name, stages)
    found.sweeps = find_sweeps(found)
    seeds = [seed_numbers(sweep) for sweep in found.sweeps]
    sets = side_by_side(found.evals)
    numbers = ReportSummary(
        runs=runs,
        changes=changed,
        training=training,
        models={run.name: run.model for run in found.evals},
        sampling={run.name: sampling_of(run.manifest.whole) for run in found.evals},
        seeds=seeds,
        differs=differences(found.evals, runs),
        sets=sets,
        pooled=pooled_gaps(sets, of_run) or None if sets else None,
        warnings=_warnings(found, runs, changed, training),
        headline=headline(runs, changed, seeds, found),
        robustness=of_runs(found.evals),
    )
    return numbers, readings


def _warnings(
    found: Collection,
    runs: Mapping[str, Summary],
    changed: Mapping[str, GapChange],
    training: Mapping[str, list[LoggedStage]],
) -> list[str]:
    """What a reader must know before the numbers, in the order of the page."""
    several = len(runs) > 1
    words = list(found.notes)
    for sweep in found.sweeps:
        words += sweep.notes
    for alike in by_set(found.evals):
        words += data_words(alike)
    words += style_words(found.evals)
    for runs_alike in by_benchmark(found.evals):
        words += unequal_words(runs_alike)
    for run in found.evals:
        words += greedy_words(run.manifest.whole, run.name if several else "")
    words += graded_words(runs)
    for name, summary in runs.items():
        words += doubt_words(summary.judge, name if several else "")
    words += [*training_words(training), *warnings(runs)]
    words += open_words(run.scores for run in found.evals)
    for run in found.evals:
        words += reply_words(run.scores, run.name if several else "")
    for run in found.evals:
        if benchmark_given(run) in ANNOTATED:
            words += unsolvable_words(run.scores, run.name)
    # The base model is evaluated once in each study: these repetitions are not changes.
    again = {run.name for sweep in found.sweeps for run in sweep.untrained}
    for alike in by_set(found.evals):
        names = [run.name for run in alike if run.name in changed and run.name not in again]
        words += change_words({name: changed[name] for name in names}, alike[0].name)
    return words


def render(
    found: Collection,
    images: int = IMAGES,
    template: str = "full",
    *,
    allow_outside: bool = False,
) -> tuple[ReportSummary, str]:
    """The numbers and the page of a collection; see `build_report`."""
    numbers, readings = numbers_of(found)
    paper = paper_tables(numbers) if template == "paper" and numbers.runs else []
    if template == "paper":
        rows = [PaperTable(caption=x.caption, head=x.head, rows=x.rows) for x in paper]
        numbers = numbers.model_copy(update={"paper": rows})
    parts = frame() | _charts(found, numbers)
    parts |= _viewer(found, readings, images, allow_outside=allow_outside)
    return numbers, as_utf8(
        page_template("report").render(**parts, tables=_tables(found, numbers, paper))
    )


def _charts(found: Collection, numbers: ReportSummary) -> Parts:
    """The words and charts of the page."""
    from markupsafe import Markup

    runs = numbers.runs
    return {
        "headline": numbers.headline,
        "lede": _lede(numbers),
        "facts": facts(found.evals, runs),
        "splits": splits(runs),
        "warnings": numbers.warnings,
        "runs": list(runs),
        "charts": {name: Markup(chart) for name, chart in inlined(numbers).items()},
        "seeds": [[table.html() for table in seed_tables(part).values()] for part in numbers.seeds],
        "seeds_note": READING,
        "pairs": panels.pairs(runs),
        "causal": causal_panels(runs),
        "causal_note": ASSUMES,
        "readings": panels.readings(runs),
        "legend": KINDS,
        "few": panels.FEW_OF_A_TYPE,
        "robust": sentences(numbers.robustness),
        "unread": [run.name for run in found.evals if _unread(run, runs[run.name])],
        "types": {
            name: broken_down for name, summary in runs.items() if (broken_down := _parts(summary))
        },
        "curves": training_panels(averaged(numbers.training, numbers.seeds)),
        "dashes_of": dashes_of,
        "rollouts": rollouts(found.stages),
        "manifests": [
            _manifest(part) for part in (*found.evals, *found.stages) if part.manifest.whole
        ],
    }


def _parts(summary: Summary) -> Markup | None:
    """The gap by problem type and by subject, where there are several; else `None`."""
    from markupsafe import Markup

    tables = [t.type_table(summary)] if panels.types(summary) else []
    tables += [table] if (table := t.subject_table(summary)) else []
    return Markup("").join(table.html() for table in tables) if tables else None


def _lede(numbers: ReportSummary) -> list[str]:
    """The sentences below the answer, without the one that the bar of the split says."""
    said = {
        words
        for summary in numbers.runs.values()
        if summary.causal and not summary.causal.too_few
        for words in causal_words(summary.causal)[:1]
    }
    return [words for words in numbers.headline.lede if words not in said]


def _tables(
    found: Collection, numbers: ReportSummary, paper: Sequence[t.Table]
) -> dict[str, list[Markup]]:
    """The tables of each section as HTML."""
    runs = numbers.runs
    sections: dict[str, list[t.Table | None]] = {
        "accuracy": [
            t.sets_table(numbers),
            t.pooled_table(numbers),
            t.accuracy_table(runs),
            t.gap_table(runs, numbers.changes, several=bool(numbers.sets)),
            t.passes_table(runs),
            *mathverse_tables(runs),
            *judge_tables(runs),
        ],
        "pairs": [t.leaky_table(runs)],
        "causal": [causal_table(runs)],
        "reading": [t.reading_table(runs)],
        "robustness": [robustness_table(numbers)],
        "controls": [t.controls_table(runs)],
        "paper": [*paper],
        "provenance": [_provenance(found), sampling_table(found.evals)],
    }
    return {
        section: [table.html() for table in tables if table is not None and table.rows]
        for section, tables in sections.items()
    }


def _viewer(
    found: Collection, readings: Sequence[Readings], images: int, *, allow_outside: bool
) -> Parts:
    """The data of the problem viewer, and KaTeX where it holds LaTeX."""
    from markupsafe import Markup

    shown = viewer_data(
        found.evals, readings, images, data=found.data, allow_outside=allow_outside
    )  # fmt: skip
    script = katex() if shown.latex else ""
    return {
        "type_names": shown.index["types"] if found.evals else [],
        "index": Markup(embed_json(shown.index)) if found.evals else "",
        "blocks": [Markup(block) for block in shown.blocks],
        "packed": shown.packed,
        "embedded": shown.words,
        "katex": Markup(script),
        "katex_hash": script_hash(script),
    }


def _unread(run: EvalRun, summary: Summary) -> bool:
    """Whether lost problems have recorded conditions that no response can be compared with."""
    lost = summary.gap.table.text_only if summary.gap else 0
    return bool(
        lost and not summary.reading and any(row.conditions for row in run.problems.values())
    )


# Provenance


def _provenance(found: Collection) -> t.Table:
    rows: list[tuple[str, ...]] = []
    for part in (*found.evals, *found.stages):
        done = (
            f"graded {part.mode}" if isinstance(part, EvalRun) else counted(len(part.log), "step")
        )
        rows.append(
            (_title(part), str(part.path), part.manifest.model, done, part.manifest.created)
        )
    return t.Table(
        "What the numbers were made from",
        ("run", "folder", "model", "done", "begun"),
        tuple(rows),
        left=5,
    )


def _title(part: EvalRun | TrainStage) -> str:
    return part.name if isinstance(part, EvalRun) else f"{part.recipe}, {part.title}"


def _manifest(part: EvalRun | TrainStage) -> dict[str, str]:
    return {"name": _title(part), "text": part.manifest.text}


def latex(table: t.Table, label: str = "") -> str:
    r"""A `table` with a booktabs `tabular`, every cell escaped; needs `\usepackage{booktabs}`.

    Args:
        table: The cells.
        label: For `\ref`; none by default.
    """
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_cell(table.caption)}}}",
        *([rf"\label{{{label}}}"] if label else []),
        rf"\begin{{tabular}}{{{'l' * table.left}{'r' * (len(table.head) - table.left)}}}",
        r"\toprule",
        _line(table.head),
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        same = number > 0 and table.left > 1 and table.rows[number - 1][0] == row[0]
        if number and table.left > 1 and not same:
            lines.append(r"\addlinespace")
        lines.append(_line(("", *row[1:]) if same else row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _line(cells: tuple[str, ...]) -> str:
    return f"{' & '.join(map(_cell, cells))} \\\\"


def _cell(text: str) -> str:
    # Braces keep `[` from being read as the length of the `\\` before it.
    escaped = " ".join(text.split()).translate(_ESCAPES)
    return f"{{{escaped}}}" if escaped.startswith(("[", "*")) else escaped


def csv_text(table: t.Table) -> str:
    """The table as CSV.

    Plain minus signs, empty cells for unknown values, an interval in two columns.
    """
    low_high = [number for number, name in enumerate(table.head) if name == _INTERVAL]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head: list[str] = []
    for number, name in enumerate(table.head):
        head += (
            [f"{table.head[number - 1]} low", f"{table.head[number - 1]} high"]
            if number in low_high
            else [name]
        )
    writer.writerow(map(_csv_cell, head))
    for row in table.rows:
        cells: list[str] = []
        for number, cell in enumerate(row):
            plain = cell if number < table.left else _plain(cell)
            cells += ([*plain.split(" to "), ""][:2]) if number in low_high else [plain]
        writer.writerow(map(_csv_cell, cells))
    return buffer.getvalue()


def _csv_cell(cell: str) -> str:
    """A cell that a spreadsheet does not take for a formula; a number stays a number."""
    if not cell.startswith(_FORMULA) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def _plain(cell: str) -> str:
    return "" if cell in ("–", "—") else cell.replace("−", "-").removeprefix("+").removesuffix("*")


def write_seeds(
    numbers: ReportSummary, sweeps: Sequence[Sweep], folder: Path, source: str
) -> list[Path]:
    """Write the tables over seeds as one Markdown page, and `cells.json`.

    `modgap report` makes the page again from `cells.json`.

    Args:
        numbers: As `build_report` returns them.
        sweeps: What they were made from.
        folder: Made if need be.
        source: What the report was made of, as the command line has it; the page names the command.

    Returns:
        The files.
    """
    pages = folder / "cells.json", folder / "seeds.md"
    write_cells(sweeps, pages[0])
    write_text(pages[1], as_utf8(as_markdown(numbers.seeds, source)))
    return list(pages)


def write_tables(numbers: ReportSummary, folder: Path) -> list[Path]:
    """Write every table of a report as `table-NAME.tex`, `.csv` and `.md`.

    Args:
        numbers: As `build_report` returns them.
        folder: Made if need be.

    Returns:
        The files.
    """
    from modgap.reporting.mathverse import mathverse_tables
    from modgap.reporting.paper import paper_tables

    named = t.every_table(numbers)
    if causal := causal_table(numbers.runs):
        named["causal"] = causal.noted(numbers.differs or {})
    if robust := robustness_table(numbers):
        named["robustness"] = robust
    for number, part in enumerate(numbers.seeds, start=1):
        several = f"-{number}" if len(numbers.seeds) > 1 else ""
        named |= {f"{name}{several}": table for name, table in seed_tables(part).items()}
    named |= {
        f"mathverse-{number}": table.noted(numbers.differs or {})
        for number, table in enumerate(mathverse_tables(numbers.runs), start=1)
    }
    if numbers.paper is not None:
        named |= {
            f"paper-{number}": table for number, table in enumerate(paper_tables(numbers), start=1)
        }
    written: list[Path] = []
    for name, table in named.items():
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        texts = {
            "tex": latex(table, f"tab:{stem}"),
            "csv": csv_text(table),
            "md": t.as_markdown([table]),
        }
        for ending, text in texts.items():
            path = folder / f"table-{stem}.{ending}"
            write_text(path, as_utf8(text))
            written.append(path)
    return written
