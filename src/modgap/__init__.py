"""Measure, explain and close the modality gap of multimodal LLMs (arXiv:2510.22836).

```
import modgap

problems = modgap.load_problems("PGPS9K")
run = modgap.evaluate(problems, "Qwen/Qwen2.5-VL-3B-Instruct", "runs/base")
run.summary.gap
```

Importing this package loads nothing else: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from modgap.core.version import __version__

if TYPE_CHECKING:
    from modgap.analysis.run import Run, load_run
    from modgap.core.options import EvalOptions, JudgeOptions, StudySpec, TrainOptions
    from modgap.core.problem import Problem
    from modgap.core.recipe import Recipe, Settings, Stage
    from modgap.core.terms import Reward, Term
    from modgap.core.view import View
    from modgap.grading.graders import grade_answer
    from modgap.workflows.evaluate import evaluate
    from modgap.workflows.grade import grade
    from modgap.workflows.problems import load_problems
    from modgap.workflows.report import report
    from modgap.workflows.sweep import study
    from modgap.workflows.train import train

__all__ = [
    "EvalOptions", "JudgeOptions", "Problem", "Recipe", "Reward", "Run", "Settings", "Stage",
    "StudySpec", "Term", "TrainOptions", "View", "__version__", "evaluate", "grade",
    "grade_answer", "load_problems", "load_run", "report", "study", "train",
]  # fmt: skip

_HOMES = {
    "EvalOptions": "modgap.core.options",
    "JudgeOptions": "modgap.core.options",
    "StudySpec": "modgap.core.options",
    "TrainOptions": "modgap.core.options",
    "Problem": "modgap.core.problem",
    "Recipe": "modgap.core.recipe",
    "Settings": "modgap.core.recipe",
    "Stage": "modgap.core.recipe",
    "Reward": "modgap.core.terms",
    "Term": "modgap.core.terms",
    "Run": "modgap.analysis.run",
    "load_run": "modgap.analysis.run",
    "View": "modgap.core.view",
    "grade_answer": "modgap.grading.graders",
    "evaluate": "modgap.workflows.evaluate",
    "load_problems": "modgap.workflows.problems",
    "grade": "modgap.workflows.grade",
    "report": "modgap.workflows.report",
    "study": "modgap.workflows.sweep",
    "train": "modgap.workflows.train",
}
"""Name -> the module that it is imported from.

None is named as a module of this package is, which would hide it.
"""


def __getattr__(name: str) -> Any:
    """The object of a name, imported when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'modgap' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found  # found at once the next time
    return found


def __dir__() -> list[str]:
    """The names of the package, those that were not imported yet included."""
    return sorted({*globals(), *_HOMES})
