"""The gradients of one optimizer update: policy loss, further terms, and a shared vision pass.

A term (`training/terms.py`) scores a response a second time, after its twin. A twin that is trained
is one more row of the policy's pass: the tokens that its prompt shares with the rollout's, image
included, are computed once. A twin without gradient is scored before the passes and keeps nothing
for a backward pass; so is one with other weights. With `full_vocab`, or with a micro-batch of one
row, twins that are trained have passes of their own. The vision tower runs once over the images of
a pass, or of several small ones. Its features are detached leaves that collect gradients, and one
backward through the tower ends these passes. Where groups are split, or twins have passes of their
own, this is done for the whole mini-batch. The naive form (every row forwarded twice with its
image, in one graph) is the tests' oracle.

Trained weights are always fp32; on a GPU the computation is bf16 by autocast.

Legend: B rows, R rows of a term, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modgap.core.progress import doing
from modgap.core.recipe import Settings, Stage
from modgap.training.events import TrainablePolicy
from modgap.training.objective import (
    full_vocab_kl,
    policy_loss,
    row_weights,
    weighted_sum,
)
from modgap.training.rollout import Batch
from modgap.training.stats import TokenStats
from modgap.training.teachers import Teachers
from modgap.training.terms import Part, Terms, factors_of, reshape

# Tokens of the prompts whose images pass the tower together; see `_seen_together`.
TOGETHER = 2048


def computing(policy: TrainablePolicy) -> torch.autocast:
    """bf16 autocast on a GPU, nothing on a CPU.

    Autocast's cache of cast weights is off: a cache filled under `no_grad` would cut the graph of a
    later pass. Code that runs many passes with the same weights casts them once with
    `policy.weights_cast`.
    """
    kind = policy.device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda", cache_enabled=False)


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


def groups_of(
    rows: Sequence[int],
    prompts: Sequence[Any],
    size: int,
    twins: Sequence[int] = (),
    scored: bool = True,
) -> Iterator[list[int]]:
    """Whole groups, of at most `size` rows together, twins counted.

    A group stays whole, with its twins, if its rows without twins are at most `size`; a larger one
    is cut into pieces.

    Args:
        rows: Rows of the batch, in order.
        prompts: Of all rows of the batch; those of a group are one object.
        size: Most rows.
        twins: Twins of each row of the batch; none by default.
        scored: Whether the rows themselves are scored, not only their twins.
    """
    taken: list[int] = []
    count = 0
    for _, same in groupby(rows, key=lambda i: id(prompts[i])):
        group = list(same)
        many = len(group) * scored + (sum(twins[i] for i in group) if twins else 0)
        if taken and count + many > size:
            yield taken
            taken, count = [], 0
        if len(group) > size:
            yield from pieces(group, size)
        else:
            taken, count = taken + group, count + many
    if taken:
        yield taken


def twins_together(micro_batch: int) -> bool:
    """Whether twins are rows of the policy's passes; with one row at a time memory is too small."""
    return micro_batch > 1


def old_logprobs(
    policy: TrainablePolicy, batch: Batch, settings: Settings, micro_batch: int
) -> list[Tensor]:
    """Log-probabilities of each row's response now, without gradient."""
    rows = list(range(len(batch)))
    return _scored(policy, batch.prompts, batch.responses, rows, settings, micro_batch)


def _scored(
    policy: TrainablePolicy,
    prompts: Sequence[Any],
    responses: Sequence[Tensor],
    rows: Sequence[int],
    settings: Settings,
    micro_batch: int,
) -> list[Tensor]:
    """Log-probabilities of some rows' responses after these prompts, without gradient."""
    out: list[Tensor] = []
    with torch.no_grad(), computing(policy), policy.weights_cast():
        passes = list(groups_of(rows, prompts, micro_batch))
        for number, part in enumerate(passes, start=1):
            doing(f"log-probabilities: pass {number} of {len(passes)}")
            asked, said = [prompts[i] for i in part], [responses[i] for i in part]
            logps_BT, _, _ = policy.logprobs(
                asked, said, policy.image_features(asked), settings.temperature
            )
            out += [row[: len(tokens)] for row, tokens in zip(logps_BT, said, strict=True)]
    return out


