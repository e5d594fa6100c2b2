"""`make_problem`: one problem from a seed, an index and a split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from modgap.datasets.synthetic import (
    arcs,
    lines,
    measures,
    quadrilaterals,
    ratios,
    tangents,
    triangles,
)
from modgap.datasets.synthetic.draw import Drawing, Label, draw
from modgap.datasets.synthetic.registry import TEMPLATES, Redraw, Template
from modgap.datasets.synthetic.scene import Scene

VERSION = 1
"""In the seed of every stream; raise it when a change of the generator changes problems."""

LEVELS = (1, 2, 3)
SPLITS = ("train", "test")
# Importing these modules fills the table of templates.
_FAMILIES = (triangles, lines, quadrilaterals, arcs, tangents, ratios, measures)
TYPES: tuple[str, ...] = tuple(dict.fromkeys(t.type for t in TEMPLATES))


def _with_level(level: int) -> dict[str, list[Template]]:
    """Type -> its templates that have the level; the order decides what a draw selects."""
    found: dict[str, list[Template]] = {}
    for kind in TYPES:
        for template in TEMPLATES:
            if template.type == kind and level in template.levels:
                found.setdefault(kind, []).append(template)
    return found


_BY_LEVEL = {level: _with_level(level) for level in LEVELS}
_TEST_SHARE = 4  # one of this many sets of numbers belongs to test


@dataclass(frozen=True, slots=True)
class SyntheticProblem:
    r"""A problem, its diagram, and its hidden ground truth.

    Attributes:
        record: The PGPS9K record (`diagram` is `img_<index>.png`; `write_dataset` renumbers it).
        png: The diagram, 224 x 224, 8-bit grey.
        labels: The pixel box of every text in the diagram.
        solution: `<think>{semantic clauses}. {steps}.</think>\boxed{answer}`.
        points: True coordinates of the points, in the units of the problem, y up.
        pixels: The same points in the diagram, y down: a similar figure.
        unknowns: The value of each letter that stands for a number.
        template: Which template made it.
        level: 1 one step, 2 a second step or root, 3 algebra or several steps.
    """

    record: dict[str, object]
    png: bytes
    labels: list[Label]
    solution: str
    points: dict[str, tuple[float, float]]
    pixels: dict[str, tuple[float, float]]
    unknowns: dict[str, float]
    template: str
    level: int


def make_problem(
    seed: int,
    index: int,
    split: str = "train",
    levels: Sequence[int] = LEVELS,
    types: Sequence[str] = (),
) -> SyntheticProblem:
    """Make problem `index` of the stream (`seed`, `split`): a pure function of its arguments.

    Train and test differ by more than their streams: a set of numbers (template and the values in
    its clauses) belongs to one of the two, whatever the seed, so that no test problem is a train
    problem with other letters.

    Args:
        seed: The seed of the data set.
        index: Which problem.
        split: `train` or `test`.
        levels: Difficulties to choose from, each equally likely.
        types: Types to choose from (all if empty), each equally likely among those that have the
            level.

    Raises:
        ValueError: A split, level or type that does not exist.
    """
    check_stream(split, levels, types, TYPES)
    rng = Random(f"modgap synthetic {VERSION}/{seed}/{split}/{index}")
    while True:
        level = rng.choice(list(levels))
        families = [found for type, found in _BY_LEVEL[level].items() if not types or type in types]
        if not families:
            levels = [other for other in levels if other != level]
            if not levels:
                raise ValueError(
                    f"no template of the types {', '.join(types)} has one of these levels"
                )
            continue
        made = _attempt(rng.choice(rng.choice(families)), level, split, rng)
        if made is not None:
            return _problem(*made, index=index, rng=rng)


def check_stream(
    split: str, levels: Sequence[int], types: Sequence[str], known: Sequence[str]
) -> None:
    """Refuse a split, level or type that does not exist. Raises `ValueError`."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    if not levels or not set(levels) <= set(LEVELS):
        raise ValueError(f"levels {tuple(levels)} are not all known; choose from {LEVELS}")
    if not set(types) <= set(known):
        raise ValueError(
            f"type {sorted(set(types) - set(known))[0]!r} does not exist; choose from"
            f" {', '.join(known)}"
        )


def _attempt(
    template: Template, level: int, split: str, rng: Random
) -> tuple[Template, Scene, Drawing] | None:
    """Redraw numbers until they belong to the split and draw well.

    Gives the template up after many tries.
    """
    for _ in range(400):
        scene = Scene(rng, level)
        try:
            template.build(scene)
        except Redraw:
            continue
        if _owner(template, scene) != split:
            continue
        drawing = draw(scene, rng)
        if drawing is not None:
            return template, scene, drawing
    return None


def _owner(template: Template, scene: Scene) -> str:
    """The split that a set of numbers belongs to; letters do not matter."""
    values = sorted(re.sub(r"[A-Z]+", "", clause) for clause in scene.semantic())
    return owner_of(f"{template.name} {values} {float(scene.answer):.3f}")


def owner_of(numbers: str) -> str:
    """The split that numbers belong to, by their digest: a quarter of all sets is test."""
    digest = hashlib.sha256(numbers.encode()).digest()
    return "test" if digest[0] % _TEST_SHARE == 0 else "train"


def _problem(
    template: Template, scene: Scene, drawing: Drawing, *, index: int, rng: Random
) -> SyntheticProblem:
    semantic = scene.semantic()
    answer = float(scene.answer)
    structural = scene.structural()
    rng.shuffle(structural)
    record: dict[str, object] = {
        "diagram": f"img_{index}.png",
        "text": scene.question,
        "parsing_stru_seqs": structural,
        "parsing_sem_seqs": semantic,
        "expression": scene.expression(),
        "answer": f"{answer:.3f}",
        "type": template.type,
        "book": "modgap synthetic",
        "page": "",
        "choices": choices(answer, semantic, rng),
    }
    think = f"{', '.join(semantic)}. {', '.join(scene.steps)}."
    return SyntheticProblem(
        record=record,
        png=drawing.png,
        labels=drawing.labels,
        solution=rf"<think>{think}</think>\boxed{{{scene.answer}}}",
        points={name: (p.real, p.imag) for name, p in scene.points.items()},
        pixels=drawing.pixels,
        unknowns=scene.unknowns,
        template=template.name,
        level=scene.level,
    )


def choices(answer: float, semantic: Sequence[str], rng: Random) -> list[float]:
    """Four options in order: the answer, numbers of the problem, and likely slips."""
    numbers = [
        float(n)
        for clause in semantic
        for n in re.findall(r"(?<![\\a-z\d.])\d+(?:\.\d+)?(?![a-z\d])", clause)
    ]
    slips = [*numbers, 2 * answer, answer / 2, 180 - answer, 90 - answer, answer + 2, answer + 5]
    options = {round(answer, 3)}
    rng.shuffle(slips)
    for slip in [*slips, answer + 7, answer + 9, answer + 11]:
        if slip > 0 and len(options) < 4:
            options.add(round(slip, 3))
    return sorted(options)
