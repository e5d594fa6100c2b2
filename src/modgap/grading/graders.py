r"""The graders by name, and `grade_answer`, which grades one answer with the right one of them.

A problem names its grader (`Problem.grader`): the name of an entry of `GRADERS`, and after a colon
the kind of answer, where a grader has several. A new grader is one entry here; grading a run needs
nothing else.

```
grade_answer(r"so \boxed{25}", "25.000").outcome                                        # 'correct'
grade_answer(r"\boxed{C}", "C", question="...", question_type="multi-choice").stage     # 'letter'
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Final, cast, get_args

from modgap.core.errors import UserError, unknown
from modgap.core.problem import split_grader
from modgap.core.prompt import PAPER_MATHVERSE_PREFILL
from modgap.core.rows import ProblemRow, Response
from modgap.core.thinking import CLOSE, OPEN, closes_unopened, graded_text
from modgap.grading import accepted, mathverse
from modgap.grading.answer import Mode, as_gold, grade
from modgap.grading.grade import Grade
from modgap.grading.judge import JudgeMode, Undecided, unsettled
from modgap.grading.mathverse import FREE_FORM, MULTI_CHOICE, Case, Symbolic
from modgap.grading.symbolic import SymbolicPool


@dataclass(frozen=True, slots=True)
class Grader:
    """What grades the responses to one kind of problem.

    Attributes:
        problems: What messages call these problems.
        modes: The grading modes that it knows.
        grade: Grades a batch: (cases, mode, symbolic pool) -> one result a case, in order;
            `Undecided` where only a judge can decide.
        judged: Whether it leaves anything to a judge.
        paper_prefill: What the prompts of paper style open the assistant's turn with; records of
            older versions lack it.
    """

    problems: str
    modes: tuple[str, ...]
    grade: Callable[[Sequence[Case], str, Symbolic | None], Sequence[Grade | Undecided]]
    judged: bool = False
    paper_prefill: str = ""

    def check_mode(self, mode: str, given: str) -> None:
        """Refuse a mode that this grader does not know.

        Args:
            mode: The mode.
            given: How the caller was given it, for the message: `--mode exact`.

        Raises:
            UserError: It does not know the mode.
        """
        if mode not in self.modes:
            raise UserError(
                f"{given}: {self.problems} are not graded so; choose from {', '.join(self.modes)}."
            )


def _grade_numbers(cases: Sequence[Case], mode: str, symbolic: Symbolic | None) -> list[Grade]:
    return [grade(case.response, case.gold, cast("Mode", mode)) for case in cases]


def _grade_mathverse(
    cases: Sequence[Case], mode: str, symbolic: Symbolic | None
) -> list[Grade | Undecided]:
    # The original has no symbolic stage.
    return mathverse.grade_without_judge(
        cases, cast("JudgeMode", mode), None if mode == "paper" else symbolic
    )


def _grade_choices(
    cases: Sequence[Case], mode: str, symbolic: Symbolic | None
) -> list[Grade | Undecided]:
    # Without MathVerse's own rules of mode `paper`, which are not about choices.
    return mathverse.grade_without_judge(cases, cast("JudgeMode", mode), symbolic)


def _grade_accepted(cases: Sequence[Case], mode: str, symbolic: Symbolic | None) -> list[Grade]:
    return [
        accepted.grade_accepted(case.response, case.gold, case.question_type, cast("Mode", mode))
        for case in cases
    ]


CHOICE_GRADER: Final = f"choices:{MULTI_CHOICE}"
"""The grader of a letter; the choices are in the question, see `choices.parse_choices`."""

GRADERS: Final = {
    "": Grader("problems with a number as their answer", get_args(Mode), _grade_numbers),
    mathverse.NAME: Grader(
        "MathVerse problems",
        get_args(JudgeMode),
        _grade_mathverse,
        judged=True,
        paper_prefill=PAPER_MATHVERSE_PREFILL,
    ),
    accepted.NAME: Grader(
        "problems with several right values or a tolerance",
        ("strict", "relative"),
        _grade_accepted,
    ),
    "choices": Grader(
        "multiple-choice problems", ("strict", "relative"), _grade_choices, judged=True
    ),
}


def find_grader(grader: str) -> Grader:
    """The grader that a problem names.

    Args:
        grader: Its name, with or without the kind of answer; empty for the grader of numbers.

    Raises:
        UserError: There is none of that name.
    """
    name, _ = split_grader(grader)
    if name not in GRADERS:
        raise unknown(
            "grader", name, filter(None, GRADERS), "An empty name is the grader of numbers."
        )
    return GRADERS[name]


def grade_answer(
    response: str,
    gold: str | float,
    *,
    mode: str = "strict",
    question: str = "",
    question_type: str = "",
) -> Grade:
    r"""Grade one response, without a run and without a judge.

    Many responses to MathVerse are graded faster by `mathverse.grade_all`, which keeps the
    processes of the symbolic stage and takes a judge.

    Args:
        response: Everything the model wrote; the answer is its last `\boxed{}`.
        gold: The gold answer as the data set has it, a string or a number.
        mode: `strict`, `relative` or `paper`; of a number also `exact`.
        question: The question with its choices (MathVerse, `question_for_eval`), by which a choice
            is known by its value.
        question_type: `multi-choice` or `free-form`, for MathVerse's rules; spelled as data sets do
            (`Multiple Choice`, `free_form`). Empty for an answer that is a number.

    Returns:
        The verdict. What the rules and math-verify, where it is installed, cannot decide is an
        `error` at the stage `judge`.

    Raises:
        UserError: Another value is not a string, or there is no such mode or question type.
    """
    is_number = isinstance(gold, Real) and not isinstance(gold, bool)
    texts = {
        "response": response,
        "gold": as_gold(gold) if is_number else gold,
        "mode": mode,
        "question": question,
        "question_type": question_type,
    }
    for name, value in texts.items():
        # Callers need not be typed.
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(
                f"{name} is {value!r}, of the type {type(value).__name__}: give a string."
            )
    kind = mathverse.question_type_of(question_type)
    if kind is None and question_type.strip():
        raise UserError(
            f"unknown question_type {question_type!r}: choose {MULTI_CHOICE} or {FREE_FORM}, or"
            " leave it empty for an answer that is a number."
        )
    grader = "" if kind is None else mathverse.grader_of(kind)
    return grade_one(grader, Case(response, as_gold(gold), question, kind or ""), mode)


def grade_one(grader: str, case: Case, mode: str = "strict") -> Grade:
    """Grade one response with the grader that a problem names, without a judge.

    Raises:
        UserError: There is no such grader, or it does not know the mode.
    """
    found = find_grader(grader)
    found.check_mode(mode, f"mode={mode!r}")
    # The pool starts a process only if the rules leave something to it.
    with SymbolicPool(workers=1) as symbolic:
        (result,) = found.grade([case], mode, symbolic)
    return result if isinstance(result, Grade) else unsettled(result)


def opened_by_template(responses: Iterable[Response]) -> bool:
    """Whether the chat template of a run opened the thinking.

    A server does not show the prompt that its chat template makes. There the run's own replies
    decide: most of those that ended by themselves close thinking that they did not open.
    """
    ended = closed = 0
    for row in responses:
        if row.finish_reason == "stop" and row.response:
            ended += 1
            closed += closes_unopened(row.response)
    return 2 * closed > ended


def text_for_rules(
    response: Response, problem: ProblemRow, *, paper_style: bool, by_template: bool
) -> str:
    """The text of a response that the rules read: its thinking is open where it was cut there.

    Args:
        response: The response; its record shows whether the prompt opened the thinking.
        problem: Its problem.
        paper_style: Whether the prompts of the run are the original's.
        by_template: See `opened_by_template`.
    """
    prefill, cut = response.prefill, response.finish_reason == "length"
    if not prefill and paper_style:
        prefill = find_grader(problem.grader).paper_prefill
    opened = (OPEN in prefill and CLOSE not in prefill) or (by_template and cut)
    return graded_text(response.response, cut=cut, opened=opened)
