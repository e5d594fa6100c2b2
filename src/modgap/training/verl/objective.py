"""The terms of a stage over one rank's rows of a mini-batch of verl's.

The same `Terms` as the local engine's, with what is different here: the rows are spread over ranks,
so that a term's mean and the range of its values are taken over all of them; verl adds rows as
padding; passes are given.

Legend: B rows of a pass, R rows of a term in it, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modgap.core.recipe import Stage
from modgap.models.encode import EncodedPrompt
from modgap.training.objective import Divergence, Range, right_rows
from modgap.training.rollout import Batch
from modgap.training.terms import Part, Terms, factors_of, metrics_of, reshape
from modgap.training.verl.rows import Looks, Row, items, lengths_of, twins_of, with_twins


@dataclass(frozen=True, slots=True)
class Ranks:
    """The data-parallel ranks.

    Attributes:
        count: How many there are.
        over: (number, `sum`, `max` or `min`) -> that of all ranks. All must call it together.
    """

    count: int
    over: Callable[[float, str], float]

    def agree(self, own: Range) -> Range:
        """The range of all ranks' rows."""
        ways = ("min", "max", "sum", "sum")
        found = [torch.tensor(self.over(float(x), way)) for x, way in zip(own, ways, strict=True)]
        return Range(*found)


