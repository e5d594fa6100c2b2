"""Runs whose samples are all for a judge."""

from __future__ import annotations

from pathlib import Path

from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow, Response


def many(path: Path, count: int = 60) -> RunFolder:
    """A run whose samples are all for a judge."""
    run = RunFolder(path)
    run.start("eval", {"samples": 1, "views": ["full-text"]})
    run.write_problems(
        ProblemRow(
            id=f"p{n}", answer="a square", question=f"What is {n}?", grader="mathverse:free-form"
        )
        for n in range(count)
    )
    with run.appending() as writer:
        for n in range(count):
            text = f"<think>t</think> \\boxed{{a rhombus of kind {n}}}"
            writer.write(Response(problem_id=f"p{n}", view="full-text", sample=0, prompt="p",
                                  response=text, finish_reason="stop"))  # fmt: skip
    return run
