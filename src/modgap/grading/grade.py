"""The verdict on one response, whichever grader gives it."""

from __future__ import annotations

from dataclasses import dataclass

from modgap.core.rows import Outcome


@dataclass(frozen=True, slots=True)
class Grade:
    """The verdict on one response.

    Attributes:
        outcome: `correct`, `wrong`, `no_answer` or `error` (could not be graded).
        answer: The content of the box, None if there is none.
        value: The number it states, None if it states none.
        stage: What decided: `no-box`, `empty`, `length`, `not-a-number`, `strict`, `relative`,
            `grade_answer`, `one-percent`, `undecided`, `gold`.
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
