"""What each run differs in from the run that it stands beside: data, wording, sampling, grading.

Runs of another benchmark are compared with the first run of their own: a study may measure on
several. Where nothing is recorded, as in older runs, nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from modgap.analysis.results import Summary
from modgap.core.problem import split_grader
from modgap.core.view import VERSION_VIEWS
from modgap.reporting.collect import EvalRun
from modgap.reporting.same_data import groups
from modgap.reporting.sampling import NAMES, sampling_of, value_words


def differences(
    runs: Sequence[EvalRun], summaries: Mapping[str, Summary]
) -> dict[str, list[str]] | None:
    """Name of a run -> in words, what it differs in; `None` where all can be compared."""
    first: dict[str, EvalRun] = {}
    found: dict[str, list[str]] = {}
    data = {name: number for number, names in enumerate(groups(runs)) for name in names}
    for run in runs:
        beside = first.setdefault(f"{run.also} {benchmark_of(run)}", run)
        words: list[str] = []
        if data[run.name] != data[beside.name]:
            words.append(f"data ({beside.name} has other problems)")
        modes = [summaries[one.name].mode for one in (run, beside)]
        facts = {
            "style": [style_of(one) for one in (run, beside)],
            "grading": modes,
            **_sampling(run, beside),
        }
        words += [
            f"{what} {mine} ({beside.name} {theirs})"
            for what, (mine, theirs) in facts.items()
            if mine and theirs and mine != theirs
        ]
        if words:
            found[run.name] = words
    return found or None


def by_benchmark(runs: Sequence[EvalRun]) -> list[list[EvalRun]]:
    """The runs of each benchmark, in the runs' order."""
    found: dict[str, list[EvalRun]] = {}
    for run in runs:
        found.setdefault(benchmark_of(run), []).append(run)
    return list(found.values())


def by_set(runs: Sequence[EvalRun]) -> list[list[EvalRun]]:
    """The runs that are compared with each other: a study's own, then those of each other set."""
    found: dict[str, list[EvalRun]] = {}
    for run in runs:
        found.setdefault(run.also, []).append(run)
    return list(found.values())


def side_by_side(runs: Sequence[EvalRun]) -> dict[str, dict[str, str]] | None:
    """Model -> set -> run, where a study measured on several sets; `None` elsewhere.

    Runs from outside the study are there for reference, one row for each model, where they were
    asked the same problems as one of its sets.
    """
    sets = {run.also: run for run in reversed(runs) if run.base}
    if len(sets) < 2:
        return None
    rows: dict[str, dict[str, str]] = {}
    data = {name: number for number, names in enumerate(groups(runs)) for name in names}
    labels = {data[run.name]: also or benchmark_given(run) for also, run in sets.items()}
    for run in runs:
        label = labels.get(data[run.name])
        if label is None:
            continue
        row = run.name.removesuffix(f" on {run.also}") if run.base else run.model or run.name
        rows.setdefault(row, {}).setdefault(label, run.name)
    return rows


def benchmark_given(run: EvalRun) -> str:
    """The benchmark as it was given; `main` where that is not recorded."""
    return str(run.manifest.given.get("benchmark") or "main")


def style_words(runs: Sequence[EvalRun]) -> list[str]:
    """A warning where runs that are shown together were asked in different words; at most one."""
    named: dict[str, list[str]] = {}
    for run in runs:
        if style := style_of(run):
            named.setdefault(style, []).append(run.name)
    if len(named) < 2:
        return []
    parts = "; ".join(f"{style} ({', '.join(names)})" for style, names in named.items())
    return [
        f"Worded differently (--style): {parts}. A part of what differs between these runs may come"
        " from that."
    ]


def style_of(run: EvalRun) -> str:
    """The wording of a run's prompts; empty where it is not recorded."""
    return str(run.manifest.resolved.get("style") or "")


def benchmark_of(run: EvalRun) -> str:
    """`mathverse`, or what else grades a run's problems; empty for problems graded as numbers."""
    if any(re.sub("[ _]", "-", view.lower()) in VERSION_VIEWS for view in run.scores.views):
        return "mathverse"
    graders = {split_grader(problem.grader)[0] for problem in run.problems.values()}
    return ",".join(sorted(graders - {""}))


def _sampling(run: EvalRun, beside: EvalRun) -> dict[str, list[str]]:
    """What both runs record of their sampling, in words."""
    mine, theirs = (sampling_of(one.manifest.whole) for one in (run, beside))
    return {
        NAMES.get(name, name): [value_words(name, one[name]) for one in (mine, theirs)]
        for name in mine
        if mine[name] is not None and theirs.get(name) is not None
    }
