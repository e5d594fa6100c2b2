"""The hypotheses of docs/experiments/findings/plan.md, tested from cells alone.

Each is a mean over seeds and problems, `[seeds, problems]` in points, tested by
`analysis.seeds.over_seeds` and corrected by Holm within its question.

Legend: S seeds, P problems.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from findings_parts import FIRST, MIXED, MODEL_OF, PARTS, PLAN, SECOND, swap_name
from numpy.typing import NDArray

from modgap.analysis import causal
from modgap.analysis.cells import SeedRun, Sweep, read_cells
from modgap.analysis.gap import holm
from modgap.analysis.resampling import SEED, bootstrap_interval
from modgap.analysis.results import CausalSummary
from modgap.analysis.seeds import SeedsEstimate, over_seeds
from modgap.core.transcripts import WITH_TEXT
from modgap.core.view import samples_of

Floats = NDArray[np.float64]
TEXT, IMAGE = "full-text", "image-only"
SMALL = 2.0
"""Points: an effect inside plus and minus this is too small to matter."""
SPREAD = 3.0
"""Points: with a larger standard deviation of the seeds a comparison gets further seeds."""
RESAMPLES = 10_000


class MissingError(Exception):
    """Runs that a hypothesis needs are not in the cells."""


@dataclass
class Book:
    """The runs of some cells on one testbed.

    Attributes:
        sweeps: Where they are from; the first that has a recipe counts.
    """

    sweeps: list[Sweep]

    def __post_init__(self) -> None:
        """Refuse runs that cannot be paired."""
        if len({tuple(sweep.problems) for sweep in self.sweeps}) > 1:
            raise ValueError("cells of one testbed have different problems")

    def seeds(self, *recipes: str) -> list[object]:
        """Seeds that all of these recipes have, of which there must be two."""
        found = [set(self._runs(recipe)) for recipe in recipes if recipe != "base"]
        both = sorted(set.intersection(*found), key=str) if found else []
        if found and len(both) < 2:
            raise MissingError(f"{', '.join(recipes)}: {len(both)} seeds in common")
        return both

    def _runs(self, recipe: str) -> dict[object, tuple[Sweep, SeedRun]]:
        for sweep in self.sweeps:
            for variant in sweep.recipes:
                if variant.recipe == recipe:
                    return {run.seed: (sweep, run) for run in variant.runs}
        raise MissingError(f"{recipe} is not in the cells")

    def of(self, recipe: str, view: str, seeds: Sequence[object]) -> Floats:
        """Percent right, `[S, P]`; of `base` `[1, P]`."""
        if recipe == "base":
            for sweep in self.sweeps:
                if sweep.untrained and view in sweep.untrained[0].right:
                    return _percent(sweep, sweep.untrained[0], view)[None]
            raise MissingError(f"the base model in the view {view} is not in the cells")
        runs = self._runs(recipe)
        lacking = [seed for seed in seeds if view not in runs[seed][1].right]
        if lacking:
            raise MissingError(f"{recipe} seed {lacking[0]} has no view {view}")
        return np.stack([_percent(*runs[seed], view) for seed in seeds])


def _percent(sweep: Sweep, run: SeedRun, view: str) -> Floats:
    return 100.0 * run.right[view] / samples_of(view, sweep.samples)


def books(folder: Path) -> dict[tuple[str, str], Book]:
    """(part, benchmark) -> its runs; those of part 1 stand behind the others on that testbed."""
    of: dict[tuple[str, str], list[Sweep]] = {}
    for part in PLAN:
        file = folder / f"part{part}.json"
        for sweep in read_cells(file) if file.exists() else ():
            names = {model: benchmark for benchmark, model in MODEL_OF.items()}
            of.setdefault((part, names[sweep.model]), []).append(sweep)
    # Part 4 has controls of its own settings under the same names, so it borrows nothing.
    shared = of.get(("1", FIRST), [])
    made = {key: Book([*own, *shared] if key[0] in "56" and key[1] == FIRST else own)
            for key, own in of.items()}  # fmt: skip
    for key in (("5", FIRST), ("6", FIRST)):
        made.setdefault(key, Book(shared))
    return made


# --- hypotheses -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Claim:
    """A hypothesis.

    Attributes:
        words: What is compared, in which outcome.
        sign: The stated sign; 0 where none is.
        values: Its values `[S, P]`, from a book.
        exploratory: Whether its answer was known when its outcome was chosen.
    """

    words: str
    sign: int
    values: Callable[[Book], Floats]
    exploratory: bool = False


@dataclass(frozen=True)
class Tested:
    """A hypothesis with its test.

    Attributes:
        claim: The hypothesis.
        found: Its estimate; `None` where runs are missing.
        p_holm: Corrected within the question.
        missing: Why there is none.
    """

    claim: Claim
    found: SeedsEstimate | None
    p_holm: float = 1.0
    missing: str = ""

    @property
    def verdict(self) -> str:
        """`supported`, `against`, `open` or `not run`, by the rule of the plan."""
        if self.found is None:
            return "not run"
        certain, value = self.p_holm < 0.05, self.found.value
        if certain and (self.claim.sign == 0 or value * self.claim.sign > 0):
            return "a difference" if self.claim.sign == 0 else "supported"
        low, high = self.found.ci_low, self.found.ci_high
        # Without any spread nothing is known of other seeds.
        if -SMALL < low < high < SMALL:
            return "no difference" if self.claim.sign == 0 else "against"
        return "against" if certain else "open"


def judged(claims: Sequence[Claim], book: Book | None) -> list[Tested]:
    """All claims of a question, corrected over all; one that was not run counts as p = 1."""
    found: list[Tested] = []
    for claim in claims:
        try:
            values = claim.values(book if book is not None else Book([]))
            found.append(Tested(claim, over_seeds(values, (-200.0, 200.0))))
        except MissingError as error:
            found.append(Tested(claim, None, missing=str(error)))
    corrected = holm([1.0 if one.found is None else one.found.p_value for one in found])
    return [
        one if one.found is None else Tested(one.claim, one.found, p)
        for one, p in zip(found, corrected, strict=True)
    ]


Outcome = Mapping[str, float]
"""View -> its weight in an outcome."""
GAP: Outcome = {TEXT: 1, IMAGE: -1}
SEES: Outcome = {IMAGE: 1}
PREFILLED: Outcome = {WITH_TEXT: 1, TEXT: -1}
USE: Outcome = {WITH_TEXT: 1, "true-transcription": -1}
READING: Outcome = {TEXT: 1, "own-transcription": -1, WITH_TEXT: -1, "true-transcription": 1}
DEPENDENCE: Outcome = {TEXT: 1, "swapped-image": -1}


def outcome(book: Book, recipe: str, weights: Outcome, seeds: Sequence[object]) -> Floats:
    """An outcome of a recipe in points, `[S, P]`."""
    parts = [weight * book.of(recipe, view, seeds) for view, weight in weights.items()]
    return np.sum(parts, axis=0)


def against(words: str, a: str, b: str, weights: Outcome, sign: int = 0) -> Claim:
    """`a` minus `b` in an outcome."""

    def values(book: Book) -> Floats:
        seeds = book.seeds(a, b)
        return outcome(book, a, weights, seeds) - outcome(book, b, weights, seeds)

    return Claim(f"{words}: {a} minus {b}", sign, values)


def effect_of(book: Book, recipe: str, part: str, seeds: Sequence[object]) -> Floats:
    """The effect of a part on the image view, over the settings of the other parts, `[S, P]`."""
    others = [name for name in PARTS if name != part]
    total: list[Floats] = []
    for count in range(len(others) + 1):
        for rest in itertools.combinations(others, count):
            with_it = tuple(name for name in PARTS if name in (*rest, part))
            total.append(_swapped(book, recipe, with_it, seeds))
            total.append(-_swapped(book, recipe, rest, seeds))
    return np.sum(np.broadcast_arrays(*total), axis=0) / (len(total) / 2)


def _swapped(book: Book, recipe: str, parts: tuple[str, ...], seeds: Sequence[object]) -> Floats:
    name = recipe if len(parts) == len(PARTS) else swap_name(recipe, parts) if parts else "base"
    return book.of(name, IMAGE, seeds)


def _swap_seeds(book: Book, *recipes: str) -> list[object]:
    names = [swap_name(recipe, parts) for recipe in recipes for parts in MIXED]
    return book.seeds(*recipes, *names)


def effect(recipe: str, part: str, sign: int) -> Claim:
    """The effect of a part."""

    def values(book: Book) -> Floats:
        return effect_of(book, recipe, part, _swap_seeds(book, recipe))

    return Claim(f"image accuracy: effect of the {part} of {recipe}", sign, values)


def vision_effect(book: Book, recipe: str, seeds: Sequence[object]) -> Floats:
    """The effects of tower and merger together."""
    tower, merger = (effect_of(book, recipe, part, seeds) for part in ("tower", "merger"))
    return tower + merger


def language_lower(book: Book) -> Floats:
    """Language minus tower and merger, of `full-text`."""
    seeds = _swap_seeds(book, TEXT)
    return effect_of(book, TEXT, "language", seeds) - vision_effect(book, TEXT, seeds)


def protected(words: str, of: Callable[[Book, str, Sequence[object]], Floats]) -> Claim:
    """How much more of a part's effect `kl` keeps than its control."""
    control = "full-text-continued"

    def values(book: Book) -> Floats:
        seeds = _swap_seeds(book, "kl", control)
        return of(book, "kl", seeds) - of(book, control, seeds)

    return Claim(f"image accuracy: effect of {words}: kl minus {control}", 1, values)


