"""The causal split of the gap on simulated models whose parts are known: coverage and bias.

`python bench/causal.py [--runs 1000] [--problems 200]` prints, for a model that keeps all
assumptions and for models that break one each, the mean estimate, the truth and how often the 95%
interval holds the truth. The tables of docs/reference/causal.md are its output.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modgap.analysis.causal import VIEWS, estimate
from modgap.core.view import samples_of

PARTS = ("writing", "reading", "integration", "reasoning", "use")


@dataclass(frozen=True)
class World:
    """A simulated model, and the assumptions that it breaks.

    Attributes:
        solve: Mean probability that it solves a problem from words in the prompt.
        seen: Of that, what is left when it answers from the picture without writing.
        reads: Mean probability that what it writes down is right.
        follows: Probability that an answer follows the words before it.
        keeps: Of `solve`, what is left when the words stand in its own answer.
        indecisive: Share of the changed numbers that do not change the answer.
        conflict: Share of the answers that follow words, but not words that contradict the picture.
        easier: How much more an answer follows the words the easier the problem is.
        lucky: Probability that a misread or changed number still gives the right answer.
        foreign: Share of the right answers that is lost after prefilled words, which are not the
            model's own, also with the same words in the prompt.
        apart: More of that where the conditions are in the picture only.
        twice: The same with the words in the prompt, too, alone.
        instructed: Points that the request to write down costs by itself.
        moved: The transcription stands in the user turn, where it is used as the prompt's words.
    """

    solve: float = 0.7
    seen: float = 0.7
    reads: float = 0.7
    follows: float = 0.8
    keeps: float = 0.9
    indecisive: float = 0.0
    conflict: float = 0.0
    easier: float = 0.0
    lucky: float = 0.0
    foreign: float = 0.0
    apart: float = 0.0
    twice: float = 0.0
    instructed: float = 0.0
    moved: bool = False


WORLDS = {
    "all assumptions hold": World(),
    "2% of the answers do not follow": World(follows=0.98),
    "only reading fails": World(keeps=1.0, follows=1.0, reads=0.5),
    "only reasoning fails": World(keeps=0.7, follows=1.0, reads=1.0),
    "only integration fails": World(keeps=1.0, follows=0.5, reads=1.0),
    "20% of the changed numbers do not matter": World(indecisive=0.2),
    "a fifth of the followers trust the picture in a conflict": World(conflict=0.2),
    "easier problems follow more": World(easier=0.3),
    "wrong words give the right answer in 5%": World(lucky=0.05),
    "prefilled words lose 10% of the right answers": World(foreign=0.1),
    "prefilled words lose 10% with the picture only": World(apart=0.1),
    "prefilled words lose 10% with the words in the prompt only": World(twice=0.1),
    "the request costs 5 points by itself": World(instructed=0.05),
    "the transcription stands in the user turn": World(moved=True),
}


def probabilities(
    world: World, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """The chance of a right sample of each problem in each view, and the mean parts in points."""
    hard = rng.beta(4 * world.solve, 4 * (1 - world.solve), count)
    reads = rng.beta(3 * world.reads, 3 * (1 - world.reads), count) if world.reads < 1 else 1.0
    seen = np.minimum(world.seen * hard * rng.uniform(0.7, 1.3, count), 1)
    follows = np.clip(world.follows + world.easier * (hard - hard.mean()), 0, 1)
    after = world.keeps * hard  # with right words in its own answer, which it follows
    wrong = world.lucky
    own = follows * (reads * after + (1 - reads) * wrong) + (1 - follows) * seen
    best = follows * after + (1 - follows) * seen  # were all that it writes right
    follows_set, after_set = (1.0, hard) if world.moved else (follows, after)
    prefilled = hard * (1 - world.foreign - world.twice)
    after_set = after_set * (1 - world.foreign - world.apart)
    true = follows_set * after_set + (1 - follows_set) * seen
    against = follows_set * (1 - world.conflict)
    still = world.indecisive * after_set + (1 - world.indecisive) * wrong
    corrupted = against * still + (1 - against) * seen
    told = np.stack([own, true, corrupted, prefilled], axis=1) - world.instructed
    shown = np.stack([hard, seen, *told.clip(0, 1).T], axis=1)
    parts = {
        "writing": own - seen,
        "reading": best - own,
        "integration": (1 - follows) * (hard - seen),
        "reasoning": follows * (hard - after),
        "use": hard - best,
    }
    return shown, {name: 100 * float(np.mean(values)) for name, values in parts.items()}


def simulate(
    world: World, runs: int, problems: int, samples: int = 4, seed: int = 0, resamples: int = 1000
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Truth, mean estimate and coverage of the 95% interval of each part."""
    _, truth = probabilities(world, 400_000, np.random.default_rng(1))
    rng = np.random.default_rng(seed)
    asked_K = np.array([samples_of(view, samples) for view in VIEWS])
    sums, held = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0)
    for run in range(runs):
        shown_PK, _ = probabilities(world, problems, rng)
        found = estimate(rng.binomial(asked_K, shown_PK) / asked_K, resamples=resamples, seed=run)
        for name in PARTS:
            part = found.use if name == "use" else found.parts[name]
            sums[name] += part.points / runs
            held[name] += part.ci_low <= truth[name] <= part.ci_high
    return truth, sums, {name: count / runs for name, count in held.items()}


def main() -> None:
    """Print a row for each world and part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=4)
    given = parser.parse_args()
    print("| model | " + " | ".join(PARTS) + " |\n|" + " --- |" * (len(PARTS) + 1))
    for name, world in WORLDS.items():
        truth, mean, held = simulate(world, given.runs, given.problems, given.samples)
        cells = (f"{truth[p]:.1f}: {mean[p] - truth[p]:+.1f} ({held[p]:.0%})" for p in PARTS)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
