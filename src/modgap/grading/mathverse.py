r"""Grade MathVerse: rules first, then a symbolic comparison, then a judge.

Every grade records the stage that decided. `grade_by_rule` is pure, bounded in time and needs
nothing: it gives a `Grade`, or `Undecided` where only a judge can decide. `grade_all` takes a whole
batch through the stages. The symbolic pool and the judge are passed in. Either may be left out;
what it would have decided is then an `error` that says so.

Rules (modes `strict` and `relative`, which differ in the tolerance for numbers only, as in
`grading`):
- multiple choice: by letter, else by the choice's value (stages `letter`, `choice-value`; see
  `choices`);
- free-form: by what the gold is, a number, formula, equation, inequality, bracket, list or words
  (which is the stage; `text` where the characters are the same; see `forms` and `compare`); a unit
  other than the gold's is left to the judge, while the original ignores units.

Mode `paper` is the original's `score_prediction`: a bare letter `a` to `e` against the gold's
characters; else every number of both strings, any of them within 5%; else its judge. An empty box
is answered by the tail after `</think>`. So a constant 2 is right for whatever has a 2 in it, even
an exponent; this is why `paper` is not the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, get_args

from modgap.grading import choices, judge
from modgap.grading.answer import ABSOLUTE, RELATIVE, ROUNDING, extract_answer
from modgap.grading.compare import Close, for_algebra, same_form
from modgap.grading.forms import Form, read_form
from modgap.grading.grade import Grade
from modgap.grading.judge import Ask, JudgeMode, Undecided
from modgap.grading.notation import canonical
from modgap.grading.number import MAX_CHARS, decimal_comma_readings
from modgap.grading.paper import extract_boxed_content

MULTI_CHOICE: Final = "multi-choice"
FREE_FORM: Final = "free-form"
_QUESTION_TYPES: Final = {
    "multichoice": MULTI_CHOICE, "multiplechoice": MULTI_CHOICE, "mcq": MULTI_CHOICE,
    "freeform": FREE_FORM, "openended": FREE_FORM,
}  # fmt: skip
PAPER_TOLERANCE: Final = 0.05
NAME: Final = "mathverse"
"""This grader's name, see `Problem.grader` and `graders`."""

_DECIMAL_COMMA = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d)")
_LONE_COMMA = re.compile(r"[^,;()\[\]]*\d(?:,|\{,\})\d[^,;()\[\]]*")
"""Text with one comma, between digits, and without brackets that it may belong to."""


@dataclass(frozen=True, slots=True)
class Case:
    """One response to grade.

    Attributes:
        response: Everything the model wrote, with or without the prefilled `<think>`.
        gold: The gold answer as the data set has it.
        question: The question with its choices; of MathVerse `question_for_eval`.
        question_type: `multi-choice` or `free-form`.
    """

    response: str
    gold: str
    question: str
    question_type: str


def question_type_of(text: str) -> str | None:
    """`multi-choice` or `free-form`; None for any other.

    Data sets spell them in several ways, for example `multi_choice` or `Multiple Choice`.
    """
    return _QUESTION_TYPES.get(re.sub(r"[\W_]+", "", text).casefold())


def grader_of(question_type: str) -> str:
    """The grader of a problem of that type, as `Problem.grader` names it."""
    return f"{NAME}:{question_type}"


class Symbolic(Protocol):
    """Compares pairs of expressions; see `symbolic.SymbolicPool`."""

    note: str

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """For each (answer, gold): True, False, or None if undecided."""
        ...


def grade_all(
    cases: Sequence[Case],
    mode: JudgeMode = "strict",
    symbolic: Symbolic | None = None,
    ask: Ask | None = None,
) -> list[Grade]:
    """Grade a batch.

    Args:
        cases: The responses.
        mode: `strict`, `relative` or `paper` (in which there is no symbolic stage).
        symbolic: Compares what the rules left undecided; what it finds equal is right, the rest
            goes to the judge.
        ask: The judge, asked once, with all prompts.

    Returns:
        One grade for each case, in order.
    """
    results = grade_without_judge(cases, mode, symbolic)
    wanted = [n for n, result in enumerate(results) if isinstance(result, Undecided)]
    open_cases = [_undecided(results[n]) for n in wanted]
    if ask is not None and wanted:
        said = ask([case.prompt() for case in open_cases])
        for n, case, words in zip(wanted, open_cases, said, strict=True):
            results[n] = judge.settle(case, words)
    return [
        judge.unsettled(result) if isinstance(result, Undecided) else result for result in results
    ]


