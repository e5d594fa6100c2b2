"""The terms of a stage over one mini-batch: which rows need which twin, and what they add.

Used by both engines: they score the rows and their twins, each in its own passes, and give the
log-probabilities to `Terms.loss` and `reshape`.

Legend: B rows of a pass, R rows of a term in it, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modgap.core.recipe import Stage
from modgap.core.terms import Term, places_of
from modgap.models.casts import moved
from modgap.training.objective import (
    Divergence,
    Range,
    divergence,
    response_factors,
    row_weights,
    rows_used,
    token_advantages,
    token_weights,
    weighted_sum,
)
from modgap.training.rollout import Batch

Told = Callable[[tuple[str, str], Tensor, Divergence], None]
"""Gets a term's metrics' names, the mask of its tokens and their values."""


def metrics_of(terms: Sequence[Term]) -> list[tuple[str, str, str]]:
    """The names of each term's metrics: value, clamped share, number of rows.

    Those of the paper's KL are the names that it always had.
    """
    out: list[tuple[str, str, str]] = []
    for number, term in enumerate(terms, start=1):
        names = (f"term{number}", f"term{number}_clamped", f"term{number}_rows")
        first = all("contrastive_kl" not in known for known in out)
        if term.contrastive and first:
            names = ("contrastive_kl", "kl_clamped", "eligible_rows")
        out.append(names)
    return out


def rows_of_term(term: Term, right_B: Tensor, views: Sequence[str]) -> Tensor:
    """The rows of a mini-batch that a term uses, `[B]` bool."""
    used_B = rows_used(right_B, term.rows)
    if term.rollout:
        used_B = used_B & torch.tensor([view == term.rollout for view in views])
    return used_B


@dataclass(frozen=True, slots=True)
class Part:
    """What a term needs in one pass; tensors are on the model's device.

    Attributes:
        number: Of the term, from 0.
        rows: Rows of the batch.
        places: Where they are among the rows of the pass.
        twins: Where their twins are among the pass's rows of that twin; `None` where the twin is
            not scored in the pass.
        weights: Of their tokens in the term's mean.
        factors: Of the rows, for a term that weighs whole responses.
    """

    number: int
    rows: list[int]
    places: Tensor
    twins: Tensor | None
    weights: Tensor
    factors: Tensor | None = None


class Terms:
    """The terms of a stage over a mini-batch.

    Args:
        stage: The stage.
        batch: The rows.
        together: Whether all twins that are trained are scored in the policy's passes.
        device: The model's.
        counted_B: Rows that count at all; all by default.

    Attributes:
        terms: Those with a coefficient.
        twins: The stage's distinct twins.
        live: Number of a twin -> its rows, for twins with gradient in the policy's passes.
        later: The same for twins with gradient in passes of their own.
        still: The same for twins without gradient.
        whole: Number of a term that compares whole distributions -> its rows.
        scores: Number of a twin in `still` -> row -> its log-probabilities. Set before the passes.
        factors: Number of a term -> its factor of each row. Set before the passes.
        needs_rollout: Whether rows are scored after their own prompt at all.
        names: Each term's metrics: value and clamped share.
    """

    def __init__(
        self,
        stage: Stage,
        batch: Batch,
        together: bool,
        device: torch.device,
        counted_B: Tensor | None = None,
    ) -> None:
        self.terms, self.twins = stage.objective, stage.twins
        self._device = device
        settings = stage.settings
        names = metrics_of(stage.all_terms)
        self.names = [names[n][:2] for n, term in enumerate(stage.all_terms) if term.coef]
        lengths_B = torch.tensor([len(tokens) for tokens in batch.responses])
        used = [rows_of_term(term, batch.right_B, batch.views) for term in self.terms]
        if counted_B is not None:
            used = [used_B & counted_B for used_B in used]
        self._rows = [used_B.nonzero()[:, 0].tolist() for used_B in used]
        self._weights = [
            row_weights(lengths_B, settings.loss_mean, settings.micro_batch, used_B)
            for used_B in used
        ]
        self._twin_of: list[int | None] = []
        for term in self.terms:
            self._twin_of.append(None if term.scored is None else self.twins.index(term.scored))
        self.whole = {
            n: self._rows[n] for n, term in enumerate(self.terms) if term.estimator == "full_vocab"
        }
        self.live: dict[int, list[int]] = {}
        self.later: dict[int, list[int]] = {}
        self.still: dict[int, list[int]] = {}
        self._place_twins(together)
        self.scores: dict[int, dict[int, Tensor]] = {}
        self.factors: dict[int, Tensor] = {}
        self.needs_rollout = stage.scores_rollouts

    def _place_twins(self, together: bool) -> None:
        """Decide where each twin is scored."""
        chosen = {"live": self.live, "later": self.later, "still": self.still}
        for twin, places in places_of(self.terms, together).items():
            k = self.twins.index(twin)
            using = [n for n, at in enumerate(self._twin_of) if at == k and n not in self.whole]
            rows = sorted({i for n in using for i in self._rows[n]})
            for place in places:
                chosen[place][k] = rows

    @property
    def has_factors(self) -> bool:
        """Whether a term weighs whole responses."""
        return any(term.trajectory is not None for term in self.terms)

    def rows_of(self, number: int) -> list[int]:
        """The rows that a term uses."""
        return self._rows[number]

    def number_of(self, number: int) -> int:
        """The number of a term's twin."""
        found = self._twin_of[number]
        assert found is not None, "the twin is the rollout itself"
        return found

    def set_weights(self, number: int, weights_B: Tensor) -> None:
        """Replace the weights of all rows' tokens in a term's mean."""
        self._weights[number] = weights_B

    def weights_of(self, number: int, rows: Sequence[int]) -> Tensor:
        """The weights of some rows' tokens in a term's mean."""
        return moved(self._weights[number][list(rows)], self._device)

    def trained_twins(self, batch: Batch) -> list[object]:
        """The prompts of all twins whose images may get a gradient."""
        out: list[object] = []
        for k, rows in (*self.live.items(), *self.later.items()):
            out += [batch.twins[i][k] for i in rows]
        for number, rows in self.whole.items():
            out += [batch.twins[i][self.number_of(number)] for i in rows]
        return out

    def parts(
        self, rows: Sequence[int], twins: Mapping[int, Sequence[int]], only: int | None = None
    ) -> list[Part]:
        """What the terms need in a pass.

        Args:
            rows: Of the pass.
            twins: Number of a twin -> the rows whose twins are in the pass.
            only: Number of the twin whose terms alone are meant: of a pass of its own.
        """
        place = {i: at for at, i in enumerate(rows)}
        out: list[Part] = []
        for number, k in enumerate(self._twin_of):
            elsewhere = k in self.later if only is None else k != only
            if number in self.whole or elsewhere:
                continue
            own = [i for i in self._rows[number] if i in place]
            if not own:
                continue
            places = moved(torch.tensor([place[i] for i in own]), self._device)
            at = factors = None
            if k is not None and k in twins:
                among = {i: n for n, i in enumerate(twins[k])}
                at = moved(torch.tensor([among[i] for i in own]), self._device)
            if number in self.factors:
                factors = moved(self.factors[number][own], self._device)
            weights = self.weights_of(number, own)
            out.append(Part(number, own, places, at, weights, factors))
        return out

    def twin_of(self, part: Part, live: Mapping[int, Tensor], width: int) -> Tensor:
        """The log-probabilities of a part's twins, `[R, width]`."""
        k = self.number_of(part.number)
        if part.twins is not None:
            return live[k][part.twins]
        scores_RT = pad_sequence([self.scores[k][i] for i in part.rows], batch_first=True)
        return F.pad(scores_RT, (0, width - scores_RT.shape[1]))

    def loss(
        self,
        parts: Sequence[Part],
        logps_BT: Tensor,
        mask_BT: Tensor,
        live: Mapping[int, Tensor],
        masks: Mapping[int, Tensor],
        told: Told,
    ) -> Tensor:
        """What the terms of the role `loss` add to the loss of a pass.

        Args:
            parts: What the terms need in the pass.
            logps_BT: Log-probabilities of its rows; no rows where nothing needs them.
            mask_BT: Their real tokens.
            live: Number of a twin -> log-probabilities of its rows in the pass.
            masks: Number of a twin -> their real tokens, for a pass without rows.
            told: Gets the values.
        """
        total = torch.zeros((), device=self._device)
        for part in parts:
            term = self.terms[part.number]
            if term.role != "loss":
                continue
            if len(logps_BT):
                mask_RT, rollout_RT = mask_BT[part.places], logps_BT[part.places]
                twin_RT = rollout_RT
                if self._twin_of[part.number] is not None:
                    twin_RT = self.twin_of(part, live, rollout_RT.shape[1])
            else:  # `nll` of the twin alone
                assert part.twins is not None
                k = self.number_of(part.number)
                twin_RT, mask_RT = live[k][part.twins], masks[k][part.twins]
                rollout_RT = twin_RT
            if not term.learns_from_rollout or term.of_itself:
                rollout_RT = rollout_RT.detach()
            if not term.learns_from_twin and not term.of_itself:
                twin_RT = twin_RT.detach()
            found = divergence(rollout_RT, twin_RT, term.estimator, term.teaches, term.clamp)
            total = total + term.coef * weighted_sum(found.value_BT, part.weights, mask_RT)
            told(self.names[part.number], mask_RT, found)
        return total


