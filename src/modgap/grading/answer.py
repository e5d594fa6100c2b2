r"""Grade a response against its gold answer; one grader for the training reward and for the score.

`grade` is a pure function: it extracts the last balanced `\boxed{}` outside of the thinking, reads
it as one number (`number.readings`) and compares. It has no `eval`, no sympy, no signals and no
state, so it gives the same verdict in threads, processes and Ray workers, and its time is bounded
whatever the model writes.

What comes out is `correct`, `wrong`, `no_answer` or `error`:
- no box, or an empty one: `no_answer`; a box that states no single number (prose, a list, "a or
  b"): `wrong`;
- a notation with two readings of which one is the gold answer (`7,07` for 7.07; `\sin 30`, which
  does not say degrees, for 0.5): `error` at the stage `undecided`;
- a gold answer that is not a number: `error`, whatever the response says. It is never silently
  `wrong`.

Modes:
- `strict`: `|v - g| <= 5e-3`, the rule of PGPS9K's authors;
- `relative`: strict, or within 1% of a gold that is not an integer (`25.000` is one), so that an
  integer off by one is never right;
- `exact`: the paper's training reward, mathruler without a tolerance (see `grading.paper`);
- `paper`: the original's `eval.py` (see `grading.paper`).

Differences from the paper: its reward had no tolerance, so that 7.07 for 7.071 earned nothing, and
sympy read what the policy wrote; its evaluation ran Python's `eval` on it; neither looked at where
the thinking ends. Its format check was a regular expression that backtracks; here it is a string
search with the same verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, get_args

from modgap.grading.grade import Grade
from modgap.grading.number import MAX_CHARS, decimal_comma_readings, parse_number, readings

Mode = Literal["strict", "relative", "paper", "exact"]
Tolerance = Literal["exact", "strict", "relative"]

ABSOLUTE: Final = 5e-3
RELATIVE: Final = 0.01
# 7.075 is within 5e-3 of 7.07 although their floats are a little further apart.
ROUNDING: Final = 1e-9
LAST_BOXES: Final = 8
MAX_BRACES: Final = 10_000

_CLOSE = "</think>"
# Models open their thinking with `<think>`, `<thinking>`, `<thought>`, `<seed:think>`, `[THINK]`,
# `◁think▷` and `<|begin_of_thought|>`, and close it accordingly.
_THINK_TAG = re.compile(
    r"<\s{0,9}(?P<a>/?)\s{0,9}(?:seed:)?(?:think(?:ing)?|thought)\s{0,9}>|[\[◁](?P<b>/?)think[\]▷]"
    r"|<\|(?:begin|(?P<c>end))_of_thought\|>",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"%|％|\bpercent\b")
_QUOTES = frozenset("`'\"“”‘’")
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,9}(?:(\{)|([+-]?[0-9.][0-9.,]{0,30}))|\\[{}]|[{}]")


@dataclass(frozen=True, slots=True)
class Reward:
    r"""The training reward of one response.

    Attributes:
        score: `0.9 * acc + 0.1 * format`.
        acc: 1.0 if the answer is correct.
        format: 1.0 if the response has the form `<think>...</think>...\boxed{...}`.
        ungraded: Whether the gold answer could not be read, so that `acc` says nothing. An
            undecided answer is graded: its `acc` is 0.
    """

    score: float
    acc: float
    format: float
    ungraded: bool = False


def _after_thinking(response: str) -> str:
    """What follows the last `</think>`, up to a `<think>` that is never closed.

    A tag in quotation marks is a mention and does not count.
    """
    closing = response.rfind(_CLOSE)
    while closing >= 0 and _quoted(response, closing, closing + len(_CLOSE)):
        closing = response.rfind(_CLOSE, 0, closing)
    start = closing + len(_CLOSE) if closing >= 0 else 0
    opened = len(response)
    for tag in _THINK_TAG.finditer(response, start):
        if _quoted(response, tag.start(), tag.end()):
            continue
        if any(tag.groups()):
            start, opened = tag.end(), len(response)
        else:
            opened = min(opened, tag.start())
    return response[start:opened]


def _quoted(text: str, start: int, end: int) -> bool:
    return start > 0 and text[start - 1] in _QUOTES and text[end : end + 1] in _QUOTES


def extract_answer(response: str) -> str | None:
    r"""The content of the last balanced box after the last `</think>`.

    A box is `\boxed{}`, `\fbox{}` or `\boxed 7`. Without `</think>` the response is searched from
    its start. Text after a `<think>` that is never closed is thinking that was cut off and holds no
    answer. The tags are recognised in any case, with spaces, and as other models write them
    (`<thinking>`, `[THINK]`); a tag in quotation marks or backticks is a mention. Nested boxes give
    the inner one; `\{` and `\}` do not count as braces. To bound the time, only the last 8 boxes
    and 10,000 braces are examined.

    Returns:
        The stripped content, None if there is no balanced box.
    """
    text = _after_thinking(response)
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
    openings: list[int] = []  # where each open box's content starts; -1 for a plain group
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
        response: Everything the model wrote, thinking included.
        gold: The gold answer as the data set has it, for example `"25.000"`.
        mode: `strict`, `relative`, `exact` or `paper`; see the module's docstring.

    Raises:
        ValueError: If `mode` is unknown.
    """
    if mode == "paper" or mode == "exact":
        from modgap.grading import paper  # late: it imports mathruler, and with it sympy

        return paper.grade(response, gold, mode)
    if mode not in get_args(Mode):
        raise ValueError(
            f"unknown grading mode {mode!r}; choose one of {', '.join(get_args(Mode))}"
        )
    answer = extract_answer(response)
    target = parse_number(gold)
    if target is None:
        reason = f"the gold answer {gold[:80]!r} is not a number; correct the data set"
        return Grade("error", answer, None, "gold", reason)
    if answer is None:
        return Grade("no_answer", None, None, "no-box")
    if not answer:
        return Grade("no_answer", answer, None, "empty")
    if len(answer) > MAX_CHARS:
        return Grade("wrong", answer[:MAX_CHARS], None, "length")
    values = readings(answer)
    if len(values) == 1 and _within(values[0], target, mode):
        stage = "strict" if _within(values[0], target, "strict") else "relative"
        return Grade("correct", answer, values[0], stage)
    if len(values) == 1 and _is_share(answer, values[0], gold, target):
        return Grade("correct", answer, values[0], "strict")
    for others, doubt in _doubtful_readings(answer, values):
        if any(_within(other, target, mode) for other in others):
            reason = (
                f"the answer {answer[:80]!r} is the gold answer {gold[:80]!r} only if {doubt};"
                " rules cannot tell"
            )
            return Grade("error", answer, None, "undecided", reason)
    if len(values) != 1:
        return Grade("wrong", answer, None, "not-a-number")
    stage = "relative" if mode == "relative" and target != round(target) else "strict"
    return Grade("wrong", answer, values[0], stage)


