"""Run folders -> one HTML page that needs nothing else, and the numbers on it.

```
numbers = build_report([Path("runs/base"), Path("runs/kl")], Path("report.html"))
```

Charts and tables are made here, so that the page shows everything except the problem viewer without
JavaScript. A content security policy lets the page load nothing and run only its own script.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.analysis.gap import GapChange
from modgap.analysis.reading import KINDS
from modgap.analysis.results import LoggedStage, PaperTable, ReportSummary, Summary
from modgap.analysis.scores import Scores
from modgap.analysis.seed_summary import seed_numbers
from modgap.analysis.summary import changes, mode_of, summarise_run
from modgap.analysis.warnings import warnings
from modgap.core.errors import unknown
from modgap.core.record import write_text
from modgap.core.text import as_utf8, percent
from modgap.core.version import __version__
from modgap.reporting import panels
from modgap.reporting import tables as t
from modgap.reporting.collect import Collection, EvalRun, TrainStage, collect
from modgap.reporting.curves import averaged, logged, rollouts
from modgap.reporting.curves import training as training_panels
from modgap.reporting.figures import inlined, write_figures
from modgap.reporting.judged import doubt_words, judge_tables, judged, open_words
from modgap.reporting.mathverse import mathverse_tables
from modgap.reporting.paper import paper_tables
from modgap.reporting.same_data import data_words
from modgap.reporting.sampling import greedy_words, sampling_of, sampling_table, unequal_words
from modgap.reporting.seed_tables import READING, seed_tables
from modgap.reporting.sweeps import find_sweeps
from modgap.reporting.viewer import embed_json, viewer_data
from modgap.reporting.words import change_words, graded_words, headline, reply_words, training_words

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

Parts = dict[str, Any]
"""The template's values, by the names that it uses."""
IMAGES = 200
"""Default for the most diagrams that a page embeds."""
TEMPLATES = ("full", "paper")


def build_report(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    images: int = IMAGES,
    figures: bool = False,
    template: str = "full",
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

    Returns:
        The numbers of the page.

    Raises:
        UserError: A folder is not a run, or the template does not exist; one line that says which.
    """
    if template not in TEMPLATES:
        raise unknown("template", template, TEMPLATES)
    found = collect(paths)
    out = Path(out)
    numbers, page = render(found, images, template)
    write_text(out, page)
    if template == "paper":
        write_text(out.with_suffix(".md"), as_utf8(t.as_markdown(paper_tables(numbers))))
    if figures:
        from modgap.reporting.export import write_tables

        folder = out.with_name(f"{out.stem}_figures")
        write_figures(numbers, folder)
        write_tables(numbers, folder)
        if found.sweeps:
            from modgap.reporting.export import write_seeds

            write_seeds(numbers, found.sweeps, folder, " ".join(map(str, paths)))
    return numbers


def numbers_of(found: Collection) -> tuple[ReportSummary, list[Scores]]:
    """The numbers of a collection, as `build_report` returns them.

    Also gives the scores that they were computed from.
    """
    scores = [
        Scores.of(run.problems, run.responses, run.grades.values(), _samples_asked(run))
        for run in found.evals
    ]
    runs: dict[str, Summary] = {}
    for run, score in zip(found.evals, scores, strict=True):
        summary = summarise_run(score, mode_of(run.grades.values()))
        runs[run.name] = summary.model_copy(update={"judge": judged(run)})
    changed = changes(dict(zip(runs, scores, strict=True)))
    training = logged(found.stages)
    found.sweeps = find_sweeps(found, scores)
    seeds = [seed_numbers(sweep) for sweep in found.sweeps]
    numbers = ReportSummary(
        runs=runs,
        changes=changed,
        training=training,
        models={run.name: run.model for run in found.evals},
        sampling={run.name: sampling_of(run.manifest.whole) for run in found.evals},
        seeds=seeds,
        warnings=_warnings(found, runs, changed, training),
        headline=headline(runs, changed, seeds, found),
    )
    return numbers, scores


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
    words += [*data_words(found.evals), *unequal_words(found.evals)]
    for run in found.evals:
        words += greedy_words(run.manifest.whole, run.name if several else "")
    words += graded_words(runs)
    for name, summary in runs.items():
        words += doubt_words(summary.judge, name if several else "")
    words += [*training_words(training), *warnings(runs)]
    words += open_words(row for run in found.evals for row in run.grades.values())
    for run in found.evals:
        words += reply_words(run.responses, run.grades.values(), run.name if several else "")
    # The base model is evaluated once in each study: these repetitions are not changes.
    again = {run.name for sweep in found.sweeps for run in sweep.untrained}
    of_others = {name: change for name, change in changed.items() if name not in again}
    return words + change_words(of_others, next(iter(runs), ""))


@functools.cache
def _page() -> Template:
    """The page's template, compiled once in a process."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("modgap.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        points=lambda value: percent(value), short=lambda value: f"{value:.4g}"
    )
    return environment.get_template("report.html.jinja")


