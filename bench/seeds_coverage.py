"""How often an interval over seeds holds the truth: `python bench/seeds_coverage.py` (a few minutes
on one core).

Simulates the change of the gap of one recipe: problems differ in difficulty, each seed moves both
views by an amount of its own and each problem a little differently, 4 samples a view. The truth is
the mean over all seeds and problems. Five ways to make the interval; `modgap.analysis.seeds` has
the last one.

In the last rows problems spread little, which is where intervals are too narrow most easily: normal
values whose shares of problem, seed and the rest have the standard deviations that the row says, in
points.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from modgap.analysis.resampling import student_critical
from modgap.analysis.seeds import crossed_variances, over_seeds

Floats = npt.NDArray[np.float64]
SAMPLES = 4
ALIKE = ((3, 200, (10.0, 5.0, 40.0)), (3, 1000, (10.0, 2.0, 30.0)), (3, 1000, (5.0, 3.0, 40.0)))
"""Seeds, problems, and the standard deviations of problems, of seeds and of the rest."""
NAMES = (
    "problems only",
    "two-level bootstrap",
    "Satterthwaite",
    "noise from the seeds",
    "each its own",
)


def chance(logits: Floats) -> Floats:
    """Logits as probabilities."""
    return 1 / (1 + np.exp(-logits))


def probabilities(
    rng: np.random.Generator, seeds: int, problems: int, spread: float
) -> tuple[Floats, ...]:
    """Of the base model `[problems]` and of each seed `[seeds, problems]`, in both views."""
    text = rng.normal(0.8, 1.5, problems)
    image = text + rng.normal(-1.3, 1.2, problems)
    moved = [
        chance(
            base + shift + rng.normal(0, size, (seeds, 1)) + rng.normal(0, 0.7, (seeds, problems))
        )
        for base, shift, size in ((text, 0.2, spread / 2), (image, 0.5, spread))
    ]
    return chance(text), chance(image), *moved


def truth(rng: np.random.Generator, spread: float) -> float:
    """The mean change of the gap over very many seeds and problems, in points."""
    found: list[float] = []
    for _ in range(2000):
        text, image, new_text, new_image = probabilities(rng, 8, 500, spread)
        found.append(float(np.mean(new_text - new_image) - np.mean(text - image)))
    return 100 * float(np.mean(found))


def halves(x_SP: Floats) -> dict[str, float]:
    """Half of each symmetric interval."""
    s, p = x_SP.shape
    problems, seeds, rest = crossed_variances(x_SP)
    more = max(0.0, seeds - rest)
    spread = problems**2 / (p - 1) + (
        (seeds**2 / (s - 1) + rest**2 / ((s - 1) * (p - 1))) if more else 0.0
    )
    total = problems + more
    return {
        "problems only": student_critical(0.05, p - 1) * math.sqrt(problems),
        "Satterthwaite": student_critical(0.05, total**2 / spread) * math.sqrt(total),
        "noise from the seeds": math.sqrt(
            student_critical(0.05, p - 1) ** 2 * problems
            + student_critical(0.05, s - 1) ** 2 * more
        ),
    }


def bootstrap(rng: np.random.Generator, x_SP: Floats, times: int) -> tuple[float, float]:
    """Percentiles of the mean, problems and seeds both drawn again."""
    s, p = x_SP.shape
    of_problem_RS = rng.multinomial(p, np.full(p, 1 / p), size=times) @ x_SP.T / p
    means_R = np.sum(of_problem_RS * rng.multinomial(s, np.full(s, 1 / s), size=times) / s, axis=1)
    low, high = np.quantile(means_R, [0.025, 0.975])
    return float(low), float(high)


def moved_gap(rng: np.random.Generator, seeds: int, problems: int, spread: float) -> Floats:
    """Change of the gap as it is measured, in points, `[seeds, problems]`."""
    chances = probabilities(rng, seeds, problems, spread)
    text, image, new_text, new_image = (
        rng.binomial(SAMPLES, chance) / SAMPLES for chance in chances
    )
    return 100 * (new_text - new_image - (text - image))


def normal(rng: np.random.Generator, seeds: int, problems: int, sds: Sequence[float]) -> Floats:
    """Values around 0 with a share of each problem, of each seed and of each pair, `[seeds,
    problems]`.
    """
    of_problems, of_seeds, rest = sds
    pairs_SP = rng.normal(0, rest, (seeds, problems))
    return pairs_SP + rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_problems, problems)


def row(draw: Callable[[], Floats], right: float, reps: int, bootstraps: int) -> str:
    """The cells of a row: the standard deviation of seeds, and of each way how often it holds and
    half of its width.
    """
    hits: dict[str, int] = dict.fromkeys(NAMES, 0)
    widths: dict[str, float] = dict.fromkeys(NAMES, 0.0)
    sds: list[float] = []
    rng = np.random.default_rng(
        reps
    )  # of the bootstrap alone: the other columns do not depend on it
    for _ in range(reps):
        x_SP = draw()
        mean = float(x_SP.mean())
        own = over_seeds(x_SP, (-200, 200))
        ends = {name: (mean - half, mean + half) for name, half in halves(x_SP).items()}
        ends["each its own"] = own.ci_low, own.ci_high
        if bootstraps:
            ends["two-level bootstrap"] = bootstrap(rng, x_SP, bootstraps)
        sds.append(own.sd or 0.0)
        for name, (low, high) in ends.items():
            hits[name] += low <= right <= high
            widths[name] += (high - low) / reps
    cells = [
        f"{100 * hits[name] / reps:.1f} (±{widths[name] / 2:.1f})" if widths[name] else "–"
        for name in NAMES
    ]
    return f"{math.sqrt(float(np.mean(np.square(sds)))):.1f} | {' | '.join(cells)} |"


def main() -> None:
    """Simulate and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=2000)
    parser.add_argument(
        "--bootstraps", type=int, default=400, help="0 leaves that column out, which takes the time"
    )
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5])
    args = parser.parse_args()
    head = f"sd of seeds | {' | '.join(NAMES)} |\n| {' | '.join(['---:'] * (len(NAMES) + 2))} |"
    print(f"| seeds | {head}")
    for seeds in args.seeds:
        for spread in (0.0, 0.1, 0.2, 0.4):
            rng = np.random.default_rng([seeds, round(10 * spread)])
            right = truth(rng, spread)
            draw = functools.partial(moved_gap, rng, seeds, args.problems, spread)
            print(f"| {seeds} | {row(draw, right, args.reps, args.bootstraps)}", flush=True)
    print(f"\n| seeds, problems; sd of problems, seeds, rest | {head}")
    for seeds, problems, sds in ALIKE:
        rng = np.random.default_rng([seeds, problems, *(int(sd) for sd in sds)])
        named = f"{seeds}, {problems:,}; {', '.join(f'{sd:.0f}' for sd in sds)}"
        draw = functools.partial(normal, rng, seeds, problems, sds)
        print(f"| {named} | {row(draw, 0.0, args.reps, args.bootstraps)}", flush=True)


if __name__ == "__main__":
    main()