def _language(book: Book, recipe: str, seeds: Sequence[object]) -> Floats:
    return effect_of(book, recipe, "language", seeds)


SHARES = {"no-text": 0, "redundancy-25": 25, "redundancy-50": 50, "redundancy-75": 75, TEXT: 100}
"""Recipe -> percent of the conditions in the words."""


def _trend(book: Book) -> Floats:
    seeds = book.seeds(*SHARES)
    gaps = [outcome(book, recipe, GAP, seeds) for recipe in SHARES]
    return np.sum([weight * gap for weight, gap in zip((-2, -1, 0, 1, 2), gaps, strict=True)],
                  axis=0) / 10  # fmt: skip


def _base_reads(book: Book) -> Floats:
    return outcome(book, "base", READING, []) - outcome(book, "base", USE, [])


_MASKED = ("papo", "papo-unclamped", "vppo", "vppo-unclamped")
QUESTIONS: dict[str, tuple[str, list[Claim]]] = {
    "1": (
        "Reading or reasoning?",
        [
            Claim("base model: reading minus use", 1, _base_reads, exploratory=True),
            against("reading", TEXT, "base", READING, 1),
            against("reading", "no-text", "base", READING, -1),
            against("reading", "kl", "full-text-continued", READING, -1),
            against("use", TEXT, "base", USE, -1),
        ],
    ),
    "2": (
        "Where does training on text break reading?",
        [
            *(effect(TEXT, part, -1) for part in PARTS),
            Claim("image accuracy: effect of the language model minus that of tower and merger,"
                  " full-text", -1, language_lower),
            *(against("image accuracy", f"full-text-frozen-{part}", TEXT, SEES, 1)
              for part in PARTS),
            protected("the language model", _language),
            protected("tower and merger", vision_effect),
        ],
    ),
    "3": (
        "Do masked-image objectives close the gap, or only raise dependence on the image?",
        [
            *(against("gap", name, "no-text", GAP, -1) for name in _MASKED),
            *(against("dependence", name, "no-text", DEPENDENCE, 1) for name in _MASKED),
        ],
    ),
    "4": (
        "Which direction should distillation go?",
        [
            against("image accuracy", "distill", "kl-from-base", SEES),
            against("image accuracy", "distill", "self-trace", SEES),
            against("image accuracy", "kl-from-base", "self-trace", SEES),
            against("image accuracy", "distill", "no-text", SEES, 1),
            against("image accuracy", "kl-from-base", TEXT, SEES, 1),
            against("image accuracy", "distill-frozen", "distill", SEES),
            against("image accuracy", "distill-ema", "distill", SEES),
            against("image accuracy", "distill-right", "distill", SEES),
            against("image accuracy", "self-trace", "self-trace-all", SEES, 1),
            against("image accuracy", "kl-from-base", "kl-from-base-all", SEES, 1),
        ],
    ),
    "5": (
        "How much redundancy is harmful?",
        [
            Claim("gap: slope for 25% more of the conditions in the words", 1, _trend),
            *(against("gap", name, "no-text", GAP, 1) for name in list(SHARES)[1:]),
        ],
    ),
}  # fmt: skip
"""Question -> its title and its family of hypotheses, in the order of the plan; 6 is below."""


