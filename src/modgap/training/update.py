"""The gradients of one optimizer update: policy loss, contrastive KL, and a shared vision pass.

The full-text side of the contrastive KL is detached, so its log-probabilities are those of the
policy's rows. A twin is one more row of the same pass: the tokens that its prompt shares with the
full one, image included, are computed once. (With `full_vocab`, or with a micro-batch of one row,
twins have passes of their own.) The vision tower runs once over the images of a pass. Its features
are detached leaves that collect gradients, and one backward through the tower ends the pass. Where
groups are split, or twins have passes of their own, this is done for the whole mini-batch. The
naive form (every row forwarded twice with its image, in one graph) is the tests' oracle.

Trained weights are always fp32; on a GPU the computation is bf16 by autocast.

Legend: B rows, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modgap.core.progress import doing
from modgap.core.recipe import Settings
from modgap.training.events import TrainablePolicy
from modgap.training.objective import (
    ContrastiveKl,
    contrastive_kl,
    full_vocab_kl,
    policy_loss,
    row_weights,
    weighted_sum,
)
from modgap.training.rollout import Batch


def computing(policy: TrainablePolicy) -> torch.autocast:
    """bf16 autocast on a GPU, nothing on a CPU.

    Autocast's cache of cast weights is off: a cache filled under `no_grad` would cut the graph of a
    later pass. Code that runs many passes with the same weights casts them once with
    `policy.weights_cast`.
    """
    kind = policy.device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda", cache_enabled=False)


@dataclass
class TokenStats:
    """Sums over tokens, for the log.

    Numbers stay on the model's device until `read`: reading one waits for the GPU, which could
    receive the next pass in that time.

    Attributes:
        sums: By name.
        largest_ratio: The largest ratio.
        loss: The loss, summed over updates.
    """

    sums: dict[str, float | Tensor] = field(default_factory=lambda: defaultdict(float))
    largest_ratio: float | Tensor = 0.0
    loss: float | Tensor = 0.0

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

    def means(self) -> dict[str, float]:
        """The metrics of the log; none where there was no update."""
        tokens, twin_tokens = float(self.sums["tokens"]), float(self.sums["twin_tokens"])
        if not tokens:
            return {}
        per_token = ("clip_low", "clip_high", "clip_dual", "ratio_mean", "entropy")
        named = {name: float(self.sums[name]) / tokens for name in per_token}
        named["ratio_max"] = float(self.largest_ratio)
        if twin_tokens:
            named["contrastive_kl"] = float(self.sums["contrastive_kl"]) / twin_tokens
            named["kl_clamped"] = float(self.sums["kl_clamped"]) / twin_tokens
        return named


class SharedVision:
    """Vision features of a mini-batch, as leaves that collect gradients.

    Args:
        policy: The model.
        prompts: All prompts of the mini-batch; prompts with the same image share a leaf.
        at_once: Images of one pass. If there are more, activations are not kept: each pass runs
            again when its gradients are known.
    """

    def __init__(self, policy: TrainablePolicy, prompts: Sequence[Any], at_once: int) -> None:
        self._policy = policy
        by_key = {prompt.image_key: prompt for prompt in prompts if prompt.image_key is not None}
        unique = list(by_key.values())
        self._parts = [unique[i : i + at_once] for i in range(0, len(unique), at_once)]
        self._kept: list[Tensor | None] | None = None
        self._leaves: dict[str, Tensor] = {}
        for part in self._parts:
            features = policy.image_features(part)
            for prompt, feature in zip(part, features, strict=True):
                assert feature is not None, "a prompt with an image has features"
                self._leaves[prompt.image_key] = (
                    feature.detach().float().requires_grad_(feature.requires_grad)
                )
            if len(self._parts) == 1:
                self._kept = features

    def of(self, prompts: Sequence[Any]) -> list[Tensor | None]:
        """The leaf of each prompt's image; `None` without an image."""
        return [
            None if prompt.image_key is None else self._leaves[prompt.image_key]
            for prompt in prompts
        ]

    def backward(self) -> None:
        """Send the collected gradients through the tower."""
        for part in self._parts:
            leaves = [self._leaves[prompt.image_key] for prompt in part]
            if all(leaf.grad is None for leaf in leaves):
                continue
            roots = self._kept or self._policy.image_features(part)
            used: list[Tensor] = []
            received: list[Tensor] = []
            for root, leaf in zip(roots, leaves, strict=True):
                if root is not None and leaf.grad is not None:
                    used.append(root)
                    received.append(leaf.grad.to(root.dtype))
            torch.autograd.backward(used, received)


