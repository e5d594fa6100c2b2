"""Short calls of the workflows for tests: a summary, or a study, from the arguments that vary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modgap.analysis.results import Summary
from modgap.core.options import EvalOptions, StudySpec
from modgap.core.progress import SILENT
from modgap.workflows import evaluate as workflow


def evaluate(
    problems: Any, engine: Any, out: Path, *, progress: Any = SILENT, **plan: Any
) -> Summary:
    """The summary of an evaluation with an engine; the keywords are those of `EvalPlan`."""
    given = {name: value for name, value in plan.items() if value is not None}
    return workflow.evaluate_with(problems, engine, out, workflow.EvalPlan(**given), progress)


def evaluate_model(
    problems: Any, model: Any, out: Path, options: EvalOptions, **more: Any
) -> Summary:
    """The summary of an evaluation of a model."""
    return workflow.evaluate(problems, model, out, options=options, **more).summary


def spec(data: Path, model: str, recipes: Iterable[str], out: Path, **more: Any) -> StudySpec:
    """A study; the keywords are those of `StudySpec`."""
    more = {
        name: tuple(value) if isinstance(value, list) else value for name, value in more.items()
    }
    return StudySpec(data=data, model=model, recipes=tuple(recipes), out=out, **more)