def _within(value: float, target: float, mode: Mode) -> bool:
    distance = abs(value - target)
    if distance <= ABSOLUTE + ROUNDING:
        return True
    return (
        mode == "relative"
        and target != round(target)
        and distance <= RELATIVE * abs(target) + ROUNDING
    )


def _is_share(answer: str, value: float, gold: str, target: float) -> bool:
    """Whether an answer is the share of a gold answer in percent: 3/4 for `75%`."""
    percent = [bool(_PERCENT.search(text)) for text in (answer, gold)]
    return percent == [False, True] and math.isclose(100 * value, target, rel_tol=1e-9)


def _doubtful_readings(
    answer: str, values: tuple[float, ...]
) -> Iterator[tuple[tuple[float, ...], str]]:
    """Possible readings of an ambiguous notation, each with the condition for it."""
    if len(values) > 1:
        yield values[:1], "its angle is in degrees"
        yield values[1:], "its angle is in radians"
    yield decimal_comma_readings(answer), "its comma is a decimal point"


def well_formatted(response: str) -> bool:
    r"""Whether `response` has the form `<think>...</think>...\boxed{...}...`.

    Gives the same verdict as the original's `re.fullmatch(r"<think>.*</think>.*\\boxed\{.*\}.*",
    response, re.DOTALL)`, in linear time: taking the first `</think>`, then the first `\boxed{`
    after it, leaves the most room for the rest.
    """
    if not response.startswith("<think>"):
        return False
    thought = response.find("</think>", len("<think>"))
    box = response.find("\\boxed{", thought + len("</think>")) if thought >= 0 else -1
    return box >= 0 and response.find("}", box + len("\\boxed{")) >= 0


def as_gold(gold: object) -> str:
    """A gold answer as text: columns of data sets hold numbers, too."""
    return gold if isinstance(gold, str) else str(gold)


def reward(response: str, gold: str, tolerance: Tolerance = "relative") -> Reward:
    """The training reward `0.9 * acc + 0.1 * format`.

    Args:
        response: Everything the model wrote.
        gold: The gold answer.
        tolerance: `exact` (the paper's), `strict` or `relative`.

    Raises:
        ValueError: If `tolerance` is unknown.
    """
    if tolerance not in get_args(Tolerance):
        raise ValueError(
            f"unknown reward tolerance {tolerance!r}; choose one of"
            f" {', '.join(get_args(Tolerance))}"
        )
    verdict = grade(response, gold, tolerance)
    acc, form = float(verdict.correct), float(well_formatted(response))
    return Reward(0.9 * acc + 0.1 * form, acc, form, ungraded=verdict.stage == "gold")