def grade_without_judge(
    cases: Sequence[Case], mode: JudgeMode = "strict", symbolic: Symbolic | None = None
) -> list[Grade | Undecided]:
    """Grade a batch by the rules and the symbolic stage: `grade_all` without the judge."""
    results = [grade_by_rule(case, mode) for case in cases]
    if symbolic is not None:
        wanted: list[int] = []
        for n, result in enumerate(results):
            if isinstance(result, Undecided) and result.symbolic:
                wanted.append(n)
        open_cases = [_undecided(results[n]) for n in wanted]
        verdicts = symbolic.same([(case.answer, case.gold) for case in open_cases])
        for n, case, verdict in zip(wanted, open_cases, verdicts, strict=True):
            note = replace(case, note=symbolic.note)
            results[n] = Grade("correct", case.answer, None, "symbolic") if verdict else note
    return results


def _undecided(result: Grade | Undecided) -> Undecided:
    assert isinstance(result, Undecided)
    return result


def grade_by_rule(case: Case, mode: JudgeMode = "strict") -> Grade | Undecided:
    """Grade one response as far as rules go.

    Raises:
        ValueError: If `mode` is unknown.
    """
    if mode not in get_args(JudgeMode):
        modes = ", ".join(get_args(JudgeMode))
        raise ValueError(f"unknown MathVerse grading mode {mode!r}; choose one of {modes}")
    if mode == "paper":
        return _paper(case)
    answer = extract_answer(case.response)
    if not case.gold.strip():
        return Grade(
            "error", answer, None, "gold", "the gold answer is empty; correct the data set"
        )
    if answer is None:
        return Grade("no_answer", None, None, "no-box")
    if not answer:
        return Grade("no_answer", answer, None, "empty")
    if case.question_type == MULTI_CHOICE:
        return _multiple_choice(case, answer, mode)
    return _free_form(case, answer, mode)


# ---- multiple choice -----------------------------------------------------------------------------
def _multiple_choice(case: Case, answer: str, mode: JudgeMode) -> Grade | Undecided:
    if len(answer) > choices.MAX_CHARS:
        return Grade("wrong", answer[: choices.MAX_CHARS], None, "length")
    options = choices.parse_choices(case.question)
    gold = choices.named_letters(case.gold, options) or choices.named_letters(case.gold, {})
    if not gold:
        readings = choices.read_choice(case.gold, options, _same_choice).readings
        gold = readings[0] if len(readings) == 1 else None
    if not gold:
        return Grade(
            "error", answer, None, "gold", f"the gold answer {case.gold[:80]!r} names no choice"
        )
    named = choices.read_choice(answer, options, _same_choice)
    verdicts = {None if letters is None else _right(letters, gold) for letters in named.readings}
    if None in verdicts or len(verdicts) > 1:
        return Undecided(answer, case.gold, case.question, mode)
    letters = named.readings[0] or ()
    outcome = "correct" if True in verdicts else "wrong"
    return Grade(outcome, ", ".join(sorted(letters)) or answer, None, named.stage)


def _right(letters: frozenset[str], gold: frozenset[str]) -> bool:
    """Whether the letters are right.

    A gold of several letters is malformed: each of them is right, and so are all of them together.
    """
    return letters <= gold if len(letters) == 1 else letters == gold


def _same_choice(answer: str, choice: str) -> bool | None:
    """Choices are far apart, so that a rounded value names its choice in every mode."""
    option = read_form(choice)
    same = same_form(read_form(answer), option, _relative)
    if same is False and _same_with_decimal_comma(answer, choice, option, _relative):
        return None
    return same


# ---- free-form -----------------------------------------------------------------------------------
def _free_form(case: Case, answer: str, mode: JudgeMode) -> Grade | Undecided:
    if len(answer) > MAX_CHARS:
        return Grade("wrong", answer[:MAX_CHARS], None, "length")
    given, gold = read_form(answer), read_form(case.gold)
    value = given.value if given.kind == "number" else None
    if _plain(answer) == _plain(case.gold):
        return Grade("correct", answer, value, "text")
    close = _strict if mode == "strict" else _relative
    verdict = same_form(given, gold, close)
    if verdict is False and _same_with_decimal_comma(answer, case.gold, gold, close):
        verdict = None
    if verdict is None:
        return Undecided(answer, case.gold, case.question, mode, symbolic=for_algebra(given, gold))
    return Grade("correct" if verdict else "wrong", answer, value, gold.kind)


