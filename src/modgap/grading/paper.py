r"""Grade as the original code does: `eval.py` (mode `paper`) and the training reward (`exact`).

`exact` is `grade_answer(extract_boxed_content(response), gold)` of mathruler. `paper` drops `°`
from the box first and also accepts what Python can evaluate to within 1% of the gold: decimals and
`+ - * / ** ( )`, after the original's rewriting of `\sqrt{...}` and of implied products. No
`</think>` rule in either; the text `None` means no box.

The original passes the model's text to `eval` and to sympy's parser (which is `eval`, too). Here
mathruler's own code normalises, splits and compares strings, but the one function in it that calls
sympy is replaced by `_same_value`, and `eval` by a walk over the syntax tree that accepts numbers,
arithmetic, comparisons, `and` and `or` (to Python, `6 or 12` is 6, so the original calls it right
for a gold of 6). So the verdicts are the original's, except:
- *code*: anything else (calls, attributes, `math.pi`, comprehensions, `if`) is not evaluated and
  does not count; the original runs it, at times forever (`9**9**9`, `99999999!`);
- *`^`*: in the original's `eval` it is XOR (`5^2` is 7, so right for a gold of 7); here it is left
  to `grade_answer`;
- *literals*: hexadecimal, octal, binary, imaginary ones and those with `_` (`0x10`, `1_0`) do not
  count;
- *length*: a box of more than `MAX_CHARS` characters is wrong without a comparison, one with
  `MAX_BRACES` braces is not a box;
- *symbols*: sympy simplifies functions and unknowns symbolically. Here two expressions are the same
  if their values agree for two choices of the unknowns (to 1e-14, or to the last bit where the
  answer has a decimal point, like sympy's floats); its functions of two letters (`re(5)`, `ln(x)`)
  are unknown;
- *exceptions*: where mathruler raises, the original's run ends; here the answer is wrong.

A gold that is not a number is an `error`, unless the original calls the answer right (a gold of `x`
and a box of `x`).
"""

from __future__ import annotations

import ast
import logging
import math
import operator
import re
from collections.abc import Callable
from functools import cache
from itertools import islice
from types import FunctionType, SimpleNamespace
from typing import Any, Final, Literal

from modgap.grading.grade import Grade
from modgap.grading.number import parse_number

MAX_CHARS: Final = 1000
MAX_BRACES: Final = 10_000
MAX_DEPTH: Final = 400
MAX_BITS: Final = 4096
ONE_PERCENT: Final = 0.01
SAME: Final = 1e-14

_Number = int | float | complex
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda left, right: left / right,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
# Nothing that quotes, assigns, indexes or escapes; no `5or 6`, where versions of Python differ.
_ARITHMETIC = re.compile(r"[\w.+\-*/%^()<>=!, \t]+")
_OTHER_LITERAL = re.compile(r"[0-9]_|0[xXbBoO]|[0-9.][jJ]|[0-9.](?:and|or|if|in|is|not|else)")
_COMMENT = re.compile(r"#[^\n\r\0]*\Z")
_BOX = "\\boxed{"
_BRACE = re.compile(r"[{}]")


class _NotArithmeticError(ValueError):
    """The text is not plain, small arithmetic; internal."""


def extract_boxed_content(response: str) -> str:
    r"""Mathruler's function of the same name in linear time.

    Returns:
        The content of the last `\boxed{`, up to its brace, or `"None"`.
    """
    start = response.rfind(_BOX)
    if start >= 0:
        start += len(_BOX)
        depth = 1
        for brace in islice(_BRACE.finditer(response, start), MAX_BRACES):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                return response[start : brace.start()].strip()
    return "None"


