"""Grades stored responses as another run would have graded them, one component swapped at a time.

A grader of ours has three components:

* extraction: the last box after the thinking (modes `strict` and `relative`), or the original's
  rule (`paper` and `exact`: the last box anywhere, of MathVerse else the text after the thinking);
* tolerance: the mode's comparison of an answer with the gold;
* judge: whose verdicts settle what rules leave open; without one that is not right.

Another tool's grader is only known by what it left in its log: what it extracted, and its verdict.
It is compared with a grader of ours on its own responses: `extraction` is what changes if ours
reads the answer that the tool extracted (where the log has none: the tool's verdict on responses in
which ours finds no answer), and `judge` the rest, with the tool's tolerance in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from modgap.analysis.explained import GRADING, shapley
from modgap.analysis.resampling import Floats
from modgap.core.problem import split_grader
from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow, Key, ProblemRow, Response
from modgap.grading.answer import extract_answer
from modgap.grading.grade import Grade
from modgap.grading.graders import find_grader, opened_by_template, text_for_rules
from modgap.grading.judge import (
    JudgeMode,
    Undecided,
    VerdictFile,
    parse_verdict,
    question_id,
)
from modgap.grading.mathverse import Case, original_answer
from modgap.grading.paper import extract_boxed_content
from modgap.grading.symbolic import SymbolicPool

LAST_BOX, ORIGINAL = "last box after the thinking", "the original's"
_EXTRACTION: Mapping[str, str] = {
    "strict": LAST_BOX, "relative": LAST_BOX, "paper": ORIGINAL, "exact": ORIGINAL,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class JudgeOf:
    """The judge that settled a run in a mode.

    Attributes:
        name: Empty for none.
        mode: The grading mode.
        tokens: How many tokens it might write.
        said: Question -> what it wrote.
    """

    name: str = ""
    mode: str = ""
    tokens: int = 0
    said: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)


@dataclass(frozen=True, slots=True)
class Grader:
    """How a run's verdicts came about.

    Attributes:
        extraction: How the answer was found.
        tolerance: The mode whose comparison was used; empty for another tool's.
        judge: What settled the rest.
        tool: The other tool; empty for ours.
    """

    extraction: str
    tolerance: str
    judge: JudgeOf
    tool: str = ""

    @classmethod
    def of_run(cls, run: RunFolder, mode: str, *, judged: bool) -> Grader:
        """The grader of a run's last grading.

        Args:
            run: The run.
            mode: Of its grades.
            judged: Whether its problems leave anything to a judge.
        """
        file = VerdictFile(run)
        last = file.last(mode) if judged else None
        judge = JudgeOf()
        if last is not None:
            said = file.said(last["judge"], mode)
            judge = JudgeOf(last["judge"], mode, last["tokens"], said)
        return cls(_EXTRACTION[mode], mode, judge)

    @property
    def words(self) -> str:
        """In words, for the heading."""
        if self.tool:
            return f"by {self.tool}"
        return f"{self.tolerance}{f', judge {self.judge.name}' if self.judge.name else ''}"

    def component(self, name: str) -> object:
        """One component, to be compared with another grader's."""
        return {"extraction": self.extraction, "tolerance": self.tolerance, "judge": self.judge}[
            name
        ]


