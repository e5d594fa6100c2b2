"""The same verdicts wherever a grader runs: threads, asyncio, processes (daemons, too) and Ray
workers.
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modgap.grading.answer import grade
from modgap.grading.mathverse import Case, grade_all, grade_by_rule
from modgap.grading.symbolic import SymbolicPool

ANSWERS = [
    "5", "5.004", "2\\sqrt{3}", "(C)", "C: 120°", "120", "none", "(-2, 1]", "y = 2x+3", "2x+3=y",
    "y \\le 2x+3", "577 \\text{ cm}^2", "\\frac{1}{2}", "2 or 5", "5^2", "x=\\pm 3", "9**9**9", "",
    "a rhombus",
]  # fmt: skip
GOLDS = ["5.000", "3.464", "C", "(-2,1]", "y = 2x+3", "577.0 \\mathrm{cm}^2", "0.500", "a square"]
QUESTION = "Choices:\nA:40°\nB:60°\nC:120°\nD:2\\sqrt{3}"


def verdicts(
    answers: list[str] = ANSWERS, golds: list[str] = GOLDS, question: str = QUESTION
) -> list[str]:
    """Every grader on every pair. Uses only its arguments and imports: it can be sent anywhere."""
    found: list[str] = []
    for answer in answers:
        response = f"<think>a</think> \\boxed{{{answer}}}"
        for gold in golds:
            for mode in ("strict", "relative", "exact", "paper"):
                found.append(str(grade(response, gold, mode)))  # type: ignore[arg-type]
            for kind in ("multi-choice", "free-form"):
                for mode in ("strict", "relative", "paper"):
                    found.append(str(grade_by_rule(Case(response, gold, question, kind), mode)))  # type: ignore[arg-type]
    return found


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """Not computed at the import, which every process started here repeats."""
    return verdicts()


def algebra(_: object = None) -> list[str]:
    """The symbolic stage, which starts processes of its own."""
    cases = [
        Case("\\boxed{|x|^2+y^{n+1}}", "y^n y + x^2 + \\emptyset", "", "free-form"),
        Case("\\boxed{x<2}", "x\\ge 2", "", "free-form"),
    ]
    with SymbolicPool(workers=1) as pool:
        return [
            str(grade_all(cases, symbolic=pool)),
            str(pool.same([("\\sqrt{x^2}", "|x|"), ("x", "y")])),
        ]


def test_all_kinds_of_verdicts_are_among_them(expected: list[str]) -> None:
    assert all(
        any(f"outcome='{outcome}'" in text for text in expected)
        for outcome in ("correct", "wrong", "no_answer", "error")
    )
    assert any("Undecided" in text for text in expected)


def test_threads(expected: list[str]) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: verdicts(), range(3))) == [expected] * 3


def test_asyncio(expected: list[str]) -> None:
    async def several() -> list[list[str]]:
        return await asyncio.gather(*(asyncio.to_thread(verdicts) for _ in range(2)))

    assert asyncio.run(several()) == [expected] * 2


needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None,
    reason="math-verify is not installed (pip install 'modgap[mathverse]')",
)


def test_spawned_processes(expected: list[str]) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(verdicts) == expected


@needs_math_verify
def test_the_symbolic_stage_works_in_threads_and_in_daemons() -> None:
    with ThreadPoolExecutor(1) as threads, multiprocessing.get_context("spawn").Pool(1) as daemons:
        in_daemon = daemons.apply_async(algebra)
        in_thread = threads.submit(algebra).result()
        assert in_thread[1] == "[True, False]"
        assert in_daemon.get() == in_thread


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="ray is not installed (pip install 'modgap[ray]')",
)
def test_ray_workers(expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # What Ray reads when it is imported, once for all tests.
    from modgap.engines.ray import _ENVIRONMENT

    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    import ray

    arguments = (ANSWERS, GOLDS, QUESTION)

    def remotely(
        *given: Any,
    ) -> list[str]:  # of this function: sent by value, as what a script defines is
        from modgap.grading.answer import grade
        from modgap.grading.mathverse import Case, grade_by_rule

        answers, golds, question = given
        responses = [
            (f"<think>a</think> \\boxed{{{answer}}}", gold) for answer in answers for gold in golds
        ]
        found: list[str] = []
        for response, gold in responses:
            found += [
                str(grade(response, gold, mode))
                for mode in ("strict", "relative", "exact", "paper")
            ]  # type: ignore[arg-type]
            found += [
                str(grade_by_rule(Case(response, gold, question, kind), mode))  # type: ignore[arg-type]
                for kind in ("multi-choice", "free-form")
                for mode in ("strict", "relative", "paper")
            ]
        return found

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        assert ray.get(ray.remote(remotely).remote(*arguments)) == expected
    finally:
        ray.shutdown()
