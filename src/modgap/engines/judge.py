"""Asks a judge: each distinct question once, greedily; every verdict is written as it arrives.

The engine is passed in, and so is the name that identifies the judge; `grading.judge` owns the
prompts and the reading of verdicts. The original asks one prompt after the other; here the engine
gets all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from modgap.core.engine import Engine, Request, Sampling
from modgap.core.rows import Key
from modgap.grading.judge import (
    TEMPERATURE,
    JudgeMode,
    Undecided,
    VerdictFile,
    VerdictRow,
    max_tokens,
    question_id,
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Said:
    """What a judge wrote about one case.

    Attributes:
        text: Its words; `None` if it failed, or was never asked.
        error: Why it failed; empty if it was never asked.
    """

    text: str | None
    error: str = ""


class Answers(Protocol):
    """A source of a judge's words: a `Judge`, or `Recalled` verdicts of an earlier one."""

    name: str

    def answer(
        self,
        cases: Mapping[Key, Undecided],
        mode: JudgeMode,
        file: VerdictFile,
        progress: Progress | None = None,
    ) -> dict[Key, Said]:
        """The judge's words on each case."""
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
        name: What identifies it in the run's files: engine, model and, for a model folder, its
            fingerprint.
        make: Starts the engine, for a mode; only called when there is something to ask.
        tokens: How many tokens it may write; by default what the mode allows. Paper mode ignores
            another number.

    Attributes:
        asked: How many questions were asked so far, those found in the file excluded.
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
        """Ask the questions whose verdicts are not known yet.

        Args:
            cases: What to judge, by the sample that it is about.
            mode: The grading mode.
            file: Where verdicts are kept.
            progress: Called after each verdict.

        Raises:
            UserError: The engine cannot continue; the answers until then are kept.
        """
        tokens = self.tokens(mode)
        questions = {key: question_id(case.prompt(), tokens) for key, case in cases.items()}
        known = {question: Said(text) for question, text in file.said(self.name, mode).items()}
        first: dict[str, Key] = {}
        for key, question in questions.items():
            if question not in known:
                first.setdefault(question, key)
        total = len(set(questions.values()))
        done = total - len(first)
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
                        asked = completion.request
                        key = (asked.problem_id, asked.view, completion.sample)
                        text = completion.text.encode("utf-8", "replace").decode()
                        if completion.finish_reason == "error":
                            known[questions[key]] = Said(
                                None, completion.error or "no reason given"
                            )
                        else:
                            known[questions[key]] = Said(text)
                            write(self._row(mode, questions[key], key, cases[key], text))
                        done += 1
                        self.asked += 1
                        if progress:
                            progress("judging", done, total)
            finally:
                if close := getattr(engine, "close", None):
                    close()
        lost = Said(None, "its engine gave no answer")
        return {key: known.get(question, lost) for key, question in questions.items()}

    def _row(
        self, mode: JudgeMode, question: str, key: Key, case: Undecided, said: str
    ) -> VerdictRow:
        problem_id, view, sample = key
        return VerdictRow(
            judge=self.name,
            mode=mode,
            question=question,
            problem_id=problem_id,
            view=view,
            sample=sample,
            answer=case.answer,
            gold=case.gold,
            said=said,
        )
