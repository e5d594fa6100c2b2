"""Sums over the tokens of updates, for the log.

Legend: B rows, R rows of a term, T response tokens.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modgap.training.objective import Divergence


@dataclass
class TokenStats:
    """Sums over tokens, for the log.

    Numbers stay on the model's device until `read`: reading one waits for the GPU, which could
    receive the next pass in that time.

    Attributes:
        sums: By name.
        largest_ratio: The largest ratio.
        loss: The loss, summed over updates.
        terms: The metrics of terms: the value's name -> that of its clamped share.
    """

    sums: dict[str, float | Tensor] = field(default_factory=lambda: defaultdict(float))
    largest_ratio: float | Tensor = 0.0
    loss: float | Tensor = 0.0
    terms: dict[str, str] = field(default_factory=dict[str, str])

    def backward(self, loss: Tensor) -> None:
        """Add a part of the loss, and its gradient."""
        self.loss = self.loss + loss.detach()
        loss.backward()

    def add(self, mask_BT: Tensor, **values_BT: Tensor) -> None:
        """Add the values of real tokens."""
        stacked = torch.stack([value.detach().float() for value in values_BT.values()])
        totals = torch.where(mask_BT, stacked, 0.0).sum((1, 2), dtype=torch.float64)
        for name, total in zip(values_BT, totals.unbind(), strict=True):
            self.sums[name] += total

    def add_term(self, names: tuple[str, str], mask_RT: Tensor, found: Divergence) -> None:
        """Add the values of a term's tokens."""
        value, clamped = names
        self.terms[value] = clamped
        counted = {f"tokens of {value}": mask_RT, value: found.value_BT, clamped: found.clamped_BT}
        self.add(mask_RT, **counted)

    def add_ratio(self, mask_BT: Tensor, ratio_BT: Tensor) -> None:
        """Update the largest ratio."""
        self.largest_ratio = (
            torch.where(mask_BT, ratio_BT.detach(), 0.0).max().clamp(min=self.largest_ratio)
        )

    def read(self) -> TokenStats:
        """Convert all values to Python numbers, and return itself."""
        self.sums = defaultdict(float, {name: float(value) for name, value in self.sums.items()})
        self.largest_ratio, self.loss = float(self.largest_ratio), float(self.loss)
        return self

    def merge(self, other: TokenStats) -> None:
        """Add the sums of another one; both must be read."""
        for name, value in other.sums.items():
            self.sums[name] += value
        self.largest_ratio = max(self.largest_ratio, other.largest_ratio)
        self.loss += other.loss
        self.terms |= other.terms

    def means(self) -> dict[str, float]:
        """The metrics of the log; none where there was no update."""
        named: dict[str, float] = {}
        if tokens := float(self.sums["tokens"]):
            per_token = ("clip_low", "clip_high", "clip_dual", "ratio_mean", "entropy")
            named = {name: float(self.sums[name]) / tokens for name in per_token}
            named["ratio_max"] = float(self.largest_ratio)
        for value, clamped in self.terms.items():
            if counted := float(self.sums[f"tokens of {value}"]):
                named[value] = float(self.sums[value]) / counted
                named[clamped] = float(self.sums[clamped]) / counted
        return named