class RankTerms:
    """The terms over the rows of this rank.

    Args:
        stage: With terms.
        data: verl's columns, with `extra_fields` and `response_mask`.
        rows: Its rows.
        looks: Of the model.
        ranks: All ranks.
        device: Where the model computes.

    Attributes:
        terms: The terms.
        rows: The rows with the twins that are scored in their passes.
        twins: Each row's prompts.
        lengths: Tokens of each response.
    """

    def __init__(
        self,
        stage: Stage,
        data: Mapping[str, Any],
        rows: Sequence[Row],
        looks: Looks,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        lengths = lengths_of(data["response_mask"])
        masks = data["response_mask"].values().cpu().split(lengths)
        # A row that verl added has the fields of a real one, but an empty mask and no image.
        real = [bool(mask.any()) for mask in masks]
        fields = items(data, "extra_fields")
        told = [own.get("reward_extra_info") or {} for own in fields]
        scores = [float(own.get("answer", own.get("score", 0.0))) for own in told]
        self.twins = twins_of(data, rows, real, stage, looks)
        batch = Batch(
            [row.prompt for row in rows],
            list(self.twins),
            [own.get("rollout_view", "") for own in fields],
            [row.response for row in rows],
            torch.zeros(len(rows)),
            right_rows(torch.tensor(scores)),
        )
        self.terms = Terms(stage, batch, True, device, torch.tensor(real))
        self._stage, self._ranks, self.lengths = stage, ranks, lengths
        self._rows, self._means = self.terms.rows_of, stage.settings.loss_mean
        self._tokens: list[float] = []
        for number in range(len(self.terms.terms)):
            own = sum(lengths[i] for i in self._rows(number))
            self._tokens.append(max(1.0, ranks.over(float(own), "sum")))
        trained: list[dict[int, EncodedPrompt]] = [{} for _ in rows]
        for k, using in self.terms.live.items():
            for i in using:
                twin = self.twins[i][k]
                assert twin is not None, "a real row has every twin"
                trained[i][k] = twin
        self.rows = [with_twins(row, own) for row, own in zip(rows, trained, strict=True)]

    def weigh(self, passes: Sequence[Sequence[int]]) -> None:
        """Set the weights of the tokens in each term's mean.

        verl averages the loss over ranks. `micro_batch` is the mean over passes of each one's own
        mean on each rank.
        """
        for number in range(len(self.terms.terms)):
            weights_B = torch.zeros(len(self.lengths))
            used = set(self._rows(number))
            if self._means == "mini_batch":
                weights_B[list(used)] = self._ranks.count / self._tokens[number]
            else:
                for chosen in passes:
                    own = [i for i in chosen if i in used]
                    tokens = sum(self.lengths[i] for i in own)
                    weights_B[own] = 1.0 / (max(1, tokens) * len(passes))
            self.terms.set_weights(number, weights_B)

    def still_rows(self, number: int) -> list[tuple[int, Row]]:
        """Rows after a twin without gradient: index in the batch, and the row to score."""
        out: list[tuple[int, Row]] = []
        for i in self.terms.still[number]:
            twin = self.twins[i][number]
            assert twin is not None, "a real row has every twin"
            out.append((i, Row(twin, self.rows[i].response)))
        return out

    def metrics(self, sums: Mapping[str, float], chosen: Sequence[int]) -> dict[str, float]:
        """As of `PassTerms`, from the sums over the tokens of these rows."""
        out: dict[str, float] = {}
        inside, count = set(chosen), self._ranks.count
        every = zip(self._stage.all_terms, metrics_of(self._stage.all_terms), strict=True)
        used = [names for term, names in every if term.coef]
        for number, (value, clamped, rows) in enumerate(used):
            out[rows] = float(count * sum(i in inside for i in self._rows(number)))
            for name in (value, clamped):
                out[name] = sums.get(name, 0.0) * count / self._tokens[number]
        return out

    def set_factors(self, rollout: Sequence[Tensor]) -> None:
        """Set the factors of whole responses.

        Args:
            rollout: Log-probabilities of all rows, without gradient.
        """
        self.terms.factors = factors_of(self.terms, rollout, self._ranks.agree)

    def of_pass(self, chosen: Sequence[int]) -> PassTerms:
        """What the terms need in a pass over these rows."""
        twins: dict[int, list[int]] = {}
        for k, using in sorted(self.terms.live.items()):
            inside = set(using)
            if found := [i for i in chosen if i in inside]:
                twins[k] = found
        parts = self.terms.parts(chosen, twins)
        return PassTerms(self, list(chosen), twins, parts)


@dataclass
class PassTerms:
    """The terms in one pass.

    Attributes:
        of: The terms of the mini-batch.
        chosen: Rows of the pass.
        twins: Number of a twin -> rows whose twins follow the rows of the pass, in order.
        parts: What each term needs.
        sums: Sums of what terms told: name -> value.
    """

    of: RankTerms
    chosen: list[int]
    twins: dict[int, list[int]]
    parts: list[Part]
    sums: dict[str, float] = field(default_factory=dict[str, float])

    def told(self, names: tuple[str, str], mask_RT: Tensor, found: Divergence) -> None:
        """Add the values of a term's tokens."""
        for name, values_RT in zip(names, found, strict=True):
            total = torch.where(mask_RT, values_RT.detach().float(), 0.0).sum()
            self.sums[name] = self.sums.get(name, 0.0) + float(total)

    def loss(self, logps: Tensor, advantages: Any) -> tuple[Tensor, Any]:
        """What the terms add to the loss of the pass, and the advantages that they change.

        Args:
            logps: Log-probabilities of the responses of the rows, then of each twin's rows.
            advantages: verl's column, nested.

        Returns:
            The loss, and the advantages as the column; `None` where no term changes them.
        """
        terms, lengths = self.of.terms, self.of.lengths
        own = [lengths[i] for i in self.chosen]
        masks = [torch.ones(n, dtype=torch.bool, device=logps.device) for n in own]
        mask_BT = pad_sequence(masks, batch_first=True)
        sizes = [*own, *(lengths[i] for rows in self.twins.values() for i in rows)]
        pieces = list(logps.split(sizes))
        logps_BT = pad_sequence(pieces[: len(own)], batch_first=True)
        live: dict[int, Tensor] = {}
        at = len(own)
        for k, rows in self.twins.items():
            block_RT = pad_sequence(pieces[at : at + len(rows)], batch_first=True)
            live[k] = F.pad(block_RT, (0, logps_BT.shape[1] - block_RT.shape[1]))
            at += len(rows)
        loss = terms.loss(self.parts, logps_BT, mask_BT, live, {}, self.told)
        if all(terms.terms[part.number].role == "loss" for part in self.parts):
            return loss, None
        flat = advantages.values().split(own)
        advantages_BT = pad_sequence(list(flat), batch_first=True)
        changed_BT = reshape(
            self.parts, terms, advantages_BT, logps_BT.detach(), mask_BT, live, self.told
        )
        rows = [row[:n] for row, n in zip(changed_BT, own, strict=True)]
        # Not from the mask's offsets: torch would pad to the longest row of the whole mini-batch.
        return loss, torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    def metrics(self) -> dict[str, float]:
        """This pass's share of the metrics: the sum over passes, averaged over ranks, is the mean.

        The same names on every rank and in every pass, also where a term has no row: verl gathers
        them from every rank and expects the same names and number.
        """
        return self.of.metrics(self.sums, self.chosen)
