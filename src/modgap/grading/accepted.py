r"""Grade a number of which several values are right, or values within a tolerance.

The gold answer of such a problem is `3 or -3`: each value alone is right. The tolerance is the kind
of its grader: `answers:0.5` (a distance), `answers:1%` (a share of the gold answer), or `answers:`
for that of the grading mode.

```
grade_accepted(r"\boxed{-3}", "3 or -3").outcome             # 'correct'
grade_accepted(r"\boxed{10.3}", "10", "0.5").outcome         # 'correct'
```
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from modgap.grading.answer import ABSOLUTE, ROUNDING, Mode, grade
from modgap.grading.grade import Grade
from modgap.grading.number import parse_number

NAME: Final = "answers"
"""This grader's name, see `Problem.grader` and `graders`."""
JOINT: Final = " or "
"""What stands between the right values of a gold answer."""


def accepted_grader(tolerance: str) -> str:
    """The grader of a problem with this tolerance; empty for that of the grading mode."""
    return f"{NAME}:{tolerance}"


def tolerance_of(text: str) -> tuple[float, bool] | None:
    """A tolerance and whether it is a share of the gold answer; `None` if the text is none."""
    share = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        return None
    if not 0 <= value < math.inf:
        return None
    return (value / 100, True) if share else (value, False)


def grade_accepted(response: str, gold: str, tolerance: str = "", mode: Mode = "strict") -> Grade:
    """Grade one response.

    Args:
        response: Everything the model wrote.
        gold: One value, or several with ` or ` between them.
        tolerance: As in the grader's kind; empty for that of the mode.
        mode: `strict` or `relative`.
    """
    verdicts = [_grade_one(response, one, tolerance, mode) for one in gold.split(JOINT)]
    for outcome in ("correct", "error"):
        for verdict in verdicts:
            if verdict.outcome == outcome:
                return verdict
    return verdicts[0]


def _grade_one(response: str, gold: str, tolerance: str, mode: Mode) -> Grade:
    verdict = grade(response, gold, mode)
    target, given = parse_number(gold), tolerance_of(tolerance) if tolerance else None
    if target is None or given is None or verdict.value is None:
        return verdict
    size, share = given
    most = size * abs(target) if share else size
    if abs(verdict.value - target) <= most + ROUNDING:
        return replace(verdict, outcome="correct", stage="tolerance")
    # The problem's tolerance makes wrong what a wider one of the mode would accept.
    narrower = most < ABSOLUTE or verdict.stage == "relative"
    return replace(verdict, outcome="wrong", stage="tolerance") if narrower else verdict