def grade(response: str, gold: str, mode: Literal["paper", "exact"]) -> Grade:
    """Grade like the original's `eval.py` (`paper`) or like its training reward (`exact`).

    See the module's docstring. Stages: `no-box`, `length`, `grade_answer`, `one-percent`, `gold`.
    """
    content = extract_boxed_content(response)
    answer = content.replace("°", "") if mode == "paper" else content
    if answer == "None":
        return Grade("no_answer", None, None, "no-box")
    if len(answer) > MAX_CHARS:
        return Grade("wrong", answer[:MAX_CHARS], None, "length")
    value = parse_number(answer)
    if grade_answer(answer, gold):
        return Grade("correct", answer, value, "grade_answer")
    if parse_number(gold) is None:
        reason = f"the gold answer {gold[:80]!r} is not a number; correct the data set"
        return Grade("error", answer, value, "gold", reason)
    if mode == "paper" and within_one_percent(answer, gold):
        return Grade("correct", answer, value, "one-percent")
    return Grade("wrong", answer, value, "one-percent" if mode == "paper" else "grade_answer")


# ---- mathruler's grade_answer, without sympy's parser --------------------------------------------
def grade_answer(answer: str, gold: str) -> bool:
    """Mathruler's `grade_answer(answer, gold)` in bounded time and without running anything."""
    try:
        return bool(_safe_grade_answer()(answer, gold))
    # mathruler raises on odd input (an endless float, deep nesting); the original would stop there.
    except Exception:
        return False


@cache
def _safe_grade_answer() -> Callable[[str, str], bool]:
    """Mathruler's own function, with `_same_value` instead of its one function that calls sympy."""
    from mathruler import grader  # pyright: ignore[reportMissingTypeStubs]
    from pylatexenc import latex2text, latexwalker  # pyright: ignore[reportMissingTypeStubs]

    logging.getLogger("pylatexenc").setLevel(logging.ERROR)  # it warns of every malformed answer
    # mathruler makes pylatexenc build its tables again for each string, which takes most of its
    # time; they never change.
    tables, words = (
        latexwalker.get_default_latex_context_db(),
        latex2text.get_default_latex_context_db(),
    )
    converter: Any = latex2text.LatexNodes2Text

    def plain(latex: str) -> str:
        return converter(latex_context=words).latex_to_text(latex, latex_context=tables)

    once = SimpleNamespace(LatexNodes2Text=lambda: SimpleNamespace(latex_to_text=plain))
    names: dict[str, Any] = {
        **vars(grader),
        "are_equal_under_sympy": _same_value,
        "latex2text": once,
    }
    names["_parse_latex"] = FunctionType(grader._parse_latex.__code__, names)  # pyright: ignore[reportPrivateUsage]
    names["_normalize"] = FunctionType(grader._normalize.__code__, names)  # pyright: ignore[reportPrivateUsage]
    return FunctionType(grader.grade_answer.__code__, names)


def _same_value(gold: str, answer: str) -> bool:
    """Whether two strings normalised by mathruler are equal (its `are_equal_under_sympy`)."""
    from mathruler import grader  # pyright: ignore[reportMissingTypeStubs]  # as above

    difference = f"({gold})-({answer})"
    if len(difference) > MAX_CHARS or not grader.should_allow_eval(difference):
        return False
    try:
        pairs = [(_symbolic(gold, shift), _symbolic(answer, shift)) for shift in (0.0, 0.5)]
    except (ArithmeticError, ValueError, RecursionError):
        return False
    same = 0.0 if "." in answer and not grader.count_unknown_letters_in_expr(answer) else SAME
    # Below infinity: 1e400 equals nothing.
    return all(abs(a - b) <= same * max(abs(a), abs(b)) < math.inf for a, b in pairs)


_TOKEN = re.compile(
    r"([0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?)|(sqrt(?=\()|pi|[^\W0-9_])|(\*\*"
    r"|[-+*/^()])"
)


