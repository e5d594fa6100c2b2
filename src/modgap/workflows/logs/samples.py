"""What a reader of another tool's log finds: samples, each with that tool's verdict.

A reader never guesses. A response that the file does not hold as the model wrote it has a `fault`,
and a verdict that the file cannot tell from a failure is `error`; both say why, in words that are
the same for every sample of that kind, since the import counts them by these words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modgap.core.rows import Outcome

PARTIAL = "is between right and wrong"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a tool says of one response.

    Attributes:
        outcome: `correct`, `wrong`, or `error` where the file does not say; `None` where the tool
            gave no verdict.
        answer: The answer that it extracted; `None` where the file has none.
        reason: For `error`: what is wrong with the verdict.
        by: What decided, as far as the file says: `judge`, `equal-text`.
    """

    outcome: Outcome | None = None
    answer: str | None = None
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One response in a log.

    Attributes:
        where: The file and the row, for messages.
        about: What the log says of the problem, by MathVerse's keys: `sample_index`,
            `problem_index`, `problem_version`, `question`, `question_for_eval`, `answer`,
            `question_type`, `metadata`.
        task: The tool's task or data set, which may name a version.
        position: The row in the tool's data, from 0; -1 where the log does not say.
        number: Which sample of its prompt it is, from 0.
        response: All that the model wrote, as far as the file holds it.
        prompt: What the model was asked; `None` where the file does not hold it.
        prefill: How the assistant's turn was opened.
        finish_reason: How the response ended, as far as the file says.
        prompt_tokens: As the tool counted them; 0 where it did not.
        completion_tokens: As the tool counted them; 0 where it did not.
        fault: Why the response is not there as the model wrote it; it is then an `error`.
        verdict: The tool's.
    """

    where: str
    about: Mapping[str, Any]
    task: str
    number: int
    response: str
    verdict: Verdict
    prompt: str | None = None
    position: int = -1
    prefill: str = ""
    finish_reason: Literal["stop", "length"] = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: str = ""


@dataclass(slots=True)
class Log:
    """What a tool's files hold of one model's answers.

    Attributes:
        tool: `lmms-eval`, `vlmevalkit` or `inspect`.
        files: The files that were read.
        model: The model's name.
        samples: The samples, in the order of the files.
        scorer: What gave the verdicts.
        settings: What the files say of the sampling; a name is absent where they do not say.
        digest: Of the files' content.
        remarks: What these files hide of the run as a whole, each in a sentence.
        odd: What else is odd -> the rows.
    """

    tool: str
    files: Sequence[Path]
    model: str
    samples: list[Sample] = field(default_factory=list[Sample])
    scorer: str = ""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    digest: str = ""
    remarks: list[str] = field(default_factory=list[str])
    odd: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


def text_of(value: Any) -> str:
    """A cell or field as text; empty where there is nothing.

    Whole numbers have no decimal point: pandas makes `3` of a column with a gap `3.0`.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def outcome_of(value: Any) -> tuple[Outcome | None, str]:
    """A score as an outcome, and what is wrong with it where it is none.

    Args:
        value: A number from 0 to 1, a truth value, or `None`.
    """
    if value is None:
        return None, ""
    if isinstance(value, bool):
        return ("correct" if value else "wrong"), ""
    if not isinstance(value, int | float) or math.isnan(value):
        return "error", "is not a number"
    if value in (0, 1):
        return ("correct" if value else "wrong"), ""
    return "error", PARTIAL