def render(
    found: Collection, images: int = IMAGES, template: str = "full"
) -> tuple[ReportSummary, str]:
    """The numbers and the page of a collection; see `build_report`."""
    numbers, scores = numbers_of(found)
    paper = paper_tables(numbers) if template == "paper" and numbers.runs else []
    if template == "paper":
        rows = [PaperTable(caption=x.caption, head=x.head, rows=x.rows) for x in paper]
        numbers = numbers.model_copy(update={"paper": rows})
    parts = _frame() | _charts(found, numbers) | _viewer(found, scores, images)
    return numbers, as_utf8(_page().render(**parts, tables=_tables(found, numbers, paper)))


def _frame() -> Parts:
    """What every page has: style, script and provenance."""
    from markupsafe import Markup

    folder = files("modgap.reporting") / "templates"
    script = (folder / "viewer.js").read_text(encoding="utf-8")
    return {
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "css": Markup((folder / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": (
            "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        ),
    }


def _charts(found: Collection, numbers: ReportSummary) -> Parts:
    """The words and charts of the page."""
    from markupsafe import Markup

    runs = numbers.runs
    return {
        "headline": numbers.headline,
        "warnings": numbers.warnings,
        "runs": list(runs),
        "charts": {name: Markup(chart) for name, chart in inlined(numbers).items()},
        "seeds": [[table.html() for table in seed_tables(part).values()] for part in numbers.seeds],
        "seeds_note": READING,
        "pairs": panels.pairs(runs),
        "readings": panels.readings(runs),
        "legend": KINDS,
        "unread": [run.name for run in found.evals if _unread(run, runs[run.name])],
        "types": {
            name: t.type_table(summary).html()
            for name, summary in runs.items()
            if panels.types(summary)
        },
        "curves": training_panels(averaged(numbers.training, numbers.seeds)),
        "rollouts": rollouts(found.stages),
        "manifests": [
            _manifest(part) for part in (*found.evals, *found.stages) if part.manifest.whole
        ],
    }


def _tables(
    found: Collection, numbers: ReportSummary, paper: Sequence[t.Table]
) -> dict[str, list[Markup]]:
    """The tables of each section as HTML."""
    runs = numbers.runs
    sections: dict[str, list[t.Table | None]] = {
        "accuracy": [
            t.accuracy_table(runs),
            t.gap_table(runs, numbers.changes),
            t.passes_table(runs),
            *mathverse_tables(runs),
            *judge_tables(runs),
        ],
        "pairs": [t.leaky_table(runs)],
        "reading": [t.reading_table(runs)],
        "controls": [t.controls_table(runs)],
        "paper": [*paper],
        "provenance": [_provenance(found), sampling_table(found.evals)],
    }
    return {
        section: [table.html() for table in tables if table is not None and table.rows]
        for section, tables in sections.items()
    }


def _viewer(found: Collection, scores: Sequence[Scores], images: int) -> Parts:
    """The data of the problem viewer; empty without an evaluation."""
    from markupsafe import Markup

    if not found.evals:
        return {"type_names": [], "index": "", "blocks": [], "packed": False}
    index, blocks, packed = viewer_data(found.evals, scores, images)
    return {
        "type_names": index["types"],
        "index": Markup(embed_json(index)),
        "blocks": [Markup(block) for block in blocks],
        "packed": packed,
    }


def _unread(run: EvalRun, summary: Summary) -> bool:
    """Whether lost problems have recorded conditions that no response can be compared with."""
    lost = summary.gap.table.text_only if summary.gap else 0
    return bool(
        lost and not summary.reading and any(row.conditions for row in run.problems.values())
    )


# Provenance


def _samples_asked(run: EvalRun) -> int | None:
    return run.manifest.resolved.get("samples")


def _provenance(found: Collection) -> t.Table:
    rows: list[tuple[str, ...]] = []
    for part in (*found.evals, *found.stages):
        done = f"graded {part.mode}" if isinstance(part, EvalRun) else f"{len(part.log)} steps"
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
