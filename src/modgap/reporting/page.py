"""Run folders -> one HTML page that needs nothing else, and the numbers on it.

```
numbers = build_report([Path("runs/base"), Path("runs/kl")], Path("report.html"))
```

Charts and tables are made here, on the server side, so that the page says everything without JavaScript but the problem
viewer. A content security policy lets the page load nothing and run only the one script it came with.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modgap
from modgap.analysis.mathverse import mathverse_tables
from modgap.analysis.reading import KINDS
from modgap.analysis.seed_summary import seed_numbers
from modgap.analysis.summary import Scores, changes, mode_of, summarise_run
from modgap.core.errors import unknown
from modgap.core.record import write_text
from modgap.reporting import panels
from modgap.reporting import tables as t
from modgap.reporting.collect import Collection, EvalRun, TrainStage, collect, model_of
from modgap.reporting.curves import averaged, logged, rollouts
from modgap.reporting.curves import training as training_panels
from modgap.reporting.judged import doubt_words, judge_tables, judged, open_words
from modgap.reporting.paper import paper_tables
from modgap.reporting.same_data import data_words
from modgap.reporting.sampling import greedy_words, sampling_of, sampling_table, unequal_words
from modgap.reporting.seed_tables import READING, seed_tables, seed_words
from modgap.reporting.sweeps import find_sweeps
from modgap.reporting.viewer import embed_json, viewer_data
from modgap.reporting.words import change_words, graded_words, headline, reply_words, training_words, warnings

if TYPE_CHECKING:
    from jinja2 import Template

IMAGES = 200
"""Most diagrams that a page embeds, unless told otherwise."""
TEMPLATES = ("full", "paper")


def build_report(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    images: int = IMAGES,
    figures: bool = False,
    template: str = "full",
) -> dict[str, Any]:
    """Make the report of runs, trainings and studies.

    Args:
        paths: Folders; see `collect`. The first evaluation is the one that the others are compared with.
        out: The HTML file.
        images: Most diagrams to embed, balanced over the four outcomes of a pair.
        figures: Also write the charts (PNG, SVG) and the tables (LaTeX, CSV, Markdown) into `OUT_figures/` beside the
            page; where a recipe has several seeds, `seeds.md` and `cells.json`, too.
        template: `full`, or `paper`: also the numbers in the shape of the paper's tables, as a section of the page and
            as Markdown in `OUT.md`.

    Returns:
        The numbers of the page: `runs` (name -> summary), `changes` (name -> change of the gap against the first run),
        `training` (see `curves.logged`), `models` (name -> the model's name), `sampling` (name -> how it was sampled,
        see `sampling.sampling_of`), `seeds` (tables over seeds, see
        `seeds.seed_numbers`; empty where no recipe has two seeds), `headline`, `warnings`; with the template `paper`
        also `paper`, its tables as head and rows.

    Raises:
        UserError: A folder is no run, or there is no such template; one line that says which.
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
        from modgap.reporting.figures import write_figures

        folder = out.with_name(f"{out.stem}_figures")
        write_figures(numbers, folder)
        write_tables(numbers, folder)
        if found.sweeps:
            from modgap.reporting.export import write_seeds

            write_seeds(numbers, found.sweeps, folder, " ".join(map(str, paths)))
    return numbers


def numbers_of(found: Collection) -> tuple[dict[str, Any], list[Scores]]:
    """The numbers of a collection, as `build_report` returns them, and the scores that they were made from."""
    scores = [Scores.of(run.problems, run.responses, run.grades.values(), _samples_asked(run)) for run in found.evals]
    runs = {
        run.name: summarise_run(score, mode_of(run.grades.values())) | {"judge": judged(run)}
        for run, score in zip(found.evals, scores, strict=True)
    }
    changed = changes(dict(zip(runs, scores, strict=True)))
    training = logged(found.stages)
    found.sweeps = find_sweeps(found, scores)
    again = {run.name for sweep in found.sweeps for run in sweep.untrained}  # the base model, once in each study
    numbers: dict[str, Any] = {
        "runs": runs,
        "changes": changed,
        "training": training,
        "models": {run.name: run.model for run in found.evals},
        "sampling": {run.name: sampling_of(run.manifest) for run in found.evals},
        "seeds": [seed_numbers(sweep) for sweep in found.sweeps],
        "warnings": [
            *found.notes,
            *(note for sweep in found.sweeps for note in sweep.notes),
            *data_words(found.evals),
            *unequal_words(found.evals),
            *(x for run in found.evals for x in greedy_words(run.manifest, run.name if len(runs) > 1 else "")),
            *graded_words(runs),
            *(x for name, run in runs.items() for x in doubt_words(run["judge"], name if len(runs) > 1 else "")),
            *training_words(training),
            *warnings(runs),
            *open_words(row for run in found.evals for row in run.grades.values()),
            *(
                words
                for run in found.evals
                for words in reply_words(run.responses, run.grades.values(), run.name if len(runs) > 1 else "")
            ),
            *change_words({name: x for name, x in changed.items() if name not in again}, next(iter(runs), "")),
        ],
    }
    numbers["headline"] = headline(numbers, found)
    return numbers, scores


