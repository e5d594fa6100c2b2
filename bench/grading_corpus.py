r"""Did a change of the graders change a verdict? 50,000 generated answers, graded by every grader
and mode.

python bench/grading_corpus.py write FILE [--count N] [--seed S]
    generate, grade, write JSON lines (FILE.gz: packed)
python bench/grading_corpus.py compare FILE [--examples N]
    grade again, print each change, exit 1 if any

Each answer is made from its gold answer, so that for most of them the right verdict is known: the
same value in another notation is `right`, another value is `wrong`, a box in unfinished thinking is
`no_answer`, a decimal comma is `undecided`. Answers that were mutated at random, and notations that
readers differ on, have no label. `compare` marks the changes that move away from the label with
`WORSE`. The symbolic stage of MathVerse is left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from modgap.grading.answer import grade, reward
from modgap.grading.judge import Undecided
from modgap.grading.mathverse import Case, grade_by_rule
from modgap.rewards import compute_score

Verdict = tuple[str, str]
"""Outcome and stage."""

RIGHT, WRONG, NO_ANSWER, UNDECIDED, UNKNOWN = "right", "wrong", "no_answer", "undecided", ""
OUTCOME_OF = {RIGHT: "correct", WRONG: "wrong", NO_ANSWER: "no_answer", UNDECIDED: "undecided"}


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        kind: How it was made.
        response: All that the model is said to have written.
        gold: The gold answer.
        question: The question of MathVerse with its choices, else empty.
        question_type: `multi-choice` or `free-form`.
        strict: The right verdict within 5e-3, empty where it is not known.
        relative: The same within 1%.
    """

    kind: str
    response: str
    gold: str
    question: str = ""
    question_type: str = "free-form"
    strict: str = UNKNOWN
    relative: str = UNKNOWN


# ---- values and their notations ------------------------------------------------------------------
@dataclass(frozen=True)
class Value:
    """A number and notations of it that need no rounding beyond 5e-4."""

    number: float
    notations: tuple[str, ...]


def integer(rng: random.Random) -> Value:
    n = rng.choice(
        [rng.randint(1, 180), rng.randint(1, 30), rng.randint(200, 3000), -rng.randint(1, 90)]
    )
    sign, size = ("-", -n) if n < 0 else ("", n)
    part, k = rng.randint(1, 90), rng.randint(2, 9)
    notations = [
        f"{n}", f"{n}.0", f"{n}.000", f"{n + part} - {part}", f"{n - part} + {part}",
        rf"{sign}\frac{{{size * k}}}{{{k}}}", rf"{sign}\sqrt{{{size * size}}}",
        rf"{n * k} \div {k}", f"{n * k}/{k}", rf"{n} \times 1", f"{n}.",
        rf"{sign}{{{size * k} \over {k}}}", rf"{sign}\nicefrac{{{size * k}}}{{{k}}}", rf"{n}{{.}}0",
        rf"{n}.00\ldots", rf"{n - part} + {part} = {n}", rf"{sign}\frac{{{size * k}}}{{{k}}} = {n}",
    ]  # fmt: skip
    if n > 0:
        notations += [rf"|-{n}|", rf"\left|{-n}\right|", rf"\lvert -{n} \rvert", rf"+{n}", f"0{n}"]
    if size >= 1000:
        thousands, rest = divmod(size, 1000)
        separators = [",", "{,}", r"\,", r",\!", r",\! ", " "]
        notations += [f"{sign}{thousands}{separator}{rest:03d}" for separator in separators]
        notations += [f"{sign}{thousands},{rest:03d}.0"]
    return Value(n, tuple(notations))


def decimal(rng: random.Random) -> Value:
    number = round(
        rng.choice([rng.uniform(0.1, 20), rng.uniform(1, 200), -rng.uniform(1, 50)]),
        rng.choice([1, 2, 3]),
    )
    notations = [
        f"{number}", f"{number:.3f}", rf"\approx {number:.3f}", rf"{number:.3f}\ldots",
        f"{number:.3f}...", rf"{number * 10:.2f} \times 10^{{-1}}", f"{number / 10:.4f}e1",
        f"{number * 2:.3f}/2", f"{number:.3f}…",
    ]  # fmt: skip
    return Value(number, tuple(notations))