def causal_parts(book: Book) -> dict[str, CausalSummary]:
    """Recipe -> the gap in parts, its seeds pooled; without recipes that lack a view."""
    found: dict[str, CausalSummary] = {}
    views = (*causal.VIEWS, causal.WITHOUT_IMAGE)
    for recipe in ("base", *PLAN["1"][0].recipes):
        try:
            seeds = book.seeds(recipe)
            rates_PK = np.stack([book.of(recipe, view, seeds).mean(axis=0) for view in views], 1)
        except MissingError:
            continue
        rates_PK /= 100
        above = rates_PK[:, 4] - rates_PK[:, 1]
        low, _ = bootstrap_interval(above, None, RESAMPLES, SEED, 0.95, (-1.0, 1.0))
        # As `causal.split`: without a clear effect of the changed number they stay one part.
        apart = bool(rates_PK[:, 1].mean() >= causal.LEAST_IMAGE and low <= 0)
        found[recipe] = causal.estimate(rates_PK, apart=apart)
    return found


# --- question 6 -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Agreement:
    """How the recipes' effects on the two testbeds agree.

    Attributes:
        recipes: Those that both have.
        first: Mean change against the base model on the first testbed, in points.
        second: On the second.
        rho: Spearman's rank correlation.
        low: Lower end of its 95% bootstrap interval, over seeds and problems of both testbeds.
        high: Upper end.
        p_value: One-sided, by permutations of the recipes.
        same_sign: Recipes whose change has one sign on both.
    """

    recipes: list[str]
    first: Floats
    second: Floats
    rho: float
    low: float
    high: float
    p_value: float
    same_sign: int = field(default=0)


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where all are tied."""
    ranks = [_ranks(values) for values in (a, b)]
    x, y = (rank - rank.mean() for rank in ranks)
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def agreement(
    made: Mapping[tuple[str, str], Book], weights: Outcome, resamples: int = RESAMPLES
) -> Agreement | None:
    """Question 6 for one outcome; `None` with fewer than three recipes on both testbeds."""
    pair = [made.get(("6", benchmark), Book([])) for benchmark in (FIRST, SECOND)]
    values: list[dict[str, Floats]] = []
    for book in pair:
        of: dict[str, Floats] = {}
        for recipe in PLAN["6"][0].recipes:
            try:
                seeds = book.seeds(recipe)
                base = outcome(book, "base", weights, [])
                of[recipe] = outcome(book, recipe, weights, seeds) - base
            except MissingError:
                continue
        values.append(of)
    recipes = [name for name in values[0] if name in values[1]]
    if len(recipes) < 3:
        return None
    a, b = (np.array([of[name].mean() for name in recipes]) for of in values)
    rho, rng = spearman(a, b), np.random.default_rng(0)
    drawn = [
        spearman(*(_resampled([of[name] for name in recipes], rng) for of in values))
        for _ in range(resamples)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Agreement(recipes, a, b, rho, float(low), float(high), _permuted(a, b, rho, rng),
                     int(np.sum(np.sign(a) == np.sign(b))))  # fmt: skip


def _resampled(values: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """The means with problems drawn once for all recipes, and seeds for each."""
    problems = rng.integers(values[0].shape[1], size=values[0].shape[1])
    # Mean over problems first: seeds are few.
    return np.array(
        [
            x_SP[rng.integers(len(x_SP), size=len(x_SP))].mean(axis=0)[problems].mean()
            for x_SP in values
        ]
    )


def _permuted(a: Floats, b: Floats, rho: float, rng: np.random.Generator) -> float:
    """One-sided: exact up to 7 recipes, else of 100,000 random permutations."""
    x, y = (_ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    if len(a) <= 7:
        orders = np.array(list(itertools.permutations(y)))
    else:
        orders = rng.permuted(np.tile(y, (100_000, 1)), axis=1)
        orders[0] = y
    spread = np.sqrt((x @ x) * (y @ y)) or 1.0
    return float(np.mean(orders @ x / spread >= rho - 1e-9))
