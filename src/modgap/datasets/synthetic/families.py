"""The families of problems that are made here; each has a generator of the same interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modgap.core.errors import unknown
from modgap.datasets.synthetic import charts, generate
from modgap.datasets.synthetic.generate import SyntheticProblem


@dataclass(frozen=True, slots=True)
class Family:
    """A family of problems.

    Attributes:
        benchmark: The name of its fixed problems, with `version`: `synthetic v1`.
        version: Of its generator.
        seed: Of the fixed problems; no testbed model is pretrained on it.
        make: `generate.make_problem`, or another one of the same interface.
        kinds: The types of its problems.
        about: What it is, for a model card.
    """

    benchmark: str
    version: int
    seed: int
    make: Callable[..., SyntheticProblem]
    kinds: tuple[str, ...]
    about: str


FAMILIES = {
    "geometry": Family(
        "synthetic", generate.VERSION, 2311, generate.make_problem, generate.TYPES,
        "plane geometry",
    ),
    "charts": Family(
        "charts", charts.VERSION, 2412, charts.make_problem, charts.KINDS,
        "bar charts and tables",
    ),
}  # fmt: skip


def family(name: str) -> Family:
    """The family of a name. Raises `UserError` where there is none."""
    if name not in FAMILIES:
        raise unknown("family", name, FAMILIES)
    return FAMILIES[name]
