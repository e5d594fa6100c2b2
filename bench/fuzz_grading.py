r"""Fuzz the graders with atheris (coverage-guided): no exception, no hang, no float that is not
finite.

pip install atheris && python bench/fuzz_grading.py -max_total_time=120 [any libFuzzer option]

The first two bytes choose grader and mode, the rest is response, gold and question, separated by
NUL.
"""

from __future__ import annotations

import math
import sys
import time

import atheris

with atheris.instrument_imports(include=["modgap"]):
    from modgap.grading import choices, compare, forms, formula, judge, number  # noqa: F401
    from modgap.grading.answer import grade, well_formatted
    from modgap.grading.judge import Undecided, parse_verdict
    from modgap.grading.mathverse import Case, grade_by_rule

MODES = ("strict", "relative", "exact", "paper")
KINDS = ("multi-choice", "free-form")
SLOWEST = [0.0]


def one_input(data: bytes) -> None:
    if len(data) < 2:
        return
    response, gold, question, *_ = (*data[2:].decode("utf-8", "replace").split("\0"), "", "")
    mode = MODES[data[0] % 4]
    start = time.perf_counter()
    for text in (response, f"\\boxed{{{response}}}"):
        result = grade(text, gold, mode) if data[1] % 2 else None
        if result is not None:
            assert result.outcome in ("correct", "wrong", "no_answer", "error")
            assert result.value is None or math.isfinite(result.value)
            well_formatted(text)
        elif mode != "exact":
            verdict = grade_by_rule(
                Case(text, gold, "Choices:\nA:" + question, KINDS[data[1] // 2 % 2]), mode
            )
            assert isinstance(verdict, Undecided) or verdict.outcome in (
                "correct",
                "wrong",
                "no_answer",
                "error",
            )
    assert parse_verdict(response) in (True, False, None)
    seconds = time.perf_counter() - start
    if seconds > SLOWEST[0]:
        SLOWEST[0] = seconds
        print(f"slowest so far: {seconds * 1e3:.2f} ms, {mode}, {data!r}", flush=True)
    assert seconds < 1, "a hang"


def main() -> None:
    grade(r"\boxed{\frac{1}{2}}", "5", "paper")  # mathruler's import is no hang
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
