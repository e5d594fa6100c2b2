"""Asks a judge: each distinct question once, greedily, every verdict kept as it comes.

The engine is passed in, as is what tells this judge from others; words and verdicts are
`grading.judge`'s part. The original asks one prompt after the other; here they are given to the
engine at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from modgap.core.engine import Engine, Request, Sampling
from modgap.core.record import Key
from modgap.grading.judge import TEMPERATURE, JudgeMode, Undecided, max_tokens
from modgap.grading.verdicts import VerdictFile, VerdictRow, question_id

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Said:
    """What a judge wrote to one case.

    Attributes:
        text: Its words; `None` where it failed, or was never asked.
        error: Why it failed; empty where it was never asked.
    """

    text: str | None
    error: str = ""


class Answers(Protocol):
    """What gives a judge's words to cases: a `Judge`, or `Recalled` verdicts of an earlier one."""

    name: str

    def answer(
        self,
        cases: Mapping[Key, Undecided],
        mode: JudgeMode,
        file: VerdictFile,
        progress: Progress | None = None,
    ) -> dict[Key, Said]:
        """The judge's words to each case."""
        ...


class Recalled:
    """The verdicts of a judge that was asked before; nobody is asked.

    Args:
        name: The judge.
        tokens: How many tokens it might write.
    """

    def __init__(self, name: str, tokens: int) -> None:
        self.name = name
        self._tokens = tokens

    def answer(
        self,
        cases: Mapping[Key, Undecided],
        mode: JudgeMode,
        file: VerdictFile,
        progress: Progress | None = None,
    ) -> dict[Key, Said]:
        """What it wrote; `Said(None)` for what it was never asked."""
        known = file.said(self.name, mode)
        return {
            key: Said(known.get(question_id(case.prompt(), self._tokens)))
            for key, case in cases.items()
        }


class Judge:
    """A judge that can be asked.

    Args:
        name: What tells it from others in the run's files: engine, model and, of files, their
            fingerprint.
        make: Starts the engine, for a mode; only called when there is something to ask.
        tokens: How many tokens it may write; what the mode allows if not given. Paper mode takes no
            other number.

    Attributes:
        asked: How many questions were asked since, as opposed to found in the file.
    """

    def __init__(
        self, name: str, make: Callable[[JudgeMode], Engine], tokens: int | None = None
    ) -> None:
        self.name = name
        self.asked = 0
        self._make = make
        self._wanted = tokens

    def tokens(self, mode: JudgeMode) -> int:
        """How many tokens it may write in a mode."""
        return max_tokens(mode) if mode == "paper" or self._wanted is None else self._wanted

    def answer(
        self,
        cases: Mapping[Key, Undecided],
        mode: JudgeMode,
        file: VerdictFile,
        progress: Progress | None = None,
    ) -> dict[Key, Said]:
        """Ask what is not known yet.

        Args:
            cases: What to judge, by the sample that it is about.
            mode: The grading mode.
            file: Where verdicts are kept.
            progress: Told after each verdict.

        Raises:
            UserError: The engine cannot go on; what was answered until then is kept.
        """
        tokens = self.tokens(mode)
        questions = {key: question_id(case.prompt(), tokens) for key, case in cases.items()}
        known = {question: Said(text) for question, text in file.said(self.name, mode).items()}
        first = {
            question: key for key, question in reversed(questions.items()) if question not in known
        }
        first = dict(reversed(first.items()))  # in the order of the cases, for the first of each
        done, total = len(set(questions.values())) - len(first), len(set(questions.values()))
        if progress and total:
            progress("judging", done, total)
        if first:
            requests = [
                Request(key[0], key[1], cases[key].prompt(), None, (key[2],))
                for key in first.values()
            ]
            engine = self._make(mode)
            try:
                with file.appending() as write:
                    for completion in engine.generate(requests, Sampling(TEMPERATURE, tokens)):
                        key = (
                            completion.request.problem_id,
                            completion.request.view,
                            completion.sample,
                        )
                        text = completion.text.encode("utf-8", "replace").decode()
                        if completion.finish_reason == "error":
                            known[questions[key]] = Said(
                                None, completion.error or "no reason given"
                            )
                        else:
                            known[questions[key]] = Said(text)
                            case = cases[key]
                            write(
                                VerdictRow(
                                    judge=self.name, mode=mode, question=questions[key], problem_id=key[0], view=key[1],
                                    sample=key[2], answer=case.answer, gold=case.gold, said=text,
                                )
                            )  # fmt: skip
                        done += 1
                        self.asked += 1
                        if progress:
                            progress("judging", done, total)
            finally:
                if close := getattr(engine, "close", None):
                    close()
        lost = Said(None, "its engine gave no answer")
        return {key: known.get(question, lost) for key, question in questions.items()}
