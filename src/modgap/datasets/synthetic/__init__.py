"""Synthetic plane geometry in PGPS9K's layout.

Exact problems, drawn to scale, in any number.

`make_problem` makes one, `write_dataset` a folder of them. Differs from PGPS9K: conditions are
always in the clauses and in the diagram, the question carries no numbers, clauses have one
canonical order, answers are exact.
"""

from modgap.datasets.synthetic.draw import Label
from modgap.datasets.synthetic.generate import (
    LEVELS,
    TYPES,
    VERSION,
    SyntheticProblem,
    make_problem,
)
from modgap.datasets.synthetic.write import write_dataset

__all__ = [
    "LEVELS",
    "TYPES",
    "VERSION",
    "Label",
    "SyntheticProblem",
    "make_problem",
    "write_dataset",
]
