"""The judge's part of grading: what it is asked, how its verdict is read, and the file of verdicts.

The engine is passed in. The prompt is `core.prompt.judge_prompt`. A verdict that says neither 0 nor
1, says both, or never arrived is an `error` with its text as the reason; it is not `wrong`.

Paper mode keeps the original's rules: the judge sees the last 10 characters of the answer and may
write 2 tokens, the first 0 or 1 in them counts, and anything else, also a failure, is 0. The
original sends the prompt as a raw completion, without a chat template. A judge that is asked
through a chat template must not think, or needs enough tokens for it: what follows `</think>` is
read.

Verdicts are kept in the run folder, so that no question is asked twice:

```
judge.jsonl   one line a question, flushed as it is answered
judge.json    per grading mode, the judge that was asked last: a grading without a judge uses its
              verdicts
```

Two samples with the same answer to the same question are one question. A question that failed is
not kept, so that it is asked again. One whose verdict cannot be read is kept, since at temperature
0 the judge would say the same again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypedDict

from pydantic import BaseModel, ConfigDict

from modgap.core.disk import writing
from modgap.core.errors import UserError
from modgap.core.files import open_own
from modgap.core.json_files import read_json, write_json
from modgap.core.prompt import Prompt, judge_prompt
from modgap.core.record import RunFolder
from modgap.core.rows import drop_torn_line, iter_rows, line_of
from modgap.grading.grade import Grade

JudgeMode = Literal["strict", "relative", "paper"]
Ask = Callable[[Sequence[Prompt]], Iterable[str | None]]
"""Asks a judge all prompts (batched, temperature 0); gives each reply, None for a failure."""

TEMPERATURE: Final = 0.0
PAPER_MAX_TOKENS: Final = 2
MAX_TOKENS: Final = 16

_OPEN: Final = "rules cannot compare"
_NEXT_SHOT = re.compile(r"\[(?:Question|Standard Answer|Model_answer)\]")
_SAID = re.compile(r"jud(?:ge?|e)?ment\W*(?:is\W*)?([01])(?![0-9.]*[0-9])", re.IGNORECASE)
_BARE = re.compile(r"[\s*_`#>:({\[\\$\"']*(?:boxed\{|text\{)*([01])(?![0-9.]*[0-9]|[A-Za-z])")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?[A-Za-z]*")


@dataclass(frozen=True, slots=True)
class Undecided:
    """What the rules could not decide and leave to a judge.

    Attributes:
        answer: The model's answer.
        gold: The gold answer.
        question: The question with its choices.
        mode: The grading mode.
        symbolic: Whether a symbolic comparison makes sense: a free-form answer that is not prose.
        note: Why the symbolic stage did not compare it, where it should have.
    """

    answer: str
    gold: str
    question: str
    mode: JudgeMode
    symbolic: bool = False
    note: str = ""

    def prompt(self) -> Prompt:
        """What the judge is asked."""
        return judge_prompt(
            self.question, self.gold, self.answer, "paper" if self.mode == "paper" else "aligned"
        )


def max_tokens(mode: JudgeMode) -> int:
    """How many tokens the judge may write."""
    return PAPER_MAX_TOKENS if mode == "paper" else MAX_TOKENS


def parse_verdict(text: str, mode: JudgeMode = "strict") -> bool | None:
    """What a judge said: True consistent, False not, None unreadable.

    Args:
        text: Everything it wrote.
        mode: `paper`: the first 0 or 1 anywhere. Else a bare `1`, `**1**`, `1. They are the same`,
            `Judgement: 1`, or the only number of the first line; `10`, `0 or 1` and prose are
            unreadable. What follows the first line that says anything, the next shot that a base
            model invents, does not count.
    """
    if mode == "paper":
        found = re.search(r"[01]", text.strip())
        return found[0] == "1" if found else None
    if "<think>" in text and "</think>" not in text:
        return None  # cut off while thinking
    text = _NEXT_SHOT.split(text.rpartition("</think>")[2], maxsplit=1)[0].strip()
    if said := set(_SAID.findall(text)):
        return said == {"1"} if len(said) == 1 else None
    line = text.splitlines()[0] if text else ""
    numbers = set(_NUMBER.findall(line))
    if {"0", "1"} <= numbers:
        return None
    if bare := _BARE.match(line):
        return bare[1] == "1"
    return numbers == {"1"} if numbers in ({"0"}, {"1"}) else None


def settle(case: Undecided, said: str | None, error: str = "") -> Grade:
    """The grade that a judge's words give.

    Args:
        case: What it was asked.
        said: What it wrote; None if it failed.
        error: Why it failed.
    """
    verdict = None if said is None else parse_verdict(said, case.mode)
    if verdict is None and case.mode != "paper":
        failed = f"the judge failed{f': {error}' if error else ''}"
        reason = failed if said is None else f"the judge's verdict {said[:80]!r} is neither 0 nor 1"
        return Grade("error", case.answer, None, "judge", reason)
    return Grade("correct" if verdict else "wrong", case.answer, None, "judge")


def unsettled(case: Undecided) -> Grade:
    """The grade of a case for which there is no judge."""
    reason = f"{_OPEN} {case.answer[:60]!r} with the gold {case.gold[:60]!r}; give a judge"
    return Grade(
        "error", case.answer, None, "judge", f"{reason}{f' ({case.note})' if case.note else ''}"
    )


def is_open(stage: str, reason: str) -> bool:
    """Whether a grade of this stage and reason waits for a judge, see `unsettled`."""
    return stage == "judge" and reason.startswith(_OPEN)


class VerdictRow(BaseModel):
    """One line of judge.jsonl.

    Attributes:
        judge: Who was asked: engine, model and what distinguishes it from others of that name.
        mode: The grading mode.
        question: Digest of the prompt and of how many tokens the judge may write.
        problem_id: The problem of the sample that the question was asked for; others may share it.
        view: Its view.
        sample: Its number.
        answer: The answer that the judge had to compare.
        gold: The gold answer to compare it with.
        said: What it wrote.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    judge: str
    mode: str
    question: str
    problem_id: str
    view: str
    sample: int
    answer: str
    gold: str
    said: str