class Stored:
    """The responses of one run, with what its grader made of them.

    Args:
        responses: The responses.
        grades: The run's own verdicts by key.
        problems: By id.
        grader: The run's own.
        paper_style: Whether its prompts are the original's.
        symbolic: Whether the symbolic stage is run; without it the run's own verdict stays where
            rules decide nothing.
        own: 1 where a response is right by the run's own grader, else 0; by default from `grades`.
        by_template: Whether the run's chat template opened the thinking; by default what these
            responses say, which must then be the run's own, and not a few of them.
    """

    def __init__(
        self,
        responses: Sequence[Response],
        grades: Mapping[Key, GradeRow],
        problems: Mapping[str, ProblemRow],
        grader: Grader,
        *,
        paper_style: bool,
        symbolic: bool = True,
        own: Floats | None = None,
        by_template: bool | None = None,
    ) -> None:
        self.responses, self.grades, self.problems = responses, grades, problems
        self.grader, self._paper_style, self._symbolic = grader, paper_style, symbolic
        if own is None:
            own = np.array([grades[row.key].outcome == "correct" for row in responses], float)
        self.own = own
        self._by_template = opened_by_template(responses) if by_template is None else by_template
        self._known: dict[Grader, Floats] = {}
        self.unswapped = 0

    def grading_parts(self, reference: Grader) -> dict[str, Floats]:
        """What the run's own grader changes against a reference, on these responses.

        Args:
            reference: One of ours.

        Returns:
            Component -> its share for each response; they add up to own minus reference.
        """
        none = np.zeros(len(self.responses))
        if self.grader.tool:
            return {"tolerance": none, **self._of_tool(reference)}
        differ = [
            name for name in GRADING
            if self.grader.component(name) != reference.component(name)
        ]  # fmt: skip

        def value(own: frozenset[str]) -> Floats:
            if own >= set(differ):
                return self.own
            of = {name: self.grader if name in own else reference for name in GRADING}
            mixed = Grader(
                of["extraction"].extraction, of["tolerance"].tolerance, of["judge"].judge
            )
            return self.graded(mixed)

        return dict.fromkeys(GRADING, none) | shapley(differ, value)

    def _of_tool(self, reference: Grader) -> dict[str, Floats]:
        base = self.graded(reference)
        extracted = [self.grades[row.key].answer for row in self.responses]
        texts = [
            f"\\boxed{{{answer}}}" if answer and answer != row.response else None
            for row, answer in zip(self.responses, extracted, strict=True)
        ]
        read = self.graded_texts([text or "" for text in texts], reference)
        found = np.array([row is not None for row in self._answers(reference.extraction)])
        has_text = np.array([text is not None for text in texts])
        # Without the tool's answer: what it says of a response in which ours finds none.
        after = np.where(has_text, read, np.where(found, base, self.own))
        return {"extraction": after - base, "judge": self.own - after}

    def graded(self, grader: Grader) -> Floats:
        """1 where a response is right by a grader of ours, else 0."""
        if grader == self.grader:
            return self.own
        if grader not in self._known:
            self._known[grader] = self.graded_texts(self.texts_for(grader), grader)
        return self._known[grader]

    def graded_cut(self, grader: Grader, limit: int) -> Floats:
        """`graded`, with the longer responses cut at a token limit.

        Characters of a response are taken to be equally long in tokens.
        """
        right = self.graded(grader).copy()
        longer = [n for n, row in enumerate(self.responses) if row.completion_tokens > limit]
        rows: list[Response] = []
        for number in longer:
            row = self.responses[number]
            kept = len(row.response) * limit // row.completion_tokens
            rows.append(
                row.model_copy(
                    update={
                        "response": row.response[:kept],
                        "finish_reason": "length",
                        "completion_tokens": limit,
                    }
                )
            )
        cut = Stored(
            rows, self.grades, self.problems, self.grader, paper_style=self._paper_style,
            by_template=self._by_template,
        )  # fmt: skip
        right[longer] = cut.graded_texts(cut.texts_for(grader), grader)
        return right

    def _answers(self, extraction: str) -> list[str | None]:
        """The answer that a rule finds in each response."""
        if extraction == LAST_BOX:
            return [extract_answer(text) for text in self._texts_for_rules()]
        answers: list[str | None] = []
        for row in self.responses:
            name = split_grader(self.problems[row.problem_id].grader)[0]
            if name:
                answers.append(original_answer(row.response))
            else:
                found = extract_boxed_content(row.response)
                answers.append(None if found == "None" else found)
        return answers

    def _texts_for_rules(self) -> list[str]:
        return [
            text_for_rules(
                row, self.problems[row.problem_id], paper_style=self._paper_style,
                by_template=self._by_template,
            )
            for row in self.responses
        ]  # fmt: skip

    def texts_for(self, grader: Grader) -> list[str]:
        """What the comparison of a mode is to read, its own extraction or another one's answer."""
        if _EXTRACTION[grader.tolerance] == grader.extraction:
            if grader.extraction == ORIGINAL:
                return [row.response for row in self.responses]
            return self._texts_for_rules()
        answers = self._answers(grader.extraction)
        return ["" if answer is None else f"\\boxed{{{answer}}}" for answer in answers]

    def graded_texts(self, texts: Sequence[str], grader: Grader) -> Floats:
        """1 where the text of a response is right by a tolerance and a judge, else 0."""
        right = np.zeros(len(texts))
        by_grader: dict[str, list[int]] = {}
        cases: list[Case] = []
        for number, (row, text) in enumerate(zip(self.responses, texts, strict=True)):
            problem = self.problems[row.problem_id]
            name, kind = split_grader(problem.grader)
            cases.append(Case(text, problem.gold_of(row.view), problem.question_of(row.view), kind))
            by_grader.setdefault(name, []).append(number)
        with SymbolicPool(workers=min(4, os.cpu_count() or 1)) as pool:
            for name, numbers in by_grader.items():
                results = find_grader(name).grade(
                    [cases[number] for number in numbers],
                    grader.tolerance,
                    pool if self._symbolic else None,
                )
                for number, result in zip(numbers, results, strict=True):
                    if isinstance(result, Grade):
                        right[number] = result.correct
                    else:
                        right[number] = self._judged(number, result, grader.judge)
        return right

    def _judged(self, number: int, case: Undecided, judge: JudgeOf) -> bool:
        """What a judge said of a case that rules leave open."""
        if judge.name:
            said = judge.said.get(question_id(case.prompt(), judge.tokens))
            if said is not None:
                return bool(parse_verdict(said, cast("JudgeMode", judge.mode)))
            self.unswapped += 1
        elif self._symbolic:
            return False
        return bool(self.own[number])