def gradients(
    policy: TrainablePolicy,
    batch: Batch,
    stage: Stage,
    micro_batch: int,
    teachers: Teachers | None = None,
) -> TokenStats:
    """Fill the parameters' gradients with those of one mini-batch, `micro_batch` rows at a time.

    Starts from zero, so it can be called again after it ran out of memory. The result depends on
    `micro_batch` only by rounding.
    """
    for parameter in policy.parameters():
        parameter.grad = None
    settings = stage.settings
    terms = Terms(stage, batch, twins_together(micro_batch), policy.device)
    stats = TokenStats()
    _score_still(policy, batch, terms, settings, micro_batch, teachers)
    logps: list[Tensor] = []

    with computing(policy), policy.weights_cast():
        passes = _passes(batch, terms, settings, micro_batch, policy.device)
        # An image that several passes use is encoded before all of them; other images with those of
        # the next few passes.
        vision = None
        if terms.later or terms.whole or _share_a_prompt(batch, passes):
            vision = SharedVision(
                policy, [*batch.prompts, *terms.trained_twins(batch)], micro_batch
            )

        number = 0
        for together in [passes] if vision else _seen_together(batch, passes, micro_batch):
            asked = [prompt for part in together for prompt in part.asked(batch)[0]]
            seen = vision or SharedVision(policy, asked, max(1, len(asked)))
            for part in together:
                number += 1
                doing(f"update: pass {number} of {len(passes)}")
                prompts, responses = part.asked(batch)
                if not prompts:
                    continue
                scored = policy.logprobs(prompts, responses, seen.of(prompts), settings.temperature)
                logps += _backward(batch, part, scored, stage, terms, stats)
            if vision is None:
                seen.backward()

        if vision is not None:
            _later_twins(policy, batch, terms, vision, logps, settings, micro_batch, stats)
            _whole_vocabulary(policy, batch, terms, vision, settings, micro_batch, stats)
            vision.backward()
    return stats.read()


def _score_still(
    policy: TrainablePolicy,
    batch: Batch,
    terms: Terms,
    settings: Settings,
    micro_batch: int,
    teachers: Teachers | None,
) -> None:
    """Score the twins without gradient, and what the factors of whole responses follow from."""
    for k, rows in terms.still.items():
        prompts = [twins[k] if twins else None for twins in batch.twins]
        with (teachers or Teachers()).weights(policy, terms.twins[k]):
            scored = _scored(policy, prompts, batch.responses, rows, settings, micro_batch)
        terms.scores[k] = dict(zip(rows, scored, strict=True))
    if terms.has_factors:
        rollout = old_logprobs(policy, batch, settings, micro_batch)
        terms.factors = factors_of(terms, rollout)


@dataclass(frozen=True, slots=True)
class _Pass:
    """The rows of one pass, and what their loss needs, on the model's device.

    Attributes:
        rows: Rows of the batch.
        scored: Those of them that are scored after their own prompt: all, or none where nothing
            needs it.
        twins: Number of a twin -> the rows whose twins are in the pass, in order after the rows.
        weights: Of the rows' tokens in the policy loss.
        advantages: Of the rows.
        parts: What each term needs.
    """

    rows: list[int]
    scored: list[int]
    twins: dict[int, list[int]]
    weights: Tensor
    advantages: Tensor
    parts: list[Part]

    def asked(self, batch: Batch) -> tuple[list[Any], list[Tensor]]:
        """Prompts and responses of the pass."""
        prompts = [batch.prompts[i] for i in self.scored]
        responses = [batch.responses[i] for i in self.scored]
        for k, rows in self.twins.items():
            prompts += [batch.twins[i][k] for i in rows]
            responses += [batch.responses[i] for i in rows]
        return prompts, responses


def _passes(
    batch: Batch, terms: Terms, settings: Settings, micro_batch: int, device: torch.device
) -> list[_Pass]:
    """The passes of a mini-batch, with the twins that are trained.

    All numbers are moved to the device before the first pass, and results are read after the last
    one: a pass that waits for another one leaves the GPU idle.
    """
    lengths_B = torch.tensor([len(tokens) for tokens in batch.responses])
    weights_B = row_weights(lengths_B, settings.loss_mean, settings.micro_batch)
    counts = [0] * len(batch)
    for rows in terms.live.values():
        for i in rows:
            counts[i] += 1
    everything = range(len(batch))
    rows_of_passes = list(
        groups_of(everything, batch.prompts, micro_batch, counts, terms.needs_rollout)
    )
    sizes = [len(rows) for rows in rows_of_passes]
    weights = weights_B.to(device).split(sizes)
    advantages = batch.advantages_B.to(device).split(sizes)
    out: list[_Pass] = []
    for rows, own, advantage in zip(rows_of_passes, weights, advantages, strict=True):
        inside = set(rows)
        twins: dict[int, list[int]] = {}
        for k, using in terms.live.items():
            if found := [i for i in using if i in inside]:
                twins[k] = found
        scored = rows if terms.needs_rollout else []
        out.append(_Pass(rows, scored, twins, own, advantage, terms.parts(rows, twins)))
    return out


def _seen_together(
    batch: Batch, passes: Sequence[_Pass], most_images: int
) -> Iterator[list[_Pass]]:
    """Passes whose images go through the vision tower together.

    A tower's kernels are small for one image. The images' features and what they keep for the
    backward pass must fit: at most as many images as a pass has rows, with prompts of at most
    `TOGETHER` tokens; a pass by itself is always allowed.
    """
    taken: list[_Pass] = []
    shown: dict[str | None, int] = {}
    for part in passes:
        own = {p.image_key: len(p.input_ids) for p in part.asked(batch)[0] if p.image_key}
        more = shown | own
        if taken and (len(more) > most_images or sum(more.values()) > TOGETHER):
            yield taken
            taken, more = [], own
        taken, shown = [*taken, part], more
    if taken:
        yield taken


