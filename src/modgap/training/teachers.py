"""Weights that score twins beside those that are trained: of the stage's start, or their average.

A teacher keeps a copy of the trained weights (fp32). To score with it, the copy takes their place
and goes back: frozen weights, such as those beside LoRA adapters, exist once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from modgap.core.recipe import Stage
from modgap.core.terms import Twin
from modgap.training.events import TrainablePolicy

Key = tuple[str, float | None]
"""A teacher and its decay."""


class Teachers:
    """The teachers of a stage, one for each kind and decay.

    Args:
        copies: Teacher -> its weights, in the order of the policy's parameters.
    """

    def __init__(self, copies: Mapping[Key, list[Tensor]] | None = None) -> None:
        self._copies = dict(copies or {})

    @classmethod
    def of(cls, stage: Stage, policy: TrainablePolicy) -> Teachers:
        """Those of a stage, with the policy's weights of now: call it at the stage's start."""
        copies: dict[Key, list[Tensor]] = {}
        for twin in stage.twins:
            if twin.teacher != "live":
                copies[twin.teacher, twin.decay] = [p.detach().clone() for p in policy.parameters()]
        return cls(copies)

    @contextmanager
    def weights(self, policy: TrainablePolicy, twin: Twin) -> Iterator[None]:
        """Inside, the policy has the weights that score a twin; nothing may be trained there."""
        if twin.teacher == "live":
            yield
            return
        copy, parameters = self._copies[twin.teacher, twin.decay], list(policy.parameters())
        trained = [parameter.data for parameter in parameters]
        try:
            for parameter, weight in zip(parameters, copy, strict=True):
                parameter.data = weight
            yield
        finally:
            for parameter, weight in zip(parameters, trained, strict=True):
                parameter.data = weight

    @torch.no_grad()
    def follow(self, policy: TrainablePolicy) -> None:
        """Let the averages follow the weights, after an update."""
        for (kind, decay), copy in self._copies.items():
            if kind == "ema":
                assert decay is not None
                for weight, parameter in zip(copy, policy.parameters(), strict=True):
                    weight.lerp_(parameter.detach(), 1 - decay)

    def state(self) -> dict[str, list[Tensor]]:
        """The averages, to be saved; the frozen weights are those of the stage's start."""
        return {
            f"{kind} {decay}": copy for (kind, decay), copy in self._copies.items() if kind == "ema"
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, list[Tensor]]) -> None:
        """Take the averages that `state` gave."""
        for (kind, decay), copy in self._copies.items():
            if kind == "ema":
                for weight, saved in zip(copy, state[f"{kind} {decay}"], strict=True):
                    weight.copy_(saved)
