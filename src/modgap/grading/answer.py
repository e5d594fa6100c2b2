r"""Grade a response against its gold answer; one grader for the training reward and for the score.

`grade` is a pure function: it extracts the last balanced `\boxed{}` after the last `</think>`, reads it as one number
(`number.parse_number`) and compares. It has no `eval`, no sympy, no signals and no state, so it gives the same verdict
in threads, processes and Ray workers, and its time is bounded whatever the model writes.

What comes out is `correct`, `wrong`, `no_answer` or `error`:
- no box, or an empty one: `no_answer`; a box that states no single number (prose, a list, "a or b"): `wrong`;
- a gold answer that is no number: `error`, whatever the response says. It is never `wrong` by silence.

Modes:
- `strict`: `|v - g| <= 5e-3`, the rule of PGPS9K's authors;
- `relative`: strict, or within 1% of a gold that is no integer (`25.000` is one), so that off by one is never right;
- `exact`: the paper's training reward, mathruler without a tolerance (see `grading.paper`);
- `paper`: the original's `eval.py` (see `grading.paper`).

Differences from the paper: its reward had no tolerance, so that 7.07 for 7.071 earned nothing, and sympy read what the
policy wrote; its evaluation ran Python's `eval` on it; neither looked at where the thinking ends. Its format check was
a regular expression that backtracks; here it is a string search with the same verdict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, get_args

from modgap.core.record import Outcome
from modgap.grading.number import MAX_CHARS, parse_number

Mode = Literal["strict", "relative", "paper", "exact"]
Tolerance = Literal["exact", "strict", "relative"]

ABSOLUTE: Final = 5e-3
RELATIVE: Final = 0.01
ROUNDING: Final = 1e-9  # 7.075 is within 5e-3 of 7.07 although their floats are a little further apart
LAST_BOXES: Final = 8
MAX_BRACES: Final = 10_000

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,9}(?:(\{)|([+-]?[0-9.][0-9.,]{0,30}))|\\[{}]|[{}]")


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one response.

    Attributes:
        outcome: `correct`, `wrong`, `no_answer` or `error` (could not be graded).
        answer: The content of the box, None if there is none.
        value: The number it states, None if it states none.
        stage: What decided: `no-box`, `empty`, `length`, `not-a-number`, `strict`, `relative`, `grade_answer`,
            `one-percent`, `gold`.
        reason: For `error`: why it could not be graded.
    """

    outcome: Outcome
    answer: str | None
    value: float | None
    stage: str
    reason: str = ""

    @property
    def correct(self) -> bool:
        """Whether the outcome is `correct`."""
        return self.outcome == "correct"


@dataclass(frozen=True, slots=True)
class Reward:
    r"""The training reward of one response.

    Attributes:
        score: `0.9 * acc + 0.1 * format`.
        acc: 1.0 if the answer is correct.
        format: 1.0 if the response has the form `<think>...</think>...\boxed{...}`.
        ungraded: Whether the gold answer could not be read, so that `acc` says nothing.
    """

    score: float
    acc: float
    format: float
    ungraded: bool = False


def extract_answer(response: str) -> str | None:
    r"""The content of the last balanced `\boxed{}` (or `\fbox{}`, or `\boxed 7`) after the last `</think>`.

    Without `</think>` the whole response is searched. Nested boxes give the inner one; `\{` and `\}` do not count as
    braces. To bound the time, the last 8 boxes and 10,000 braces are looked at.

    Returns:
        The stripped content, None if there is no balanced box.
    """
    text = response.rpartition("</think>")[2]
    start = len(text)
    for _ in range(LAST_BOXES):
        found = max(text.rfind("\\boxed", 0, start), text.rfind("\\fbox", 0, start))
        if found < 0:
            break
        start = found
    if start == len(text):
        return None
    answer: str | None = None
    answer_start = -1
    openings: list[int] = []  # where each open group's content starts; of a plain group, -1
    for token in islice(_BOX_TOKEN.finditer(text, start), MAX_BRACES):
        if token[1]:
            openings.append(token.end())
        elif token[2]:
            answer, answer_start = token[2].rstrip(".,"), token.start()
        elif token[0] == "{":
            openings.append(-1)
        elif token[0] == "}" and openings:
            opening = openings.pop()
            if opening > answer_start:
                answer, answer_start = text[opening : token.start()], opening
    return None if answer is None else answer.strip()


def grade(response: str, gold: str, mode: Mode = "strict") -> Grade:
    r"""Grade `response` against `gold`.

    Args:
        response: All that the model wrote, thinking included.
        gold: The gold answer as the data set has it, for example `"25.000"`.
        mode: `strict`, `relative`, `exact` or `paper`; see the module's docstring.

    Raises:
        ValueError: If `mode` is unknown.
    """
    if mode == "paper" or mode == "exact":
        from modgap.grading import paper  # late: it imports mathruler, and with it sympy

        return paper.grade(response, gold, mode)
    if mode not in get_args(Mode):
        raise ValueError(f"unknown grading mode {mode!r}; choose one of {', '.join(get_args(Mode))}")
    answer = extract_answer(response)
    target = parse_number(gold)
    if target is None:
        return Grade("error", answer, None, "gold", f"the gold answer {gold[:80]!r} is no number; correct the data set")
    if answer is None:
        return Grade("no_answer", None, None, "no-box")
    if not answer:
        return Grade("no_answer", answer, None, "empty")
    if len(answer) > MAX_CHARS:
        return Grade("wrong", answer[:MAX_CHARS], None, "length")
    value = parse_number(answer)
    if value is None:
        return Grade("wrong", answer, None, "not-a-number")
    if abs(value - target) <= ABSOLUTE + ROUNDING:
        return Grade("correct", answer, value, "strict")
    if mode == "relative" and target != round(target):
        close = abs(value - target) <= RELATIVE * abs(target) + ROUNDING
        return Grade("correct" if close else "wrong", answer, value, "relative")
    return Grade("wrong", answer, value, "strict")


def well_formatted(response: str) -> bool:
    r"""Whether `response` has the form `<think>...</think>...\boxed{...}...`.

    The same verdict as the original's `re.fullmatch(r"<think>.*</think>.*\\boxed\{.*\}.*", response, re.DOTALL)`, in
    linear time: taking the first `</think>`, then the first `\boxed{` after it, leaves the most room for the rest.
    """
    if not response.startswith("<think>"):
        return False
    thought = response.find("</think>", len("<think>"))
    box = response.find("\\boxed{", thought + len("</think>")) if thought >= 0 else -1
    return box >= 0 and response.find("}", box + len("\\boxed{")) >= 0


def reward(response: str, gold: str, tolerance: Tolerance = "relative") -> Reward:
    """The training reward `0.9 * acc + 0.1 * format`.

    Args:
        response: All that the model wrote.
        gold: The gold answer.
        tolerance: `exact` (the paper's), `strict` or `relative`.

    Raises:
        ValueError: If `tolerance` is unknown.
    """
    if tolerance not in get_args(Tolerance):
        raise ValueError(f"unknown reward tolerance {tolerance!r}; choose one of {', '.join(get_args(Tolerance))}")
    verdict = grade(response, gold, tolerance)
    acc, form = float(verdict.correct), float(well_formatted(response))
    return Reward(0.9 * acc + 0.1 * form, acc, form, ungraded=verdict.outcome == "error")