def question_id(prompt: Prompt, max_tokens: int) -> str:
    """32 hex digits that name a question to a judge."""
    return hashlib.sha256(f"{max_tokens}\x1f{prompt.text}".encode("utf-8", "replace")).hexdigest()[
        :32
    ]


class LastJudge(TypedDict):
    """What `judge.json` says of a mode.

    Attributes:
        judge: The judge that decides.
        tokens: How many tokens it might write.
        check: How many answers that the rules decided it was asked about as well.
        seed: Of their choice.
    """

    judge: str
    tokens: int
    check: int
    seed: int


class VerdictFile:
    """The verdicts of a run; the caller holds its lock.

    Args:
        run: The run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._rows = run.path / "judge.jsonl"
        self._last = run.path / "judge.json"

    @property
    def path(self) -> Path:
        """Where the verdicts are."""
        return self._rows

    def said(self, judge: str, mode: str) -> dict[str, str]:
        """Question -> what this judge wrote, in this mode."""
        rows = iter_rows(self._rows, VerdictRow)
        return {row.question: row.said for row in rows if (row.judge, row.mode) == (judge, mode)}

    @contextlib.contextmanager
    def appending(self) -> Generator[Callable[[VerdictRow], None]]:
        """Append verdicts, each flushed as it is written; an incomplete last line is dropped."""
        drop_torn_line(self._rows)
        # Closing writes what could not be flushed: it fails once more on a full disk.
        with writing(self._rows), open_own(self._rows, os.O_APPEND) as file:

            def write(row: VerdictRow) -> None:
                file.write(line_of(row).encode())
                file.flush()

            yield write

    def last(self, mode: str) -> LastJudge | None:
        """The judge that `remember` recorded for a mode; `None` where no judge was asked."""
        return self._all().get(mode)

    def remember(self, mode: str, judge: LastJudge) -> None:
        """Record which judge decides in a mode."""
        write_json(self._last, {**self._all(), mode: judge})

    def _all(self) -> dict[str, LastJudge]:
        """Mode -> judge."""
        if not self._last.exists():
            return {}
        known = read_json(self._last, "remove it, and grade again with --judge-model")
        for mode, judge in known.items():
            if not isinstance(judge, dict) or not isinstance(judge.get("judge"), str):
                raise UserError(
                    f"{self._last} is damaged ({mode} is not a judge): remove it, and grade again"
                    " with --judge-model."
                )
        return known