def fraction(rng: random.Random) -> Value:
    bottom = rng.randint(2, 9)
    whole, top = rng.randint(1, 12), rng.randint(1, bottom - 1)
    over = whole * bottom + top
    number = over / bottom
    plain = [
        rf"\{name}{{{over}}}{{{bottom}}}"
        for name in ("frac", "dfrac", "tfrac", "cfrac", "nicefrac", "sfrac")
    ]
    mixed = [
        rf"{whole}\frac{{{top}}}{{{bottom}}}", rf"{whole} {top}/{bottom}",
        rf"{whole}{{\frac{{{top}}}{{{bottom}}}}}", rf"{whole} + \frac{{{top}}}{{{bottom}}}",
        rf"{whole}\,\tfrac{{{top}}}{{{bottom}}}",
    ]  # fmt: skip
    others = [
        f"{over}/{bottom}", rf"{{{over} \over {bottom}}}", rf"{over}\over{bottom}",
        rf"\frac{over if over < 10 else '{' + str(over) + '}'}{bottom}",
        rf"\frac{{{over}}}{{{bottom}}} \approx {number:.2f}", f"{number:.3f}", f"{number:.4f}",
        rf"{over} \cdot {bottom}^{{-1}}", rf"\left(\frac{{{over}}}{{{bottom}}}\right)",
    ]  # fmt: skip
    return Value(number, (*plain, *mixed, *others))


def root(rng: random.Random) -> Value:
    factor, radicand = rng.randint(2, 15), rng.choice([2, 3, 5, 6, 7, 10, 11, 13])
    number = factor * math.sqrt(radicand)
    notations = [
        rf"{factor}\sqrt{{{radicand}}}", rf"{factor} \sqrt {{{radicand}}}",
        rf"\sqrt{{{factor * factor * radicand}}}", rf"{factor}√{radicand}",
        f"{factor}*sqrt({radicand})", rf"{factor}\cdot {radicand}^{{1/2}}", f"{number:.3f}",
        rf"{factor}\sqrt{{{radicand}}} \approx {number:.2f}",
        rf"\frac{{{factor * radicand}}}{{\sqrt{{{radicand}}}}}",
        rf"\sqrt{{{factor * factor * radicand}}} = {factor}\sqrt{{{radicand}}}",
        rf"{factor}{{\sqrt{{{radicand}}}}}",
    ]  # fmt: skip
    if radicand < 10:
        notations.append(rf"{factor}\sqrt{radicand}")
    return Value(number, tuple(notations))


def circle(rng: random.Random) -> Value:
    factor = rng.randint(2, 60)
    number = factor * math.pi
    notations = [
        rf"{factor}\pi", f"{factor}π", rf"{factor} \cdot \pi", rf"\pi \cdot {factor}",
        rf"{factor}\pi \approx {number:.2f}", rf"\frac{{{2 * factor}\pi}}{{2}}", f"{factor}*pi",
        f"{number:.3f}", f"{number:.4f}",
    ]  # fmt: skip
    return Value(number, tuple(notations))


def trigonometry(rng: random.Random) -> Value:
    name = rng.choice(["sin", "cos", "tan"])
    degrees, factor = rng.randint(5, 85), rng.randint(2, 30)
    size = getattr(math, name)(math.radians(degrees))
    if rng.random() < 0.3:
        number = degrees
        sine = f"{size:.6f}"
        inverse = rng.choice([rf"\{name}^{{-1}}", rf"\arc{name}", f"arc{name}", f"{name}^{{-1}}"])
        notations = [
            rf"{inverse}({sine}) = {degrees}^\circ",
            rf"{inverse}\left({sine}\right) \approx {degrees}.0°",
        ]
        return Value(number, tuple(notations))
    number = factor * size
    angles = [
        rf"({degrees}^\circ)",
        rf" {degrees}^\circ",
        rf" {degrees}^{{\circ}}",
        rf"\left({degrees}^\circ\right)",
        f"{{{degrees}°}}",
    ]
    notations = [rf"{factor}\{name}{angle}" for angle in angles]
    notations += [rf"{factor} \cdot \{name}{angle} \approx {number:.2f}" for angle in angles]
    notations += [
        rf"{factor}\operatorname{{{name}}} {degrees}^\circ",
        rf"\frac{{{factor * 2}\{name} {degrees}^\circ}}{{2}}",
    ]
    return Value(number, tuple(notations))


VALUES: tuple[Callable[[random.Random], Value], ...] = (
    integer,
    integer,
    decimal,
    fraction,
    root,
    circle,
    trigonometry,
)


