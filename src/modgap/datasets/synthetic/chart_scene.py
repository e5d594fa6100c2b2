"""A bar chart or a table as its author thinks of it: names, numbers, a question with its steps.

The templates are below; `charts.make_problem` draws the numbers and `chart_draw.draw` the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random

from modgap.datasets.synthetic.numbers import add, decimal, minus
from modgap.datasets.synthetic.registry import require

KINDS = ("bars", "rows", "axis", "table")
"""Upright bars with their values, lying bars with their values, bars against an axis, a table."""
_NAMES = (
    ("Ann", "Ben", "Eva", "Ida", "Joe", "Kim", "Leo", "Max", "Mia", "Ned", "Pia", "Sam", "Tom"),
    ("corn", "figs", "jam", "milk", "nuts", "oats", "peas", "rice", "soup", "tea"),
    ("Bonn", "Cork", "Kiel", "Lyon", "Nice", "Oslo", "Pisa", "Rome", "Troy", "Wien"),
)
_COLUMNS = (
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
)
_TICKS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 25)
LEVELS_OF_AXIS = 10
"""Ticks of an axis above 0."""


@dataclass
class Chart:
    """A problem under construction.

    Attributes:
        kind: Of `KINDS`.
        rows: Names of the bars, or of a table's rows.
        columns: Names of a table's columns; empty for bars.
        values: What stands at each row and column (the column is "" for bars); all different.
        tick: Distance of the ticks of an axis; 0 without an axis.
        question: What is asked.
        answer: Its exact answer.
        steps: The steps to it: the items that it names, then one operation each.
        program: The same in short.
    """

    kind: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: dict[tuple[str, str], int]
    tick: int = 0
    question: str = ""
    answer: Fraction = field(default_factory=Fraction)
    steps: list[str] = field(default_factory=list)
    program: str = ""

    @property
    def items(self) -> dict[str, int]:
        """What a question calls each number -> the number, in reading order."""
        return {f"{row} in {col}" if col else row: n for (row, col), n in self.values.items()}

    def clauses(self) -> list[str]:
        """The conditions, in reading order: `Kim 24`, `Kim in May 24`.

        A number follows its name at once: with ` = ` between them, small models copied the
        conditions and did not learn to find the number of a name (docs/lab/testbed.md).
        """
        return [f"{name} {value}" for name, value in self.items.items()]

    def ask(self, rng: Random, *wordings: str, answer: int | Fraction, program: str) -> None:
        """Ask in one of these wordings."""
        self.question, self.answer, self.program = rng.choice(wordings), Fraction(answer), program


def new_chart(rng: Random, kind: str) -> Chart:
    """Names and numbers, all different."""
    names = rng.choice(_NAMES)
    if kind == "table":
        rows = tuple(rng.sample(names, 3))
        every = rng.choice(_COLUMNS)
        start = rng.randrange(len(every) - 2)
        columns: tuple[str, ...] = every[start : start + rng.choice((2, 3))]
    else:
        # Below five upright bars there is room for short names only.
        most = 5 if kind == "rows" or names is _NAMES[0] else 4
        rows, columns = tuple(rng.sample(names, rng.randint(4, most))), ("",)
    tick = rng.choice(_TICKS) if kind == "axis" else 0
    pool = [tick * i for i in range(1, LEVELS_OF_AXIS + 1)] if tick else range(11, 99)
    numbers = rng.sample(pool, len(rows) * len(columns))
    cells = [(row, column) for row in rows for column in columns]
    shown = columns if kind == "table" else ()
    return Chart(kind, rows, shown, dict(zip(cells, numbers, strict=True)), tick)


# --- templates: one for each question -------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Asked:
    """A way to ask about charts of some kinds; its level is its number of operations, at most 3."""

    name: str
    kinds: tuple[str, ...]
    level: int
    build: Callable[[Chart, Random], None]


ASKED: list[Asked] = []


def _asks(
    level: int, *kinds: str
) -> Callable[[Callable[[Chart, Random], None]], Callable[[Chart, Random], None]]:
    """Add a function to the table."""

    def enter(build: Callable[[Chart, Random], None]) -> Callable[[Chart, Random], None]:
        ASKED.append(Asked(build.__name__, kinds or KINDS, level, build))
        return build

    return enter


def _some(chart: Chart, rng: Random, count: int) -> tuple[list[str], list[int]]:
    """Some items: their names and numbers, which become the first steps.

    A small model that was to calculate with them at once learned only the questions about all
    items.
    """
    names = rng.sample(list(chart.items), count)
    chart.steps = [f"{name} {chart.items[name]}" for name in names]
    return names, [chart.items[name] for name in names]


@_asks(1)
def sum_of_two(c: Chart, rng: Random) -> None:
    """Two numbers together."""
    (a, b), numbers = _some(c, rng, 2)
    c.steps += add(*numbers)
    words = f"What is the sum of {a} and {b}?", f"How much are {a} and {b} together?"
    c.ask(rng, *words, answer=sum(numbers), program="Sum N0 N1")


@_asks(1)
def difference(c: Chart, rng: Random) -> None:
    """Two numbers apart."""
    (a, b), (x, y) = _some(c, rng, 2)
    c.steps += [minus(max(x, y), min(x, y))]
    words = f"What is the difference between {a} and {b}?", f"How far apart are {a} and {b}?"
    c.ask(rng, *words, answer=abs(x - y), program="Minus N0 N1")


@_asks(1)
def ratio(c: Chart, rng: Random) -> None:
    """One number divided by another, not a whole number."""
    (a, b), (x, y) = _some(c, rng, 2)
    answer = Fraction(x, y)
    # Whole ratios are few, and could be guessed.
    require(answer.denominator in (2, 4, 5, 8, 10, 20))
    c.steps += [f"{x} / {y} = {decimal(answer)}"]
    words = f"What is {a} divided by {b}?", f"How many times as large as {b} is {a}?"
    c.ask(rng, *words, answer=answer, program="Divide N0 N1")


@_asks(2)
def sum_of_three(c: Chart, rng: Random) -> None:
    """Three numbers together."""
    (a, b, d), numbers = _some(c, rng, 3)
    c.steps += add(*numbers)
    words = f"What is the sum of {a}, {b} and {d}?", f"How much are {a}, {b} and {d} together?"
    c.ask(rng, *words, answer=sum(numbers), program="Sum N0 N1 N2")


@_asks(2)
def two_less_one(c: Chart, rng: Random) -> None:
    """Two numbers together minus a third."""
    (a, b, d), (x, y, z) = _some(c, rng, 3)
    require(x + y > z)
    c.steps += [*add(x, y), minus(x + y, z)]
    words = (
        f"What is the sum of {a} and {b} minus {d}?",
        f"How much more than {d} are {a} and {b} together?",
    )
    c.ask(rng, *words, answer=x + y - z, program="Minus Sum N0 N1 N2")


def _spread(c: Chart, rng: Random, numbers: Sequence[int], where: str) -> None:
    high, low = max(numbers), min(numbers)
    c.steps = [f"max {high}", f"min {low}", minus(high, low)]
    words = (
        f"What is the difference between the largest and the smallest value{where}?",
        f"By how much is the largest value{where} above the smallest?",
    )
    c.ask(rng, *words, answer=high - low, program="Minus Max Min")


@_asks(2, "bars", "rows", "axis")
def spread(c: Chart, rng: Random) -> None:
    """Largest minus smallest."""
    _spread(c, rng, list(c.values.values()), "")


@_asks(2, "table")
def spread_of_column(c: Chart, rng: Random) -> None:
    """Largest minus smallest of a column."""
    column = rng.choice(c.columns)
    _spread(c, rng, [c.values[row, column] for row in c.rows], f" in {column}")


@_asks(2, "table")
def total_of_column(c: Chart, rng: Random) -> None:
    """A column's sum."""
    column = rng.choice(c.columns)
    numbers = [c.values[row, column] for row in c.rows]
    c.steps = add(*numbers)
    words = f"What is the total in {column}?", f"What is the sum of all values in {column}?"
    c.ask(rng, *words, answer=sum(numbers), program="Sum N0 N1 N2")