def _same_with_decimal_comma(answer: str, gold_text: str, gold: Form, close: Close) -> bool:
    """`3,5` for 3.5: two numbers to most readers, one to others."""
    if "," not in answer and "," not in gold_text:
        return False
    if gold.kind == "number" and any(
        close(value, gold.value) for value in decimal_comma_readings(answer)
    ):
        return True
    texts = [canonical(text[: 2 * MAX_CHARS]) for text in (answer, gold_text)]
    others = [
        _DECIMAL_COMMA.sub(".", text) if _LONE_COMMA.fullmatch(text) else text for text in texts
    ]
    return others != texts and bool(same_form(read_form(others[0]), read_form(others[1]), close))


def _strict(value: float, gold: float) -> bool:
    return abs(value - gold) <= ABSOLUTE + ROUNDING


def _relative(value: float, gold: float) -> bool:
    near = gold % 1 != 0 and abs(value - gold) <= RELATIVE * abs(gold) + ROUNDING
    return near or _strict(value, gold)


def _plain(text: str) -> str:
    """Remove spaces; those between digits (`1 1/2`) only where they group thousands."""
    return re.sub(
        r"(?<!\d)\s+|\s+(?!\d)|(?<=\d)\s+(?=\d{3}(?!\d))", "", canonical(text[: 2 * MAX_CHARS])
    )


# ---- the original's rules ------------------------------------------------------------------------
_PAPER_NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?|-?\d+")


def _paper(case: Case) -> Grade | Undecided:
    boxed = extract_boxed_content(case.response).replace("°", "").strip()
    if case.question_type == MULTI_CHOICE and boxed.lower() in ("a", "b", "c", "d", "e"):
        right = case.gold.lower().strip() == boxed.lower()
        return Grade("correct" if right else "wrong", boxed, None, "letter")
    answer = original_answer(case.response)
    gold_numbers, numbers = (list(_paper_numbers(text)) for text in (case.gold, answer))
    if gold_numbers and numbers:
        right = _paper_match(gold_numbers, numbers)
        value = numbers[0] if len(numbers) == 1 else None
        return Grade("correct" if right else "wrong", answer, value, "any-number")
    return Undecided(answer, case.gold, case.question, "paper")


def original_answer(response: str) -> str:
    """The original's answer: the content of the last box, else the text after the thinking."""
    boxed = extract_boxed_content(response).replace("°", "").strip()
    return _tail(response).strip() if boxed.lower() == "none" else boxed


def _paper_numbers(text: str) -> Iterator[float]:
    """The original's `extract_numbers`."""
    for match in _PAPER_NUMBER.finditer(text):
        yield float(match[0])


def _paper_match(golds: list[float], values: list[float]) -> bool:
    """The original's `numbers_match_with_tolerance`: pair by pair, or any of many against one."""
    if len(golds) == len(values):
        return all(map(_paper_near, golds, values))
    if len(golds) == 1:
        return any(_paper_near(golds[0], value) for value in values)
    if len(values) != 1:
        return False
    # The only place where the original handles an answer of zero: it is near golds up to 0.05.
    if values[0] == 0:
        return any(abs(gold) <= PAPER_TOLERANCE for gold in golds)
    return any(_paper_near(gold, values[0]) for gold in golds)


def _paper_near(gold: float, value: float) -> bool:
    distance = abs(gold - value) / abs(gold) if gold != 0 else abs(value)
    return distance <= PAPER_TOLERANCE


def _tail(response: str) -> str:
    r"""The original's `recover_from_none` in linear time.

    What follows the first `</think>` (else the whole response): of that the content of the first
    `boxed{...}` that closes on its line, else all.
    """
    _, found, tail = response.partition("</think>")
    if not found:
        return response
    at = tail.find("boxed{")
    while at >= 0:
        start = at + len("boxed{")
        end, line_end = tail.find("}", start), tail.find("\n", start)
        if end < 0:
            break
        if line_end < 0 or end < line_end:
            return tail[start:end]
        at = tail.find("boxed{", line_end)
    return tail