# ---- what stands around a value; {} is the value -------------------------------------------------
BARE = (
    "{}",
    "{}",
    " {} ",
    "${}$",
    "\\({}\\)",
    "({})",
    "{{{}}}",
    "{}.",
    "\\displaystyle {}",
    "\\;{}\\,",
)
LABELS = (
    "x = {}", "AB = {}", "x={}", "r \\approx {}", "\\theta = {}", "m\\angle ABC = {}",
    "\\overline{{AB}} = {}", "∠A = {}", "x_1 = {}", "\\text{{x = }} {}", "\\text{{Answer: }} {}",
    "\\text{{Area}} = {}", "\\text{{Area}} : {}", "\\mathrm{{AB}} = {}", "\\text{{Area = }} {}",
    "\\textbf{{x = }}{}", "\\text{{The answer is }} {}", "\\text{{Length of }} AB = {}",
    "\\mathbf{{x}} = {}", "x \\text{{ is }} {}", "A'B' = {}", "\\triangle ABC = {}", "{} = x",
    "\\therefore x = {}",
)  # fmt: skip
DRESS = (
    "\\textcolor{{blue}}{{{}}}", "\\color{{red}}{}", "{{\\color{{red}} {}}}",
    "\\color{{red}}{{{}}}", "\\bf {}", "\\Large {}", "{{\\bf {}}}", "\\mathbf{{{}}}", "\\{{{}\\}}",
    "\\left\\{{{}\\right\\}}", "\\begin{{aligned}} x &= {} \\end{{aligned}}",
    "\\begin{{align*}}{}\\end{{align*}}", "\\begin{{array}}{{c}} {} \\end{{array}}", "**{}**",
    "*{}*", "\\phantom{{0}}{}", "\\hspace{{2mm}}{}", "\\mathop{{{}}}", "\\underline{{{}}}",
    "\\boldsymbol{{{}}}", "\\text{{{}}}", "\\mathrm{{{}}}", "\\boxed{{{}}}", "\\large{{{}}}",
    "\\colorbox{{yellow}}{{{}}}", "\\ensuremath{{{}}}", "\\textbf{{{}}}", "`{}`",
)  # fmt: skip
UNITS = (
    "{}^\\circ", "{}^{{\\circ}}", "{}°", "{}\\degree", "{}\\textdegree", "{} degrees", "{} cm",
    "{}\\text{{ cm}}", "{} \\text{{ cm}}^2", "{}\\,\\mathrm{{cm}}^{{2}}", "{} cm²",
    "{} \\text{{ cms}}", "{} \\text{{ kms}}", "{} m", "{} units", "{} sq. cm", "{} square units",
    "{} units^2", "{} unit squared", "{}度", "{}厘米", "{}平方厘米", "{} 平方米", "{}立方厘米",
    "{}米", "{}千米", "{}毫米", "{}㎝", "{}㎠", "{}㎡", "{}''", "{}'", '{}"', "{}^{{\\prime}}",
    "{} (cm)", "{} [cm]", "{}。", "{} inches", "{} in.", "{} \\text{{ feet}}",
    "{}\\text{{ sq. units}}", "{}\\ \\text{{m}}^2", "{} \\text{{ square meters}}",
    "{}~\\text{{km}}", "{}%",
)  # fmt: skip
DENIED = (
    "x \\not= {}", "x \\ne {}", "x \\neq {}", "x ≠ {}", "x \\not\\approx {}", "x != {}",
    "\\text{{not }} {}", "not {}", "\\neq {}", "x ≉ {}", "x \\text{{ is not }} {}", "\\lnot {}",
    "x <> {}", "\\not={}", "x \\not \\approx {}", "x \\not\\equiv {}", "x \\not\\cong {}", "≠{}",
)  # fmt: skip
SPOILT = (
    "{0}, {1}", "{0} \\text{{ or }} {1}", "{0} or {1}", "{1} or {0}", "{0} and {1}", "\\pm {0}",
    "{0} \\pm 1", "x > {0}", "x \\ge {0}", "({0}, {1})", "[{0}, {1}]", "\\{{{0}, {1}\\}}",
    "{0} = {1}", "{1} = {0}", "{0} \\approx {1}", "{0} {1}", "{0}x", "x^2 = {0}", "2x = {0}",
    "{0} \\text{{ to }} {1}", "{0} < {1}", "{0} \\\\ {1}",
    "\\begin{{aligned}} x &= {0} \\\\ y &= {1} \\end{{aligned}}", "{0} apples", "{0}?",
    "x = {0}, y = {1}", "-x = {0}", "{0}!", "\\text{{between }} {0} \\text{{ and }} {1}", "{0}:1",
    "{0} \\ne {1}",
)  # fmt: skip
PROSE = (
    "\\text{{It is }} {}", "\\text{{about }} {}", "{} \\text{{ approximately}}",
    "\\text{{The length is }} {} \\text{{ cm}}", "Answer: {}", "The answer is {}", "{} (approx.)",
    "\\text{{cannot be determined}}", "none", "\\text{{Final answer: }} {}", "So {}", "~{}",
    "ca. {}",
)  # fmt: skip