def pieces(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """Consecutive pieces of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def groups_of(batch: Batch, size: int, twins: bool = False) -> Iterator[list[int]]:
    """Whole groups, of at most `size` rows together (with `twins`: rows and twins).

    A group stays whole, with its twins, if its rows without twins are at most `size`; a larger one
    is cut into pieces.
    """
    taken: list[int] = []
    count = 0
    for _, rows in groupby(range(len(batch)), key=lambda i: id(batch.prompts[i])):
        group = list(rows)
        many = len(group) + (int(batch.eligible_B[group].sum()) if twins else 0)
        if taken and count + many > size:
            yield taken
            taken, count = [], 0
        if len(group) > size:
            yield from pieces(group, size)
        else:
            taken, count = taken + group, count + many
    if taken:
        yield taken


def twins_together(settings: Settings, micro_batch: int) -> bool:
    """Whether twins are rows of the policy's passes; with one row at a time memory is too small."""
    return micro_batch > 1 and settings.kl_estimator != "full_vocab"


def old_logprobs(
    policy: TrainablePolicy, batch: Batch, settings: Settings, micro_batch: int
) -> list[Tensor]:
    """Log-probabilities of each row's response now, without gradient."""
    out: list[Tensor] = []
    with torch.no_grad(), computing(policy), policy.weights_cast():
        passes = list(groups_of(batch, micro_batch))
        for number, rows in enumerate(passes, start=1):
            doing(f"log-probabilities: pass {number} of {len(passes)}")
            prompts = [batch.prompts[i] for i in rows]
            responses = [batch.responses[i] for i in rows]
            logps_BT, _, _ = policy.logprobs(
                prompts, responses, policy.image_features(prompts), settings.temperature
            )
            out += [row[: len(tokens)] for row, tokens in zip(logps_BT, responses, strict=True)]
    return out


def gradients(
    policy: TrainablePolicy, batch: Batch, settings: Settings, contrastive: bool, micro_batch: int
) -> TokenStats:
    """Fill the parameters' gradients with those of one mini-batch, `micro_batch` rows at a time.

    Starts from zero, so it can be called again after it ran out of memory. The result depends on
    `micro_batch` only by rounding.
    """
    for parameter in policy.parameters():
        parameter.grad = None
    contrastive = contrastive and settings.kl_coef > 0
    together = contrastive and twins_together(settings, micro_batch)
    apart = contrastive and not together
    stats = TokenStats()
    logps: list[Tensor] = []

    with computing(policy), policy.weights_cast():
        passes = _passes(batch, settings, micro_batch, together, policy.device)
        twin_passes: list[tuple[list[int], Tensor]] = []
        if apart:
            twin_passes = _twin_passes(batch, settings, micro_batch, policy.device)
        # An image that several passes use is encoded before them; other images are encoded in their
        # pass.
        vision = None
        if apart or _share_a_prompt(batch, passes):
            vision = SharedVision(policy, [*batch.prompts, *filter(None, batch.twins)], micro_batch)

        for number, part in enumerate(passes, start=1):
            doing(f"update: pass {number} of {len(passes)}")
            prompts = [batch.prompts[i] for i in part.rows] + [batch.twins[i] for i in part.twins]
            seen = vision or SharedVision(policy, prompts, micro_batch)
            logps += _backward(policy, batch, part, seen.of(prompts), settings, stats)
            if vision is None:
                seen.backward()

        for rows, weights_W in twin_passes:
            doing(f"update: the KL of {len(rows)} of {len(batch)} responses")
            assert vision is not None
            kl, mask_BT = _twin_kl(policy, batch, rows, vision, logps, settings)
            stats.backward(settings.kl_coef * weighted_sum(kl.kl_BT, weights_W, mask_BT))
            stats.add(
                mask_BT, twin_tokens=mask_BT, contrastive_kl=kl.kl_BT, kl_clamped=kl.clamped_BT
            )

        if vision is not None:
            vision.backward()
    return stats.read()


@dataclass(frozen=True, slots=True)
class _Pass:
    """The rows of one pass, and what their loss needs, on the model's device.

    Attributes:
        rows: Rows of the batch.
        twins: Those of them whose twins are in the pass, after the rows.
        places: The places of these rows in the pass.
        weights: Of the rows' tokens in the policy loss.
        kl_weights: Of the twins' tokens in the contrastive KL.
        advantages: Of the rows.
    """

    rows: list[int]
    twins: list[int]
    places: Tensor
    weights: Tensor
    kl_weights: Tensor
    advantages: Tensor


def _row_weights(batch: Batch, settings: Settings, chosen_B: Tensor | None = None) -> Tensor:
    lengths_B = torch.tensor([len(tokens) for tokens in batch.responses])
    return row_weights(lengths_B, settings.loss_mean, settings.micro_batch, chosen_B)


def _passes(
    batch: Batch, settings: Settings, micro_batch: int, together: bool, device: torch.device
) -> list[_Pass]:
    """The passes of a mini-batch; `together` with the twins of their rows.

    All numbers are moved to the device before the first pass, and results are read after the last
    one: a pass that waits for another one leaves the GPU idle.
    """
    parts = list(groups_of(batch, micro_batch, together))
    twins: list[list[int]] = [[] for _ in parts]
    if together:
        twins = [[i for i in rows if batch.eligible_B[i]] for rows in parts]
    within: list[int] = []
    for rows, right in zip(parts, twins, strict=True):
        within += [i - rows[0] for i in right]
    twin_rows = torch.tensor(list(chain.from_iterable(twins)), dtype=torch.long)
    kl_weights_B = _row_weights(batch, settings, batch.eligible_B)
    sizes, twin_sizes = [len(rows) for rows in parts], [len(right) for right in twins]
    columns = (
        parts,
        twins,
        torch.tensor(within, dtype=torch.long).to(device).split(twin_sizes),
        _row_weights(batch, settings).to(device).split(sizes),
        kl_weights_B[twin_rows].to(device).split(twin_sizes),
        batch.advantages_B.to(device).split(sizes),
    )
    return [_Pass(*values) for values in zip(*columns, strict=True)]


def _twin_passes(
    batch: Batch, settings: Settings, micro_batch: int, device: torch.device
) -> list[tuple[list[int], Tensor]]:
    """The passes of twins apart from their rows: the rows, and their tokens' weights in the KL."""
    rows = list(pieces(batch.eligible_B.nonzero()[:, 0].tolist(), micro_batch))
    kl_weights_B = _row_weights(batch, settings, batch.eligible_B)
    weights = kl_weights_B[batch.eligible_B].to(device).split(micro_batch)
    # Not strict: without rows, `split` still gives one empty part of weights.
    return list(zip(rows, weights, strict=False))


def _share_a_prompt(batch: Batch, passes: Sequence[_Pass]) -> bool:
    """Whether a group is cut, so that two passes have the same prompt."""
    for first, second in pairwise(passes):
        if batch.prompts[first.rows[-1]] is batch.prompts[second.rows[0]]:
            return True
    return False


def _backward(
    policy: TrainablePolicy,
    batch: Batch,
    part: _Pass,
    features: Sequence[Tensor | None],
    settings: Settings,
    stats: TokenStats,
) -> list[Tensor]:
    """The loss of one pass, and its gradient; returns each row's log-probabilities, detached."""
    rows, n = part.rows, len(part.rows)
    prompts = [batch.prompts[i] for i in rows] + [batch.twins[i] for i in part.twins]
    responses = [batch.responses[i] for i in [*rows, *part.twins]]
    all_BT, entropy_BT, mask_BT = policy.logprobs(
        prompts, responses, features, settings.temperature
    )
    logps_BT, free_BT = all_BT.split((n, len(part.twins)))
    entropy_BT, (mask_BT, right_BT) = entropy_BT[:n], mask_BT.split((n, len(part.twins)))
    now_BT = logps_BT.detach()
    old_BT = now_BT
    if batch.old_logps is not None:
        old_BT = pad_sequence([batch.old_logps[i] for i in rows], batch_first=True)
    terms = policy_loss(
        logps_BT,
        old_BT,
        part.advantages,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
    )
    loss = weighted_sum(terms.loss_BT, part.weights, mask_BT)
    if part.twins:
        kl = contrastive_kl(now_BT[part.places], free_BT, settings.kl_estimator, settings.kl_clamp)
        loss = loss + settings.kl_coef * weighted_sum(kl.kl_BT, part.kl_weights, right_BT)
        stats.add(right_BT, twin_tokens=right_BT, contrastive_kl=kl.kl_BT, kl_clamped=kl.clamped_BT)
    stats.backward(loss)
    stats.add(
        mask_BT,
        tokens=mask_BT,
        entropy=entropy_BT,
        ratio_mean=terms.ratio_BT,
        clip_low=terms.low_BT,
        clip_high=terms.high_BT,
        clip_dual=terms.dual_BT,
    )
    stats.add_ratio(mask_BT, terms.ratio_BT)
    return [row[: len(tokens)] for row, tokens in zip(now_BT, responses, strict=False)]


def _twin_kl(
    policy: TrainablePolicy,
    batch: Batch,
    rows: list[int],
    vision: SharedVision,
    logps: list[Tensor],
    settings: Settings,
) -> tuple[ContrastiveKl, Tensor]:
    """The contrastive KL of some rows, and their mask."""
    twins, responses = [batch.twins[i] for i in rows], [batch.responses[i] for i in rows]
    features = vision.of(twins)
    if settings.kl_estimator == "full_vocab":
        with torch.no_grad():
            prompts = [batch.prompts[i] for i in rows]
            full_BTV, _ = policy.distributions(
                prompts, responses, vision.of(prompts), settings.temperature
            )
        free_BTV, mask_BT = policy.distributions(twins, responses, features, settings.temperature)
        return full_vocab_kl(full_BTV, free_BTV), mask_BT
    free_BT, _, mask_BT = policy.logprobs(twins, responses, features, settings.temperature)
    full_BT = pad_sequence([logps[i] for i in rows], batch_first=True)
    return contrastive_kl(full_BT, free_BT, settings.kl_estimator, settings.kl_clamp), mask_BT