def _mean(c: Chart, rng: Random, numbers: Sequence[int], words: Sequence[str]) -> None:
    total = sum(numbers)
    answer = Fraction(total, len(numbers))
    require(answer.denominator in (1, 2, 4, 5))
    c.steps = [*add(*numbers), f"{total} / {len(numbers)} = {decimal(answer)}"]
    c.ask(rng, *words, answer=answer, program="Mean")


@_asks(3, "bars", "rows", "axis")
def mean(c: Chart, rng: Random) -> None:
    """The mean of all bars."""
    words = "What is the mean of all values?", "What is the average of all values?"
    _mean(c, rng, list(c.values.values()), words)


@_asks(3, "table")
def mean_of_column(c: Chart, rng: Random) -> None:
    """The mean of a column."""
    column = rng.choice(c.columns)
    words = f"What is the mean in {column}?", f"What is the average of the values in {column}?"
    _mean(c, rng, [c.values[row, column] for row in c.rows], words)


@_asks(3, "bars", "rows", "axis")
def all_but_largest(c: Chart, rng: Random) -> None:
    """All bars together but the largest."""
    high = max(c.values.values())
    numbers = [n for n in c.values.values() if n != high]
    c.steps = [f"max {high}", *add(*numbers)]
    words = (
        "What is the sum of all values but the largest?",
        "How much are all values without the largest together?",
    )
    c.ask(rng, *words, answer=sum(numbers), program="Minus Sum Max")


@_asks(3, "bars", "rows", "axis")
def two_against_two(c: Chart, rng: Random) -> None:
    """Two sums apart."""
    (a, b, d, e), (w, x, y, z) = _some(c, rng, 4)
    first, second = w + x, y + z
    require(first > second)
    c.steps += [*add(w, x), *add(y, z), minus(first, second)]
    words = (
        f"How much more are {a} and {b} together than {d} and {e} together?",
        f"By how much is the sum of {a} and {b} above that of {d} and {e}?",
    )
    c.ask(rng, *words, answer=first - second, program="Minus Sum N0 N1 Sum N2 N3")


@_asks(3, "table")
def totals_apart(c: Chart, rng: Random) -> None:
    """The sums of two rows apart."""
    a, b = rng.sample(c.rows, 2)
    one, two = ([c.values[row, column] for column in c.columns] for row in (a, b))
    require(sum(one) != sum(two))
    high, low = max(sum(one), sum(two)), min(sum(one), sum(two))
    c.steps = [*add(*one), *add(*two), minus(high, low)]
    words = (
        f"What is the difference between the totals of {a} and {b}?",
        f"How far apart are the totals of {a} and {b}?",
    )
    c.ask(rng, *words, answer=high - low, program="Minus Sum Sum")