def reshape(
    parts: Sequence[Part],
    terms: Terms,
    advantages: Tensor,
    logps_BT: Tensor,
    mask_BT: Tensor,
    live: Mapping[int, Tensor],
    told: Told,
) -> Tensor:
    """The advantages of a pass after the terms that change them, `[B]` or `[B, T]`.

    `(A + sum of coef * added advantage) * product of weights`.

    Args:
        parts: What the terms need in the pass.
        terms: The terms.
        advantages: Of the rows, relative to their groups: `[B]` or `[B, T]`.
        logps_BT: Log-probabilities of the rows, without gradient.
        mask_BT: Their real tokens.
        live: As of `Terms.loss`.
        told: Gets the values.
    """
    changing = [part for part in parts if terms.terms[part.number].role != "loss"]
    if not changing:
        return advantages
    by_row = advantages[:, None] if advantages.ndim == 1 else advantages
    advantages_BT = by_row.expand(logps_BT.shape).clone()
    weights_BT = torch.ones_like(logps_BT)
    for part in changing:
        term = terms.terms[part.number]
        rollout_RT, mask_RT = logps_BT[part.places], mask_BT[part.places]
        twin_RT = terms.twin_of(part, live, logps_BT.shape[1]).detach()
        if term.role == "advantage":
            found = token_advantages(rollout_RT, twin_RT, term.estimator, term.clamp)
            advantages_BT = advantages_BT.index_add(0, part.places, term.coef * found.value_BT)
        else:
            found = divergence(rollout_RT, twin_RT, term.estimator, term.teaches, term.clamp)
            own_RT = token_weights(found.value_BT, mask_RT, term.coef, term.top)
            if term.trajectory is not None:
                assert part.factors is not None, "factors are computed before the passes"
                own_RT = own_RT * part.factors[:, None]
            weights_BT = weights_BT.index_copy(0, part.places, weights_BT[part.places] * own_RT)
        told(terms.names[part.number], mask_RT, found)
    return advantages_BT * weights_BT


def factors_of(
    terms: Terms, rollout: Sequence[Tensor], agree: Callable[[Range], Range] = lambda own: own
) -> dict[int, Tensor]:
    """The factor of each row, for the terms that weigh whole responses.

    Args:
        terms: The terms, the twins without gradient scored.
        rollout: Log-probabilities of all rows, without gradient.
        agree: From the range of this rank's rows to that of all ranks.

    Returns:
        Number of a term -> `[rows of the batch]`, 1 for rows that it does not use.
    """
    out: dict[int, Tensor] = {}
    for number, term in enumerate(terms.terms):
        if term.trajectory is None:
            continue
        rows, scores = terms.rows_of(number), terms.scores.get(terms.number_of(number), {})
        means: list[Tensor] = []
        for i in rows:
            found = divergence(rollout[i], scores[i], term.estimator, term.teaches, term.clamp)
            means.append(found.value_BT.mean())
        means_R = torch.stack(means).cpu() if means else torch.zeros(0)
        factors_B = torch.ones(len(rollout))
        factors_B[rows] = response_factors(means_R, agree(Range.of(means_R)), term.trajectory)
        out[number] = factors_B
    return out
