"""Which runs of a report were asked the same problems: only those can be compared.

Data is recognised by its fingerprint in the manifest. An import has the fingerprint of the problems
in its files, and older runs have none: those are compared by the problems themselves (id, question
and gold answer).
"""

from __future__ import annotations

from collections.abc import Sequence

from modgap.core.problem import split_grader
from modgap.core.text import counted
from modgap.reporting.collect import EvalRun

MOST_NAMED = 4
"""The most runs of one data set that a note names."""


def groups(runs: Sequence[EvalRun]) -> list[list[str]]:
    """The runs' names by their data, in the runs' order; one list where all have the same."""
    found: list[list[EvalRun]] = []
    for run in runs:
        alike = next((group for group in found if _same(group[0], run)), None)
        if alike is None:
            found.append([run])
        else:
            alike.append(run)
    return [[run.name for run in group] for group in found]


def data_words(runs: Sequence[EvalRun]) -> list[str]:
    """A warning where runs of different data are shown together."""
    parts = groups(runs)
    if len(parts) < 2:
        return []
    of_name = {run.name: run for run in runs}
    parts_named = "; ".join(f"{_names(names)} ({_about(of_name[names[0]])})" for names in parts)
    return [
        f"Measured on different data: {parts_named}. Their accuracies and gaps do not compare; a"
        " change of the gap is over the problems that two runs share, if any."
    ]


def _same(first: EvalRun, second: EvalRun) -> bool:
    marks = [run.manifest.fingerprints.get("data_fingerprint") for run in (first, second)]
    if all(marks):
        if marks[0] == marks[1]:
            return True
        if all(run.manifest.kind != "import" for run in (first, second)):
            return False
    return _keys(first) == _keys(second)


def _keys(run: EvalRun) -> set[tuple[str, str, str]]:
    return {(row.id, row.question, row.answer) for row in run.problems.values()}


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _about(run: EvalRun) -> str:
    """`mathverse, 788 problems, data 2f0c`: what distinguishes the data from others."""
    benchmark = run.manifest.given.get("benchmark")
    if not benchmark:
        benchmark = next(
            (name for row in run.problems.values() if (name := split_grader(row.grader)[0])), ""
        )
    mark = run.manifest.fingerprints.get("data_fingerprint")
    count = counted(len(run.problems), "problem")
    return ", ".join(
        [*([str(benchmark)] if benchmark else []), count, *([f"data {mark[:8]}"] if mark else [])]
    )
