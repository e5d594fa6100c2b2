"""How well two graders agree on the same samples.

The 2x2 table, the share of agreement, and Cohen's kappa.

Kappa is the agreement beyond what two graders with these shares of right answers would reach by
chance (Cohen, 1960, "A coefficient of agreement for nominal scales"): 1 is perfect, 0 is chance.
The paper reports none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two graders, called first and second, on n samples.

    Attributes:
        both: Samples that both call right.
        first_only: Those that only the first calls right.
        second_only: Those that only the second calls right.
        neither: Those that neither calls right.
    """

    both: int
    first_only: int
    second_only: int
    neither: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[bool, bool]]) -> Agreement:
        """Count (first says right, second says right)."""
        pairs = list(pairs)
        return cls(
            *(
                pairs.count(kind)
                for kind in ((True, True), (True, False), (False, True), (False, False))
            )
        )

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def share(self) -> float | None:
        """Share of samples on which they agree; `None` without samples."""
        return (self.both + self.neither) / self.n if self.n else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa; `None` where chance agreement is complete.

        This is so where one verdict is all that either grader ever gives.
        """
        share = self.share
        if share is None:
            return None
        first, second = (
            (self.both + self.first_only) / self.n,
            (self.both + self.second_only) / self.n,
        )
        chance = first * second + (1 - first) * (1 - second)
        return None if chance == 1 else (share - chance) / (1 - chance)
