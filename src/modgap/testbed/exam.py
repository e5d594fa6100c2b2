"""Held-out accuracy of a testbed checkpoint: all samples of all problems in a few batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modgap.core.prompt import evaluation_prompt
from modgap.testbed.data import to_problem

if TYPE_CHECKING:
    from modgap.models.policy import Policy

# Shares of problems that the shipped checkpoint should solve: recipes can then raise or lower them.
BANDS = {"full-text": (0.65, 0.82), "image-only": (0.30, 0.55)}


class Examiner:
    """Held-out problems, encoded once.

    Args:
        policy: The model, for its tokenizer and processor.
        n: How many problems.
        seed: Of the test stream.
        levels: Difficulties.
        views: Views (aligned style), or `paper VIEW`.
    """

    def __init__(
        self, policy: Policy, n: int, seed: int, levels: Sequence[int], views: Sequence[str]
    ) -> None:
        from modgap.datasets.synthetic import make_problem

        made = [make_problem(seed, index, "test", levels) for index in range(n)]
        self.problems = [to_problem(m, f"prob_{i}", "test", i) for i, m in enumerate(made)]
        self.encoded = {view: [] for view in views}
        for problem in self.problems:
            image = problem.open_image()
            for view in views:
                paper = view.startswith("paper ")
                prompt = evaluation_prompt(
                    problem, view.removeprefix("paper "), "paper" if paper else "aligned"
                )
                self.encoded[view].append(
                    policy.encode(prompt, image if prompt.has_image else None)
                )

    def examine(
        self, policy: Policy, samples: int = 5, temperature: float = 0.8
    ) -> dict[str, dict[str, float]]:
        """The figures of each view.

        They are the accuracies, the share of groups with mixed grades, the share of conditions
        written right, the share cut off, and the length.
        """
        from modgap.grading.answer import grade

        n = len(self.problems)
        out: dict[str, dict[str, float]] = {}
        for view, prompts in self.encoded.items():
            greedy = policy.generate(prompts, [[0]] * n, 0.0)
            seeds = [[1_000 * i + k for k in range(samples)] for i in range(n)]
            sampled = policy.generate(prompts, seeds, temperature)
            graded: list[list[bool]] = []
            for p, a, b in zip(self.problems, greedy, sampled, strict=True):
                graded.append([grade(s.text, p.answer).outcome == "correct" for s in [*a, *b]])
            right = np.array(graded)
            read = [
                a[0].text.startswith(f"<think>{', '.join(p.semantic)}. ")
                for p, a in zip(self.problems, greedy, strict=True)
            ]
            inside = right[:, 1:].mean(1)
            every = [s for row in sampled for s in row]
            out[view] = {
                "greedy": float(right[:, 0].mean()),
                "sampled": float(inside.mean()),
                "mixed": float(((inside > 0) & (inside < 1)).mean()),
                "conditions_right": float(np.mean(read)),
                "cut_off": float(np.mean([s.finish_reason == "length" for s in every])),
                "tokens": float(np.mean([len(s.token_ids) for s in every])),
            }
        return out


def fitness(figures: dict[str, dict[str, float]]) -> float:
    """How far accuracies (mean of greedy and sampled) are from the middle of their bands.

    Up to 1 is inside both bands.
    """
    worst = 0.0
    for view, (low, high) in BANDS.items():
        accuracy = (figures[view]["greedy"] + figures[view]["sampled"]) / 2
        worst = max(worst, abs(accuracy - (low + high) / 2) / ((high - low) / 2))
    return worst


def line(view: str, f: dict[str, float]) -> str:
    """A view's figures in one line."""
    return (
        f"  {view:18s} greedy {100 * f['greedy']:5.1f}%  sampled {100 * f['sampled']:5.1f}%  mixed"
        f" groups {100 * f['mixed']:5.1f}%  conditions right {100 * f['conditions_right']:5.1f}% "
        f" cut off {100 * f['cut_off']:4.1f}%  tokens {f['tokens']:.0f}"
    )
