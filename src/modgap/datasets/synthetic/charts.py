"""`make_problem` of the family `charts`: bar charts and tables, with questions about their numbers.

The same interface as plane geometry's (`generate.make_problem`): the full-text view has every
number as a clause (`Kim 24`), the image-only view the question alone, and no question has a
number. Answers are differences, sums, means and ratios of numbers drawn at random, so that a
question alone does not tell them.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from modgap.datasets.synthetic.chart_draw import draw
from modgap.datasets.synthetic.chart_scene import ASKED, KINDS, Asked, Chart, new_chart
from modgap.datasets.synthetic.generate import (
    LEVELS,
    SyntheticProblem,
    check_stream,
    choices,
    owner_of,
)
from modgap.datasets.synthetic.numbers import decimal
from modgap.datasets.synthetic.registry import Redraw

VERSION = 2
"""In the seed of every stream; raise it when a change of the generator changes problems."""


def make_problem(
    seed: int,
    index: int,
    split: str = "train",
    levels: Sequence[int] = LEVELS,
    types: Sequence[str] = (),
) -> SyntheticProblem:
    """Make problem `index` of the stream (`seed`, `split`): a pure function of its arguments.

    A set of numbers with its question belongs to train or to test, whatever the seed and the names.

    Args:
        seed: The seed of the data set.
        index: Which problem.
        split: `train` or `test`.
        levels: Steps of the questions to choose from, each equally likely.
        types: Kinds of charts to choose from (all if empty), each equally likely.

    Raises:
        ValueError: A split, level or type that does not exist.
    """
    check_stream(split, levels, types, KINDS)
    rng = Random(f"modgap charts {VERSION}/{seed}/{split}/{index}")
    while True:
        level, kind = rng.choice(list(levels)), rng.choice(list(types) or KINDS)
        asked = rng.choice([a for a in ASKED if a.level == level and kind in a.kinds])
        for _ in range(400):
            chart = new_chart(rng, kind)
            try:
                asked.build(chart, rng)
            except Redraw:
                continue
            if _owner(asked, chart) == split:
                return _problem(asked, chart, index, rng)


def _owner(asked: Asked, chart: Chart) -> str:
    """The split that a set of numbers belongs to; names do not matter."""
    values = sorted(chart.values.values())
    return owner_of(f"charts {asked.name} {values} {float(chart.answer):.3f}")


def _problem(asked: Asked, chart: Chart, index: int, rng: Random) -> SyntheticProblem:
    drawing = draw(chart, rng)
    clauses, answer = chart.clauses(), float(chart.answer)
    record: dict[str, object] = {
        "diagram": f"img_{index}.png",
        "text": chart.question,
        "parsing_stru_seqs": [],
        "parsing_sem_seqs": clauses,
        "expression": chart.program,
        "answer": f"{answer:.3f}",
        "type": chart.kind,
        "book": "modgap charts",
        "page": "",
        "choices": choices(answer, clauses, rng),
    }
    think = f"{', '.join(clauses)}. {', '.join(chart.steps)}."
    return SyntheticProblem(
        record=record,
        png=drawing.png,
        labels=drawing.labels,
        solution=rf"<think>{think}</think>\boxed{{{decimal(chart.answer)}}}",
        points={},
        pixels=drawing.pixels,
        unknowns={},
        template=asked.name,
        level=asked.level,
    )
