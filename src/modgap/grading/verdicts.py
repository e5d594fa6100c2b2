"""The verdicts of judges, kept in the run folder: no question is asked twice.

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
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from modgap.core.prompt import Prompt
from modgap.core.record import RunFolder, drop_torn_line, iter_rows, read_json, write_json


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
        with self._rows.open("a", encoding="utf-8") as file:

            def write(row: VerdictRow) -> None:
                file.write(row.model_dump_json() + "\n")
                file.flush()

            yield write

    def last(self, mode: str) -> dict[str, Any] | None:
        """The judge that `remember` recorded for a mode; `None` where no judge was asked."""
        return read_json(self._last).get(mode) if self._last.exists() else None

    def remember(self, mode: str, judge: dict[str, Any]) -> None:
        """Record which judge decides in a mode."""
        known: dict[str, Any] = read_json(self._last) if self._last.exists() else {}
        write_json(self._last, {**known, mode: judge})