# ---- what stands around the box; {} is the box's content -----------------------------------------
THOUGHT = (
    "<think>Maybe \\boxed{{123456}}, no.</think>So \\boxed{{{}}}.", "<think>r</think>\\boxed{{{}}}",
    "\\boxed{{{}}}", "The answer is $\\boxed{{{}}}$.", "<think>a</think>\\fbox{{{}}}",
    "r</think>\n\\boxed{{{}}}", "<think>a</think><think>b</think>\\boxed{{{}}}",
    "\\boxed{{9876}} no: \\boxed {{{}}}", "<think>a<think>b</think></think>\\boxed{{{}}}",
    "\\boxed{{{}}}<think>hm, 3?", "<THINK>a</THINK>\\boxed{{{}}}",
)  # fmt: skip
OPEN = (
    "<think>Maybe \\boxed{{{}}}, wait", "<think>\\boxed{{{}}}",
    "<think>a</think><think>or \\boxed{{{}}}", "Hm. <think> so \\boxed{{{}}}",
    "<think>a<think>b \\boxed{{{}}}", "<THINK>a \\boxed{{{}}}", "<think >a \\boxed{{{}}}",
    "<think>\\boxed{{{}}}</think>", "no box: {}", "",
)  # fmt: skip


def number_answers(rng: random.Random) -> Answer:
    """An answer to a question whose gold is a number, of PGPS9K or free-form."""
    value = rng.choice(VALUES)(rng)
    gold = f"{value.number:.3f}"
    written = rng.choice(value.notations)
    other = rng.choice(
        [
            value.number + 1,
            value.number * 1.1 + 0.1,
            -value.number,
            value.number * 2,
            value.number / 2,
        ]
    )
    wrong = rng.choice(
        [
            f"{other:.3f}",
            f"{round(other)}" if abs(round(other) - value.number) > 0.02 else f"{other:.3f}",
        ]
    )
    make = rng.choices(
        [same, dressed, another, near, denied, spoilt, prose, unfinished, comma, mutated],
        weights=[4, 12, 5, 4, 3, 4, 2, 3, 2, 5],
    )[0]
    kind, content, truth, loose = make(rng, value, written, wrong)
    if make is unfinished:
        return Answer(kind, content, gold, strict=truth, relative=loose)
    response = rng.choice(THOUGHT).format(content)
    if (
        truth == WRONG
        and kind != "negation"
        and abs(float(wrong) - value.number) <= 0.011 * abs(value.number)
    ):
        truth, loose = (
            UNKNOWN if kind == "spoilt" else WRONG,
            UNKNOWN,
        )  # another value, but within 1%
    if re.search(r"[0-9] [0-9]{3}", written):
        truth = loose = UNKNOWN  # `2 042`: readers differ
    return Answer(kind, response, gold, strict=truth, relative=loose)


Made = tuple[str, str, str, str]