def _symbolic(text: str, shift: float) -> _Number:
    """The value of an expression in sympy's notation, each letter set to a constant.

    The notation has implied products, `sqrt`, `pi` and single letters.
    """
    tokens: list[str] = []
    at, after_operand = 0, False
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _NotArithmeticError
        number, name, sign = match.groups()
        if after_operand and (number or name or sign == "("):
            tokens.append("*")
        if number:
            tokens.append(number if "." in number or "e" in number else str(int(number)))
        elif name == "sqrt":
            tokens.append("math.sqrt")
        elif name:
            tokens.append(repr(math.pi if name == "pi" else 1 + shift + ord(name) % 97 / 36))
        else:
            tokens.append("**" if sign == "^" else sign)
        after_operand = bool(number or (name and name != "sqrt") or sign == ")")
        at = match.end()
    return _evaluate("".join(tokens))


# ---- the original's is_close_enough, without eval ------------------------------------------------
def within_one_percent(answer: str, gold: str) -> bool:
    """The original's `is_close_enough(answer, gold)`, for plain arithmetic after its rewriting."""
    expression = re.sub(r"\\sqrt{([^}]+)}", r"math.sqrt(\1)", answer)
    expression = re.sub(r"(\d)(math\.sqrt)", r"\1*\2", expression)
    expression = re.sub(r"(\d)\s*\(", r"\1*(", expression)
    expression = re.sub(r"\)(\s*\d)", r")*\1", expression)
    expression = re.sub(r"\)(\s*math\.sqrt)", r")*\1", expression)
    expression = _COMMENT.sub("", expression)
    try:
        value, target = _evaluate(expression), float(gold)
        if value == target == 0:
            return True
        return target != 0 and abs(value - target) / abs(target) <= ONE_PERCENT
    except (ArithmeticError, ValueError, TypeError, RecursionError):
        return False


def _evaluate(expression: str) -> _Number:
    """Python's value of an arithmetic expression.

    It may have numbers, `+ - * / // % ** ( )`, `math.sqrt`, comparisons, `and` and `or`.

    Raises:
        ValueError, ArithmeticError: If it is anything else, or too large, or has no value.
    """
    expression = expression.strip(" \t")
    if (
        len(expression) > 10 * MAX_CHARS
        or not _ARITHMETIC.fullmatch(expression)
        or _OTHER_LITERAL.search(expression)
    ):
        raise _NotArithmeticError
    try:
        tree = ast.parse(expression, mode="eval")  # parses, runs nothing
    except (SyntaxError, MemoryError, RecursionError):
        raise _NotArithmeticError from None
    return _walk(tree.body, MAX_DEPTH)


def _walk(node: ast.expr, depth: int) -> _Number:
    if depth == 0:
        raise _NotArithmeticError
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_walk(operand, depth - 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _walk(operand, depth - 1)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_walk(left, depth - 1), _walk(right, depth - 1))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _bounded(_BINARY[type(sign)](_walk(left, depth - 1), _walk(right, depth - 1)))
        case ast.BoolOp(op=junction, values=operands):
            value: _Number = 0
            # As in Python, operands after the deciding one are not evaluated.
            for operand in operands:
                value = _walk(operand, depth - 1)
                if bool(value) == isinstance(junction, ast.Or):
                    break
            return value
        case ast.Compare(left=first, ops=signs, comparators=others) if all(
            type(sign) in _COMPARE for sign in signs
        ):
            left_value, holds = _walk(first, depth - 1), True
            for sign, other in zip(signs, others, strict=True):
                right_value = _walk(other, depth - 1)
                holds = holds and bool(_COMPARE[type(sign)](left_value, right_value))
                left_value = right_value
            return holds
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="math"), attr="sqrt"), args=[argument], keywords=[]
        ):
            radicand = _walk(argument, depth - 1)
            if isinstance(radicand, complex):
                raise _NotArithmeticError
            return math.sqrt(radicand)
        case _:
            raise _NotArithmeticError


def _power(base: _Number, exponent: _Number) -> _Number:
    if (
        isinstance(base, int)
        and isinstance(exponent, int)
        and base.bit_length() * abs(exponent) > MAX_BITS
    ):
        raise _NotArithmeticError  # 9**9**9
    return _bounded(base**exponent)


def _bounded(value: _Number) -> _Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise _NotArithmeticError
    return value