@functools.cache
def _page() -> Template:
    """The page's template, compiled once in a process."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("modgap.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(points=lambda value: t.percent(value), short=lambda value: f"{value:.4g}")
    return environment.get_template("report.html.jinja")


def render(found: Collection, images: int = IMAGES, template: str = "full") -> tuple[dict[str, Any], str]:
    """The numbers and the page of a collection; see `build_report`."""
    from markupsafe import Markup

    numbers, scores = numbers_of(found)
    paper = paper_tables(numbers) if template == "paper" and numbers["runs"] else []
    if template == "paper":
        numbers["paper"] = [{"caption": x.caption, "head": x.head, "rows": x.rows} for x in paper]
    runs: dict[str, Any] = numbers["runs"]
    curves = training_panels(averaged(numbers["training"], numbers["seeds"]))
    folder = files("modgap.report") / "templates"
    script = (folder / "viewer.js").read_text(encoding="utf-8")
    index, blocks, packed = viewer_data(found.evals, scores, images) if runs else (None, [], False)
    tables: dict[str, list[Any]] = {
        "accuracy": [
            t.accuracy_table(runs),
            t.gap_table(runs, numbers["changes"]),
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
    page = _page().render(
        version=modgap.__version__,
        made=time.strftime("%Y-%m-%d %H:%M"),
        css=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline=numbers["headline"],
        warnings=numbers["warnings"],
        runs=list(runs),
        accuracies=panels.accuracies(runs),
        gaps=panels.gaps(runs),
        seeds=[
            {
                **panels.seeds(part),
                "words": seed_words(part),
                "tables": [table.html() for table in seed_tables(part).values()],
            }
            for part in numbers["seeds"]
        ],
        seeds_note=READING,
        pairs=panels.pairs(runs),
        readings=panels.readings(runs),
        legend=KINDS,
        unread=[run.name for run in found.evals if _unread(run, runs[run.name])],
        types=panels.types(runs),
        lengths=panels.lengths(runs),
        curves=curves,
        rollouts=rollouts(found.stages),
        tables={part: [x.html() for x in some if x is not None and x.rows] for part, some in tables.items()},
        type_names=index["types"] if index else [],
        index=Markup(embed_json(index)) if index else "",
        blocks=[Markup(block) for block in blocks],
        packed=packed,
        manifests=[_manifest(part) for part in (*found.evals, *found.stages) if part.manifest],
    )
    return numbers, as_utf8(page)


def as_utf8(text: str) -> str:
    """The text without halves of surrogate pairs, which a log may hold and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _unread(run: EvalRun, summary: dict[str, Any]) -> bool:
    """Whether problems were lost whose conditions are recorded, and no response tells how they were read."""
    lost = summary["gap"] and summary["gap"]["table"]["text_only"]
    return bool(lost and not summary["reading"] and any(row.conditions for row in run.problems.values()))


# Provenance


def _samples_asked(run: EvalRun) -> int | None:
    return run.manifest.get("resolved", {}).get("samples")


def _provenance(found: Collection) -> t.Table:
    rows: list[tuple[str, ...]] = []
    for part in (*found.evals, *found.stages):
        done = f"graded {part.mode}" if isinstance(part, EvalRun) else f"{len(part.log)} steps"
        rows.append(
            (_title(part), str(part.path), model_of(part.manifest), done, str(part.manifest.get("created", "")))
        )
    return t.Table("What the numbers were made from", ("run", "folder", "model", "done", "begun"), tuple(rows), left=5)


def _title(part: EvalRun | TrainStage) -> str:
    return part.name if isinstance(part, EvalRun) else f"{part.recipe}, {part.title}"


def _manifest(part: EvalRun | TrainStage) -> dict[str, str]:
    return {"name": _title(part), "text": json.dumps(part.manifest, indent=2, ensure_ascii=False)}