def _share_a_prompt(batch: Batch, passes: Sequence[_Pass]) -> bool:
    """Whether a group is cut, so that two passes have the same prompt."""
    for first, second in pairwise(passes):
        if batch.prompts[first.rows[-1]] is batch.prompts[second.rows[0]]:
            return True
    return False


def _backward(
    batch: Batch,
    part: _Pass,
    scored: tuple[Tensor, Tensor, Tensor],
    stage: Stage,
    terms: Terms,
    stats: TokenStats,
) -> list[Tensor]:
    """The loss of one pass, and its gradient; returns each row's log-probabilities, detached."""
    all_BT, entropy_BT, all_mask_BT = scored
    n, settings = len(part.scored), stage.settings
    sizes = [n, *(len(rows) for rows in part.twins.values())]
    logps_BT, *blocks = all_BT.split(sizes)
    masks = dict(zip(part.twins, all_mask_BT.split(sizes)[1:], strict=True))
    live = dict(zip(part.twins, blocks, strict=True))
    mask_BT, entropy_BT = all_mask_BT[:n], entropy_BT[:n]
    now_BT = logps_BT.detach()
    loss = terms.loss(part.parts, logps_BT, mask_BT, live, masks, stats.add_term)
    if n and stage.policy_loss:
        old_BT = now_BT
        if batch.old_logps is not None:
            old_BT = pad_sequence([batch.old_logps[i] for i in part.rows], batch_first=True)
        advantages = reshape(
            part.parts, terms, part.advantages, now_BT, mask_BT, live, stats.add_term
        )
        found = policy_loss(
            logps_BT,
            old_BT,
            advantages,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            dual_clip=settings.dual_clip,
        )
        loss = loss + weighted_sum(found.loss_BT, part.weights, mask_BT)
        stats.add(
            mask_BT,
            ratio_mean=found.ratio_BT,
            clip_low=found.low_BT,
            clip_high=found.high_BT,
            clip_dual=found.dual_BT,
        )
        stats.add_ratio(mask_BT, found.ratio_BT)
    if loss.requires_grad:
        stats.backward(loss)
    if n:
        stats.add(mask_BT, tokens=mask_BT, entropy=entropy_BT)
    responses = [batch.responses[i] for i in part.scored]
    return [row[: len(tokens)] for row, tokens in zip(now_BT, responses, strict=True)]


def _later_twins(
    policy: TrainablePolicy,
    batch: Batch,
    terms: Terms,
    vision: SharedVision,
    logps: list[Tensor],
    settings: Settings,
    micro_batch: int,
    stats: TokenStats,
) -> None:
    """The terms of twins that have passes of their own, with their gradients.

    Args:
        policy: The model.
        batch: The mini-batch.
        terms: Its terms.
        vision: Its images.
        logps: Of each row, detached; none where no term needs them.
        settings: Of the stage.
        micro_batch: Rows of a pass.
        stats: Gets the values.
    """
    for k, using in terms.later.items():
        for rows in pieces(using, micro_batch):
            doing(f"update: the twins of {len(rows)} of {len(batch)} responses")
            prompts = [batch.twins[i][k] for i in rows]
            responses = [batch.responses[i] for i in rows]
            twin_RT, _, mask_RT = policy.logprobs(
                prompts, responses, vision.of(prompts), settings.temperature
            )
            rollout_RT = twin_RT.detach()
            if logps:
                rollout_RT = pad_sequence([logps[i] for i in rows], batch_first=True)
            parts = terms.parts(rows, {k: rows}, only=k)
            stats.backward(terms.loss(parts, rollout_RT, mask_RT, {k: twin_RT}, {}, stats.add_term))


def _whole_vocabulary(
    policy: TrainablePolicy,
    batch: Batch,
    terms: Terms,
    vision: SharedVision,
    settings: Settings,
    micro_batch: int,
    stats: TokenStats,
) -> None:
    """The terms that compare whole distributions, with their gradients."""
    for number, rows_of_term in terms.whole.items():
        term, k = terms.terms[number], terms.number_of(number)
        for rows in pieces(rows_of_term, micro_batch):
            doing(f"update: the vocabulary of {len(rows)} of {len(batch)} responses")
            responses = [batch.responses[i] for i in rows]
            sides: list[Tensor] = []
            mask_RT = None
            for prompts, learns in (
                ([batch.prompts[i] for i in rows], term.learns_from_rollout),
                ([batch.twins[i][k] for i in rows], term.learns_from_twin),
            ):
                with torch.set_grad_enabled(learns):
                    side_RTV, mask_RT = policy.distributions(
                        prompts, responses, vision.of(prompts), settings.temperature
                    )
                sides.append(side_RTV)
            assert mask_RT is not None
            found = full_vocab_kl(sides[0], sides[1], term.teaches, term.clamp)
            weights_R = terms.weights_of(number, rows)
            stats.backward(term.coef * weighted_sum(found.value_BT, weights_R, mask_RT))
            stats.add_term(terms.names[number], mask_RT, found)