def same(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    return "notation", rng.choice(BARE).format(written), RIGHT, RIGHT


def dressed(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    name, around = rng.choice([("label", LABELS), ("dress", DRESS), ("unit", UNITS)])
    content = rng.choice(around).format(written)
    if (name == "unit" and " = " in written) or any(
        part in written for part in ("\\approx", "\\over", "...")
    ):
        return f"{name}-of-relation", content, UNKNOWN, UNKNOWN
    if rng.random() < 0.2:
        content = rng.choice(LABELS[:10] if name != "label" else DRESS).format(content)
    if rng.random() < 0.15:
        return f"{name}-wrong", rng.choice(around).format(wrong), WRONG, WRONG
    return name, content, RIGHT, RIGHT


def another(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    around = rng.choice([BARE, LABELS, DRESS, UNITS])
    return "wrong", rng.choice(around).format(wrong), WRONG, WRONG


def near(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    off = rng.choice(
        [0.0049, 0.0051, -0.0049, 0.005 * value.number, 0.01 * value.number, 0.011 * value.number]
    )
    gold, answer = round(value.number, 3), round(value.number + off, 4)
    distance, allowed = abs(answer - gold), 0.01 * abs(gold)
    strict = UNKNOWN if abs(distance - 5e-3) < 1e-6 else RIGHT if distance < 5e-3 else WRONG
    loose = (
        UNKNOWN
        if abs(distance - allowed) < 1e-6
        else RIGHT
        if distance < allowed and gold % 1
        else strict
    )
    return "near", rng.choice(BARE + UNITS[:8]).format(f"{answer:.4f}"), strict, loose


def denied(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    return "negation", rng.choice(DENIED).format(written), WRONG, WRONG


def spoilt(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    return "spoilt", rng.choice(SPOILT).format(written, wrong), WRONG, WRONG


def prose(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    return "prose", rng.choice(PROSE).format(written), UNKNOWN, UNKNOWN


def unfinished(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    return "open-thinking", rng.choice(OPEN).format(written), NO_ANSWER, NO_ANSWER


def comma(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    digits = rng.choice([1, 2, 3])
    text = f"{value.number:.{digits}f}".replace(".", ",")
    exact = abs(round(value.number, digits) - round(value.number, 3)) < 5e-3
    known = exact and digits < 3 and value.number % 1 != 0
    return (
        "decimal-comma",
        rng.choice(BARE).format(text),
        UNDECIDED if known else UNKNOWN,
        UNDECIDED if known else UNKNOWN,
    )


SCRAPS = [
    *"{}()[]\\$^_,.:;=<>|'\"+-*/!?%&~ \n0123456789abxyzéπ√²°×−≠≈度㎝。",
    "\\frac", "\\sqrt{", "\\text{", "\\left", "\\right", "\\pm", "^\\circ", "\\over ", "\\sin ",
    "\\boxed{", "</think>", "<think>", " or ", "\\begin{aligned}", "\\end{aligned}", "\\not",
    "\\color{red}", "\\\\", "cm", "\\,", "1,234", "\\log ", "\\cos^{-1}", "||",
]  # fmt: skip


def mutated(rng: random.Random, value: Value, written: str, wrong: str) -> Made:
    _, content, _, _ = rng.choice([same, dressed, spoilt, denied])(rng, value, written, wrong)
    letters = list(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(letters))
        action = rng.random()
        if action < 0.4:
            letters.insert(at, rng.choice(SCRAPS))
        elif at < len(letters) and action < 0.8:
            del letters[at]
        elif at + 1 < len(letters):
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "mutated", "".join(letters), UNKNOWN, UNKNOWN


# ---- MathVerse -----------------------------------------------------------------------------------
LETTERED = (
    "{0}",
    "({0})",
    "{0}.",
    "{0}. {1}",
    "{0}: {1}",
    "\\text{{{0}}}",
    "The answer is {0}",
    "({0}) {1}",
    "{0}) {1}",
    "\\textbf{{{0}}}",
)
LETTER_AND_VALUE = (
    "{0}, {1}",
    "{0} - {1}",
    "{1}, {0}",
    "{1} ({0})",
    "{0} = {1}",
    "{0} \\text{{ or }} {1}",
    "{0}; {1}",
    "{0} {1}",
)
CHOICE_SETS: tuple[Callable[[random.Random], list[str]], ...] = (
    lambda rng: [f"{d}°" for d in rng.sample(range(10, 170, 5), 4)],
    lambda rng: [f"{n}" for n in rng.sample(range(2, 90), 4)],
    lambda rng: [f"{n} cm" for n in rng.sample(range(2, 40), 4)],
    lambda rng: [
        rf"{n}\sqrt{{{r}}}" for n, r in zip(rng.sample(range(2, 9), 4), (2, 3, 5, 7), strict=True)
    ],
    lambda rng: [
        rf"\frac{{{n}}}{{{d}}}"
        for n, d in zip((1, 2, 3, 5), rng.sample((7, 8, 9, 11), 4), strict=True)
    ],
    lambda rng: rng.sample(["b", "a", "c", "d"], 4),
    lambda rng: rng.sample(["AB", "BC", "CD", "DA"], 4),
    lambda rng: rng.sample(["90°-α", "90°+α", "180°-2α", "2α"], 4),
    lambda rng: rng.sample(["3:00", "4:30", "6:15", "9:45"], 4),
    lambda rng: rng.sample(["x=3", "y=2x+1", "x<2", "-1<x<3"], 4),
    lambda rng: rng.sample(["yes", "no", "cannot be determined", "depends on x"], 4),
    lambda rng: rng.sample(["75%", "25%", "50%", "10%"], 4),
)


def choice_answers(rng: random.Random) -> Answer:
    options = rng.choice(CHOICE_SETS)(rng)
    block = rng.choice(["Choices:\n{}", "Choices:\n{}\n"]).format(
        "\n".join(f"{c}:{o}" for c, o in zip("ABCD", options, strict=True))
    )
    at = rng.randrange(4)
    said = at if rng.random() < 0.6 else rng.randrange(4)
    letter, text = (
        "ABCD"[said],
        options[said].replace("°", "^\\circ").replace("α", "\\alpha").replace("%", "\\%"),
    )
    truth = RIGHT if said == at else WRONG
    form = rng.random()
    if form < 0.45:
        kind, content = "choice-letter", rng.choice(LETTERED).format(letter, text)
    elif form < 0.6:
        kind, content = "choice-letter-and-value", rng.choice(LETTER_AND_VALUE).format(letter, text)
        truth = UNKNOWN if "or" in content else truth
    elif form < 0.85:
        kind, content = "choice-value", rng.choice(BARE).format(text)
    else:
        kind, content = (
            "choice-odd",
            rng.choice(
                ["E", "a", "none", "A or B", "A, B", "7:00", "0", "\\theta", letter.lower(), "3:0"]
            ),
        )
        truth = UNKNOWN
    gold = rng.choice(["ABCD"[at]] * 4 + [f"({'ABCD'[at]})"])
    response = rng.choice(THOUGHT[:5]).format(content)
    return Answer(kind, response, gold, f"Find it.\n{block}", "multi-choice", truth, truth)


# Each row: ways to write the same; the first one is the gold.
FREE = (
    ("y = 2x+3", "y=2x+3", "2x + 3 = y", "2x - y + 3 = 0", "2x+3"),
    ("x^2 - 4", "(x-2)(x+2)", "x^2-4", "-4 + x^2"),
    ("12(x+4)(x+8)", "12x^2+144x+384"), ("(-2,1]", "(-2, 1]", "\\left(-2, 1\\right]"),
    ("-2 < x \\le 1", "-2<x\\leq 1"),
    ("y \\le 2x+3", "2x+3 \\ge y"), ("x = 3, x = -3", "3, -3", "-3, 3", "\\pm 3", "x = \\pm 3"),
    ("(1, 2)", "(1,2)", "M(1, 2)", "\\left(1,2\\right)"),
    ("577.0 \\mathrm{cm}^2", "577", "577 \\text{ cm}^2", "577 square centimeters"),
    ("10 m", "10", "10 \\text{ m}", "10 meters"),
    ("θ", "\\theta", "θ"), ("α", "\\alpha"), ("a/sinα", "\\frac{a}{\\sin\\alpha}", "a / \\sin α"),
    ("180°-2α", "180^\\circ - 2\\alpha"),
    ("4:00", "4:00"), ("\\infty", "\\infty", "∞"), ("75%", "75\\%", "75%", "75"),
    ("3:5", "3:5", "3 : 5"), ("1:2", "1:2"),
    ("square", "square", "a square", "\\text{square}"), ("yes", "Yes", "\\text{yes}"),
    ("AB", "AB", "\\overline{AB}"), ("5/12", "\\frac{5}{12}"),
    ("\\frac{\\sqrt{3}}{2}", "\\sqrt{3}/2", "\\frac{\\sqrt{3}}{2}"), ("2\\pi", "2π", "2\\pi"),
    ("-\\frac{3}{2}", "-1.5", "-3/2"),
    ("x^2+y^2=25", "x^2 + y^2 = 25", "25 = x^2 + y^2"), ("f(x) = x^2", "x^2", "y = x^2"),
    ("[0, \\infty)", "[0, ∞)"), ("x > 3", "3 < x"),
    ("P = 4s", "4s"), ("5^{\\circ}", "5", "5°"), ("\\frac{3}{4}", "0.75", "3/4"),
    ("20", "20", "20^\\circ", "x = 20"), ("140", "140°"),
)  # fmt: skip


def free_answers(rng: random.Random) -> Answer:
    at = rng.randrange(len(FREE))
    row = FREE[at]
    if rng.random() < 0.6:
        kind, content, truth = "free-same", rng.choice(row), UNKNOWN
        truth = RIGHT if content.replace(" ", "") == row[0].replace(" ", "") else UNKNOWN
    else:
        kind, content, truth = (
            "free-other",
            rng.choice(FREE[(at + rng.randrange(1, len(FREE))) % len(FREE)]),
            WRONG,
        )
        truth = UNKNOWN if content.strip("y= ") in row[0] or row[0] in content else WRONG
    if rng.random() < 0.25:
        kind, content = f"{kind}-dressed", rng.choice(BARE + DRESS + LABELS[:3]).format(content)
        truth = UNKNOWN
    return Answer(
        kind, rng.choice(THOUGHT[:5]).format(content), row[0], "Find it.", "free-form", truth, truth
    )


def generate(count: int, seed: int) -> Iterator[Answer]:
    """The corpus: the same answers for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        make = rng.choices([number_answers, choice_answers, free_answers], weights=[7, 2, 2])[0]
        yield make(rng)


# ---- grading -------------------------------------------------------------------------------------
def _graded(mode: str) -> Callable[[Answer], Verdict]:
    def run(answer: Answer) -> Verdict:
        result = grade(answer.response, answer.gold, cast(Any, mode))
        return result.outcome, result.stage

    return run


def _rewarded(tolerance: str) -> Callable[[Answer], Verdict]:
    def run(answer: Answer) -> Verdict:
        result = reward(answer.response, answer.gold, cast(Any, tolerance))
        return (
            "correct" if result.acc else "not correct"
        ), f"format {result.format:.0f}, ungraded {result.ungraded}"

    return run


def _scored(answer: Answer) -> Verdict:
    result = compute_score("", answer.response, answer.gold)
    return (
        f"score {result['score']:.1f}",
        f"acc {result['acc']:.0f}, ungraded {result['ungraded']:.0f}",
    )


def _mathverse(mode: str) -> Callable[[Answer], Verdict]:
    def run(answer: Answer) -> Verdict:
        case = Case(answer.response, answer.gold, answer.question, answer.question_type)
        result = grade_by_rule(case, cast(Any, mode))
        return (
            ("undecided", "judge")
            if isinstance(result, Undecided)
            else (result.outcome, result.stage)
        )

    return run


GRADERS: dict[str, Callable[[Answer], Verdict]] = {
    **{mode: _graded(mode) for mode in ("strict", "relative", "exact", "paper")},
    **{
        f"reward {tolerance}": _rewarded(tolerance) for tolerance in ("exact", "strict", "relative")
    },
    "compute_score": _scored,
    **{f"mathverse {mode}": _mathverse(mode) for mode in ("strict", "relative", "paper")},
}
NUMBERS_ONLY = frozenset(
    {"strict", "relative", "reward strict", "reward relative", "compute_score"}
)
LOOSE = frozenset({"relative", "reward relative", "compute_score", "mathverse relative"})
ORIGINAL = frozenset({"exact", "paper", "reward exact", "mathverse paper"})


def label(answer: Answer, mode: str) -> str:
    """The right outcome in a mode, empty where it is not known or not ours to say."""
    multiple_choice = answer.question_type == "multi-choice"
    if mode in ORIGINAL or (answer.question and mode in NUMBERS_ONLY):
        return ""
    if answer.kind == "choice-value" and multiple_choice:
        return OUTCOME_OF.get(answer.relative, "")
    return OUTCOME_OF.get(answer.relative if mode in LOOSE else answer.strict, "")


def outcome(mode: str, verdict: Verdict) -> str:
    """The outcome in the words of the labels; empty where a reward cannot say it."""
    if mode.startswith("reward"):
        return verdict[0]
    if mode == "compute_score":
        return "correct" if float(verdict[0].split()[1]) >= 0.9 else "not correct"
    return "undecided" if verdict == ("error", "undecided") else verdict[0]


def agrees(mode: str, verdict: Verdict, wanted: str) -> bool:
    """Whether a verdict is the labelled one; a reward tells only right from not right."""
    found = outcome(mode, verdict)
    return found == wanted or (found == "not correct" and wanted != "correct")


def grade_everything(answers: list[Answer]) -> tuple[list[dict[str, Verdict]], dict[str, float]]:
    """The verdicts of each grader, and its mean time in microseconds an answer."""
    for grader in GRADERS.values():
        grader(answers[0])  # imports are no part of the time
    verdicts: list[dict[str, Verdict]] = [{} for _ in answers]
    times: dict[str, float] = {}
    for mode, grader in GRADERS.items():
        start = time.process_time()
        for answer, found in zip(answers, verdicts, strict=True):
            found[mode] = grader(answer)
        times[mode] = round((time.process_time() - start) / len(answers) * 1e6, 1)
    return verdicts, times


# ---- files ---------------------------------------------------------------------------------------
def _open(path: Path, mode: str) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, f"{mode}t", encoding="utf-8"))
    return path.open(mode, encoding="utf-8")


def write(path: Path, count: int, seed: int) -> None:
    """Write the corpus and the verdicts of the graders as they are."""
    answers = list(generate(count, seed))
    verdicts, times = grade_everything(answers)
    with _open(path, "w") as file:
        print(json.dumps({"seed": seed, "count": count, "microseconds": times}), file=file)
        for answer, found in zip(answers, verdicts, strict=True):
            print(json.dumps({**asdict(answer), "verdicts": found}, ensure_ascii=False), file=file)
    print_labels(answers, {"verdicts": verdicts})
    print(f"wrote {len(answers):,} answers to {path}; microseconds an answer: {times}")


def compare(path: Path, examples: int, modes: list[str]) -> bool:
    """Print what changed since `path` was written; whether anything did."""
    with _open(path, "r") as file:
        header = json.loads(next(file))
        rows = [json.loads(line) for line in file]
    before = [
        {mode: (verdict[0], verdict[1]) for mode, verdict in row.pop("verdicts").items()}
        for row in rows
    ]
    answers = [Answer(**row) for row in rows]
    after, times = grade_everything(answers)
    groups: dict[tuple[str, Verdict, Verdict], list[Answer]] = defaultdict(list)
    for answer, old, new in zip(answers, before, after, strict=True):
        for mode in old:
            if old[mode] != new[mode] and (not modes or mode in modes):
                groups[mode, old[mode], new[mode]].append(answer)
    for (mode, old, new), changed in sorted(groups.items()):
        print_group(mode, old, new, changed, examples)
    print_labels(answers, {"before": before, "after": after})
    for mode, took in times.items():
        print(f"{mode}: {header['microseconds'][mode]} -> {took} microseconds an answer")
    print(f"{sum(map(len, groups.values())):,} verdicts changed in {len(groups)} groups")
    return bool(groups)


def print_group(
    mode: str, old: Verdict, new: Verdict, changed: list[Answer], examples: int
) -> None:
    """One group of changes: first those that move away from the label."""
    worse = [
        a
        for a in changed
        if (w := label(a, mode)) and agrees(mode, old, w) and not agrees(mode, new, w)
    ]
    better = [
        a
        for a in changed
        if (w := label(a, mode)) and not agrees(mode, old, w) and agrees(mode, new, w)
    ]
    print(
        f"## {mode}: {'/'.join(old)} -> {'/'.join(new)}: {len(changed)} ({len(better)} better,"
        f" {len(worse)} WORSE)"
    )
    kinds = Counter(answer.kind for answer in changed)
    print("   kinds: " + ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()))
    shown = set(map(id, worse)) | set(map(id, better))
    others = [answer for answer in changed if id(answer) not in shown]
    for mark, some in (("WORSE ", worse), ("better", better), ("      ", others)):
        for answer in some[:examples]:
            print(f"   {mark} {answer.kind}: {answer.response!r} gold {answer.gold!r}")


def print_labels(answers: list[Answer], runs: dict[str, list[dict[str, Verdict]]]) -> None:
    """How many labelled answers each grader gets right."""
    for mode in GRADERS:
        known = [(n, wanted) for n, answer in enumerate(answers) if (wanted := label(answer, mode))]
        if not known:
            continue
        parts: list[str] = []
        for name, verdicts in runs.items():
            good = sum(agrees(mode, verdicts[n][mode], wanted) for n, wanted in known)
            false = sum(
                outcome(mode, verdicts[n][mode]) == "correct" != wanted for n, wanted in known
            )
            parts.append(f"{name} {good} ({false} wrongly correct)")
        print(f"{mode}: of {len(known)} labelled: {', '.join(parts)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["write", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=50_000, help="write: number of answers")
    parser.add_argument("--seed", type=int, default=1, help="write: of the generator")
    parser.add_argument("--examples", type=int, default=4, help="compare: shown of each group")
    parser.add_argument(
        "--mode", action="append", default=[], choices=list(GRADERS), help="compare: only this mode"
    )
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.file, arguments.count, arguments.seed)
    elif compare(arguments.file, arguments.examples, arguments.mode):
        sys.exit(1)


if __name__ == "__main__":
    main()
