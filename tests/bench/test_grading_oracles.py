"""The pairs that other graders publish are read from their files, and nothing of those is run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

oracles = pytest.importorskip("grading_oracles", reason="mathruler is not installed")

TESTS = r"""
raise SystemExit("a checkout is never run")

@pytest.mark.parametrize(
    "gold, pred, expected",
    [
        (r"$\frac{1}{2}$", r"Thus $x = 5$, and the answer is \boxed{0.5}.", 1),
        (r"$f(x)$", r"$f(y)$", 0),
        ("$28\\%$", "$28$ percent", 1),
        (r"\boxed{1}, \boxed{2}", r"$1, 2$", 1),
        (r"$(2, 2), (6, 2)$", r"\boxed{(2, 2)} and \boxed{(6, 2)}", 1),
        ("$9$", "Answer \\[ 9 \\]", 1),
        ("2", "a text that has no formula in it", 0),
        (f"${1 + 1}$", "$2$", 1),
    ],
)
def test_pairs(gold, pred, expected): ...

@pytest.mark.parametrize(
    "gold, pred, strict, expected", [("$f(x)$", "$f(y)$", True, 0), ("$f(x)$", "$f(z)$", False, 1)]
)
def test_strict(gold, pred, strict, expected): ...

@pytest.mark.parametrize("word, other", [("a", "b")])
def test_of_something_else(word, other): ...
"""


def test_pairs_of_math_verify(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_all.py").write_text(TESTS, encoding="utf-8")
    pairs = oracles.math_verify_pairs(tmp_path)
    assert [(pair.gold, pair.answer, pair.equal) for pair in pairs] == [
        (r"\frac{1}{2}", "0.5", True),
        ("f(x)", "f(y)", False),
        (r"28\%", "$28$ percent", True),
        ("(2, 2), (6, 2)", "(6, 2)", True),
        ("9", "9", True),
    ]
    assert [oracles.verdict_of(pair) for pair in pairs] == [True, False, True, False, True]


def test_pairs_of_easyr1_are_the_words_that_it_removes(tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "reward_function"
    folder.mkdir(parents=True)
    (folder / "dapo.py").write_text(
        'REMOVED_EXPRESSIONS = ["cm", "meals", r"^\\circ", "\\\\text{}"]\n', encoding="utf-8"
    )
    pairs = oracles.easyr1_pairs(tmp_path)
    assert [(pair.gold, pair.answer, pair.equal) for pair in pairs] == [
        ("12", r"12 \text{ cm}", True),
        ("12", r"12 \text{ meals}", True),
    ]
    assert [oracles.verdict_of(pair) for pair in pairs] == [True, None]


def test_pairs_of_mathruler_are_each_answer_with_its_solution_and_with_others(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data" / "math_splits"
    folder.mkdir(parents=True)
    rows = [
        r'{"answer": "\\frac{1}{2}", "solution": "So \\boxed{\\frac12}."}',
        r'{"answer": "0.5", "solution": "So \\boxed{0.5}."}',
        r'{"answer": "7", "solution": "So \\boxed{7}."}',
    ]
    (folder / "test.jsonl").write_text("\n".join(rows), encoding="utf-8")
    pairs = oracles.mathruler_pairs(tmp_path)
    assert [pair.answer for pair in pairs if pair.equal] == [r"\frac12", "0.5", "7"]
    unequal = {(pair.gold, pair.answer) for pair in pairs if not pair.equal}
    assert ("7", "0.5") in unequal and ("0.5", r"\frac{1}{2}") not in unequal
    assert all(oracles.verdict_of(pair) is pair.equal for pair in pairs)


@pytest.mark.parametrize("name", ["Math-Verify", "MathRuler", "EasyR1"])
def test_a_checkout_of_something_else_is_named(tmp_path: Path, name: str) -> None:
    read = getattr(oracles, f"{name.lower().replace('-', '_')}_pairs")
    with pytest.raises(
        oracles.OracleError,
        match=f"{re.escape(str(tmp_path))} has no .*give a checkout of .*/{name}$",
    ):
        read(tmp_path)
