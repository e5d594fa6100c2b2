r"""Public test pairs of other graders, read from checkouts of their repositories, and our verdicts
on them.

Nothing of a checkout is imported or run: the pairs are read from the files' text (Python by `ast`,
rows as JSON).

| checkout | what it has |
| --- | --- |
| huggingface/Math-Verify | `tests/*.py`: the parameters `gold`, `pred`, `expected` of its tests |
| hiyouga/MathRuler | no test pairs; `data/math_splits/test.jsonl`: the 500 answers of MATH-500, each with the box of its own solution (equal) and with the answers of other problems (unequal unless mathruler finds them the same) |
| hiyouga/EasyR1 | no test pairs; `examples/reward_function/dapo.py`: the words that its normalization removes, so that `12 WORD` is 12 |

A pair fits if each side comes down to one short expression: the content of its last box (of a gold,
of its only one), else its last formula, else the whole text, if that is short. The others test how
an answer is found in prose.
"""  # noqa: E501 - a table

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mathruler.grader import grade_answer

from modgap.grading.answer import extract_answer
from modgap.grading.judge import Undecided
from modgap.grading.mathverse import Case, grade_by_rule

MAX_CHARS = 200
OTHERS = 20
"""With the answers of how many other problems each answer of MATH-500 is compared."""

_FORMULA = re.compile(
    r"\$\$((?s:.+?))\$\$|\\\[((?s:.+?))\\\]|\\\((.+?)\\\)|(?<!\\)\$(.+?)(?<!\\)\$"
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z']{2,}")


@dataclass(frozen=True, slots=True)
class OraclePair:
    """A gold, an answer, and whether the other grader's authors call them the same."""

    gold: str
    answer: str
    equal: bool


class OracleError(Exception):
    """A checkout does not have what is read from it."""


def math_verify_pairs(checkout: Path) -> list[OraclePair]:
    """The pairs of Math-Verify's tests that fit, each once."""
    files = sorted(checkout.glob("tests/test_*.py"))
    if not files:
        raise OracleError(
            f"{checkout} has no tests/test_*.py: give a checkout of huggingface/Math-Verify"
        )
    found: dict[OraclePair, None] = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for gold, answer, equal in _parameters(node):
                gold_text = _expression(gold, several_boxes=False)
                answer_text = _expression(answer, several_boxes=True)
                if gold_text and answer_text:
                    found[OraclePair(gold_text, answer_text, equal)] = None
    return list(found)


def mathruler_pairs(checkout: Path) -> list[OraclePair]:
    """Each answer of MATH-500 with its own solution's box and with other problems' answers."""
    file = checkout / "data/math_splits/test.jsonl"
    if not file.is_file():
        raise OracleError(
            f"{checkout} has no data/math_splits/test.jsonl: give a checkout of hiyouga/MathRuler"
        )
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [
        OraclePair(row["answer"], box, True)
        for row in rows
        if (box := extract_answer(row["solution"]))
    ]
    golds = list(dict.fromkeys(row["answer"] for row in rows))
    for at, gold in enumerate(golds):
        others = [golds[(at + step) % len(golds)] for step in range(1, OTHERS + 1)]
        pairs += [
            OraclePair(gold, other, False) for other in others if not grade_answer(other, gold)
        ]
    return pairs


def easyr1_pairs(checkout: Path) -> list[OraclePair]:
    """`12 WORD` and 12, for each word that EasyR1's DAPO reward removes."""
    file = checkout / "examples/reward_function/dapo.py"
    if not file.is_file():
        raise OracleError(
            f"{checkout} has no examples/reward_function/dapo.py: give a checkout of hiyouga/EasyR1"
        )
    removed: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and any(
            ast.unparse(name) == "REMOVED_EXPRESSIONS" for name in node.targets
        ):
            removed = ast.literal_eval(node.value)
    words = [word for word in removed if word.isalpha()]
    if not words:
        raise OracleError(f"{file} has no REMOVED_EXPRESSIONS with words in it")
    return [OraclePair("12", f"12 \\text{{ {word}}}", True) for word in words]


def _parameters(node: ast.AST) -> Iterator[tuple[str, str, bool]]:
    """Gold, answer and label of each row of a `parametrize(...)` that is a literal."""
    if not (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "pytest.mark.parametrize"
        and len(node.args) == 2
    ):
        return
    try:
        names = [name.strip() for name in ast.literal_eval(node.args[0]).split(",")]
    except (ValueError, AttributeError):
        return
    label = next((names.index(name) for name in ("expected", "result") if name in names), -1)
    if not {"gold", "pred"} <= set(names) or label < 0 or not isinstance(node.args[1], ast.List):
        return
    for row in node.args[1].elts:
        try:
            values = ast.literal_eval(row)
        except ValueError:
            continue
        if "strict" in names and not values[names.index("strict")]:
            continue  # its loose mode, in which `f(x)` is `f(y)`
        yield values[names.index("gold")], values[names.index("pred")], bool(values[label])


def _expression(text: str, several_boxes: bool) -> str:
    """The one expression that a text comes down to; empty if there is none."""
    boxes = text.count("boxed{")
    if boxes:
        found = (extract_answer(text) or "") if boxes == 1 or several_boxes else ""
    else:
        formulas = list(_FORMULA.finditer(text.strip()))
        if (
            formulas
            and formulas[0].start() == 0
            and len(formulas) + len(_WORD.findall(_FORMULA.sub(" ", text))) > 1
        ):
            found = text  # `$28$ percent`, `$1$ and $2$`
        elif formulas:
            found = next(part for part in formulas[-1].groups() if part)
        else:
            found = text if len(_WORD.findall(text)) < 3 else ""
    found = found.strip()
    return found if len(found) <= MAX_CHARS else ""


def verdict_of(pair: OraclePair) -> bool | None:
    """Our rules' verdict, None where it is left to a judge."""
    result = grade_by_rule(Case(f"\\boxed{{{pair.answer}}}", pair.gold, "", "free-form"))
    return None if isinstance(result, Undecided) or result.outcome == "error" else result.correct


def print_oracle(name: str, pairs: Sequence[OraclePair]) -> None:
    """One row of the table."""
    counts = Counter((pair.equal, verdict_of(pair)) for pair in pairs)
    equal, unequal = (
        sum(n for (label, _), n in counts.items() if label is side) for side in (True, False)
    )
    print(
        f"| {name} | {equal} | {counts[True, True]} | {counts[True, None]} | {counts[True, False]} "
        f"| {unequal} | {counts[False, True]} | {counts[False, None]} |"
    )


def print_disagreements(name: str, pairs: Sequence[OraclePair]) -> None:
    """Each equal pair that is not accepted, each unequal one that is."""
    print(f"{name}:\n")
    for pair in pairs:
        verdict = verdict_of(pair)
        if verdict is not pair.equal and (pair.equal or verdict):
            kind = "false positive" if verdict else "open" if verdict is None else "rejected"
            print(f"- {kind}: answer {pair.answer!r} for gold {pair.gold!r}")
    print()
