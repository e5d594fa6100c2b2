"""The objective of both training engines: DAPO and its further terms, as functions of tensors.

Every function is pure: tensors in, tensors out, no model, no state. Losses are per token.
`row_weights` gives the weight of each token, so a mini-batch can be cut into any pieces and the
gradients have the same sum.

A term (`core/terms.py`) compares the distributions `p = p(. | rollout)` and `q = p(. | twin)` of
each token that was sampled from p. `divergence` has its estimators, `token_advantages`,
`token_weights` and `response_factors` its other roles.

Legend: G groups, N samples of a group, B rows (responses), T response tokens (padded; `mask_BT` is
1 on real ones), V vocabulary.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from modgap.core.recipe import LossMean
from modgap.core.terms import Estimator, Rows

ADVANTAGE_EPSILON = 1e-6
LOG_RATIO_BOUND = 20.0


# Rewards and advantages


def overlong_penalty(lengths_B: Tensor, limit: int, buffer: int, penalty: float) -> Tensor:
    """The term added to the rewards of long responses (DAPO's soft overlong punishment).

    `min(-(length - (limit - buffer)) / buffer * penalty, 0)`: zero up to `limit - buffer` tokens,
    then linear down to `-penalty` at the limit.

    Args:
        lengths_B: Tokens of each response.
        limit: Tokens of the longest possible response.
        buffer: Tokens before the limit in which the penalty grows; 0 turns it off.
        penalty: The penalty at the limit.
    """
    if not buffer:
        return torch.zeros(lengths_B.shape)
    return (-(lengths_B.float() - (limit - buffer)) / buffer * penalty).clamp(max=0.0)


def has_spread(rewards_GN: Tensor) -> Tensor:
    """Groups whose final rewards (overlong penalty included) are not all equal, `[G]` bool."""
    return rewards_GN.amax(-1) > rewards_GN.amin(-1)


def group_advantages(rewards_GN: Tensor) -> Tensor:
    """`(R - mean R) / (std R + 1e-6)` within each group, `[G, N]`.

    The standard deviation is the sample's (n - 1). A group of equal rewards gives exact zeros.
    """
    advantages_GN = (rewards_GN - rewards_GN.mean(-1, keepdim=True)) / (
        rewards_GN.std(-1, keepdim=True) + ADVANTAGE_EPSILON
    )
    # The mean of equal floats may differ from them by rounding.
    return torch.where(has_spread(rewards_GN)[:, None], advantages_GN, 0.0)


def right_rows(scores_B: Tensor) -> Tensor:
    """Rows that are correct and well formatted, `[B]` bool: those of score 1.0.

    The score is the answer's reward before the overlong penalty: a long correct response is still
    correct.
    """
    return scores_B >= 1.0 - 1e-6


def rows_used(right_B: Tensor, rows: Rows) -> Tensor:
    """The rows that a term uses, `[B]` bool."""
    if rows == "all":
        return torch.ones_like(right_B)
    return right_B if rows == "right" else ~right_B


# The policy's loss


class PolicyLoss(NamedTuple):
    """DAPO's loss of each token, and what happened to it.

    Attributes:
        loss_BT: The loss, to be summed with `row_weights`.
        ratio_BT: `exp(log rho)`, no gradient.
        low_BT: Tokens whose gradient the lower clip stops (A < 0 and ratio below 1 - clip_low).
        high_BT: Tokens whose gradient the upper clip stops (A > 0 and ratio above 1 + clip_high).
        dual_BT: Tokens whose gradient the dual clip stops (A < 0 and ratio above dual_clip).
    """

    loss_BT: Tensor
    ratio_BT: Tensor
    low_BT: Tensor
    high_BT: Tensor
    dual_BT: Tensor


def policy_loss(
    logps_BT: Tensor,
    old_logps_BT: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
) -> PolicyLoss:
    """DAPO's clipped loss of each token.

    `-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)`, and for A < 0 at most `-dual_clip A`.

    Args:
        logps_BT: Log-probabilities of the sampled tokens now.
        old_logps_BT: The same before the first update of the step; `logps_BT.detach()` for an
            on-policy update.
        advantages: One for each row, `[B]`, or for each token, `[B, T]`.
        clip_low: Lower clip.
        clip_high: Upper clip.
        dual_clip: c of the dual clip.
    """
    log_ratio_BT = (logps_BT - old_logps_BT.detach()).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    ratio_BT = log_ratio_BT.exp()
    advantages_BT = advantages[:, None] if advantages.ndim == 1 else advantages
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss_BT = torch.maximum(-ratio_BT * advantages_BT, -clipped_BT * advantages_BT)
    bounded_BT = torch.minimum(loss_BT, -dual_clip * advantages_BT)
    negative_BT = advantages_BT < 0
    with torch.no_grad():
        low_BT = negative_BT & (ratio_BT < 1 - clip_low)
        high_BT = (advantages_BT > 0) & (ratio_BT > 1 + clip_high)
        dual_BT = negative_BT & (ratio_BT > dual_clip)
    return PolicyLoss(
        torch.where(negative_BT, bounded_BT, loss_BT), ratio_BT.detach(), low_BT, high_BT, dual_BT
    )


# The terms beside it


Side = Literal["rollout", "twin"]


class Divergence(NamedTuple):
    """What a term measures at each token.

    Attributes:
        value_BT: The estimate, with the gradient of the sides that have one.
        clamped_BT: Tokens whose gradient a clamp makes zero.
    """

    value_BT: Tensor
    clamped_BT: Tensor


class _Estimate(NamedTuple):
    """Value, and the factors of the gradients of log p(y_t) and log q(y_t); no gradient."""

    value: Tensor
    rollout: Tensor
    twin: Tensor
    outside: Tensor


def _estimate(
    rollout_BT: Tensor, twin_BT: Tensor, estimator: Estimator, teacher: Side
) -> _Estimate:
    """An estimator of `divergence` and its gradient's factors, before the clamp."""
    d = rollout_BT.detach() - twin_BT.detach()
    inside = d.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    outside = inside != d
    if estimator == "nll":
        zero = torch.zeros_like(d)
        return _Estimate(-twin_BT.detach(), zero, zero - 1, torch.zeros_like(outside))
    if estimator == "k3":
        x = inside if teacher == "rollout" else -inside
        slope = torch.expm1(x) if teacher == "rollout" else -torch.expm1(x)
        return _Estimate(torch.expm1(x) - x, slope, -slope, outside)
    if estimator == "jsd":
        # u = q/p; log((1 + u) / 2) without overflow.
        mixed = torch.logaddexp(-inside, torch.zeros_like(d)) - math.log(2)
        u = torch.exp(-inside)
        value = (u * (-inside) - (1 + u) * mixed) / 2
        return _Estimate(value, -mixed / 2, u * (-inside - mixed) / 2, outside)
    assert estimator in ("forward", "reverse"), f"{estimator!r} needs more than sampled tokens"
    if (estimator == "forward") == (teacher == "rollout"):  # KL(p || q): nothing is exponentiated
        return _Estimate(d, d, torch.full_like(d, -1.0), torch.zeros_like(outside))
    u = torch.exp(-inside)
    return _Estimate(-u * inside - u + 1, 1 - u, -u * inside, outside)


def divergence(
    rollout_BT: Tensor,
    twin_BT: Tensor,
    estimator: Estimator = "k3",
    teacher: Side = "rollout",
    clamp: float | None = None,
) -> Divergence:
    """A term's value at each token, from the sampled tokens' log-probabilities after both prompts.

    The tokens were sampled from p = p(. | rollout); q = p(. | twin), d = log p(y_t) - log q(y_t),
    u = q(y_t) / p(y_t) = exp(-d). t and s are the log-probabilities of the teacher's side and of
    the other one, the student's.

    | estimator | estimates | value | factor of grad log p | factor of grad log q |
    | --- | --- | --- | --- | --- |
    | `k3` | | `exp(t - s) - (t - s) - 1` | its derivative | its derivative |
    | `forward` | KL(teacher, student) | see below | | |
    | `reverse` | KL(student, teacher) | see below | | |
    | | KL(p, q) | `d` | `d` | `-1` |
    | | KL(q, p) | `u log u - u + 1` | `1 - u` | `u log u` |
    | `jsd` | Jensen-Shannon | `(u log u - (1 + u) log((1 + u) / 2)) / 2` |
      `-log((1 + u) / 2) / 2` | `u log(2 u / (1 + u)) / 2` |
    | `nll` | | `-log q(y_t)` | `0` | `-1` |

    All but `k3` are unbiased, in value and in gradient, under the distribution p that the tokens
    were sampled from. That is why the gradient with respect to p is not the value's derivative: p
    is what is sampled, too (the plain derivative of `d` has the expectation zero). `k3` is
    differentiated as it stands, as the paper and PAPO do: with the rollout as the teacher its
    gradient is a biased one, with the twin as the teacher its value estimates KL(p, q) and its
    gradient is that of KL(q, p).

    d is clamped to [-20, 20] where it is exponentiated; beyond, the gradient is zero.

    Args:
        rollout_BT: Log-probabilities after the prompt that the response was sampled from.
        twin_BT: The same after the twin. A side gets a gradient if the tensor that is given
            requires one: detach the other.
        estimator: Any but `full_vocab`, for which see `full_vocab_kl`.
        teacher: The teacher's side.
        clamp: Values are clamped to [-clamp, clamp]; beyond, the gradient is zero. With the paper's
            10, k3 has none where t - s > 2.61 or t - s < -11.
    """
    found = _estimate(rollout_BT, twin_BT, estimator, teacher)
    clamped_BT = found.outside
    value_BT = found.value
    if clamp is not None:
        clamped_BT = clamped_BT | (value_BT.abs() > clamp)
        value_BT = value_BT.clamp(-clamp, clamp)
    for side_BT, factor_BT in ((rollout_BT, found.rollout), (twin_BT, found.twin)):
        if side_BT.requires_grad:
            factor_BT = torch.where(clamped_BT, 0.0, factor_BT)
            value_BT = value_BT + factor_BT * (side_BT - side_BT.detach())
    return Divergence(value_BT, clamped_BT)


def token_advantages(
    rollout_BT: Tensor, twin_BT: Tensor, estimator: Estimator, clamp: float | None = None
) -> Divergence:
    """What the role `advantage` adds to each token's advantage, before its coefficient.

    Minus the factor of `grad log p` of the estimator, with the twin as the teacher: the policy
    gradient with this advantage is that of minimizing the divergence. `reverse` gives
    `log q(y_t) - log p(y_t)`; `k3` and `forward` give `u - 1`, `jsd` gives `log((1 + u) / 2) / 2`.

    Returns:
        The advantages, without gradient, within [-clamp, clamp], and the tokens that the clamp
        changed.
    """
    found = _estimate(rollout_BT, twin_BT, estimator, "twin")
    added_BT = -found.rollout
    if clamp is None:
        return Divergence(added_BT, found.outside)
    return Divergence(added_BT.clamp(-clamp, clamp), found.outside | (added_BT.abs() > clamp))


def token_weights(values_BT: Tensor, mask_BT: Tensor, coef: float, top: float | None) -> Tensor:
    """What the role `weight` multiplies each token's policy gradient by, `[B, T]`.

    `1 + coef * (r_t - 1)`. With `top`, r_t is 1 for the `ceil(top * T)` tokens of the response with
    the largest values and 0 for the others (of equal values the earlier ones count as larger).
    Without, it is the value over the response's mean value, or 1 where that is zero.

    Args:
        values_BT: Values of `divergence`, without gradient.
        mask_BT: Real tokens.
        coef: From 0 to 1.
        top: Share of tokens.
    """
    lengths_B1 = mask_BT.sum(1, keepdim=True)
    if top is None:
        means_B1 = torch.where(mask_BT, values_BT, 0.0).sum(1, keepdim=True) / lengths_B1
        relative_BT = torch.where(means_B1 > 0, values_BT / means_B1, 1.0)
    else:
        order_BT = values_BT.masked_fill(~mask_BT, -torch.inf).argsort(
            dim=1, descending=True, stable=True
        )
        # Off by rounding, 0.4 * 5 would be 3 tokens.
        kept_B1 = (lengths_B1.double() * top - 1e-6).ceil()
        ranks_BT = torch.empty_like(order_BT).scatter_(
            1, order_BT, torch.arange(order_BT.shape[1], device=order_BT.device).expand_as(order_BT)
        )
        relative_BT = (ranks_BT < kept_B1).to(values_BT.dtype)
    return 1 + coef * (relative_BT - 1)


class Range(NamedTuple):
    """Smallest and largest mean value of the responses of a mini-batch, their sum and number."""

    least: Tensor
    most: Tensor
    total: Tensor
    count: Tensor

    @classmethod
    def of(cls, means_B: Tensor) -> Range:
        """Of one tensor; where it is empty, of nothing."""
        if not means_B.numel():
            empty = torch.zeros((), device=means_B.device)
            return cls(empty + torch.inf, empty - torch.inf, empty, empty)
        return cls(means_B.amin(), means_B.amax(), means_B.sum(), torch.ones_like(means_B).sum())


def response_factors(means_B: Tensor, over: Range, lowest: float) -> Tensor:
    """What `trajectory` multiplies a response's policy gradient by, `[B]`.

    `lowest + (1 - lowest) * x / (mean of x)`, x the response's mean value scaled to [0, 1] between
    the smallest and the largest of the mini-batch. The factors of a mini-batch have the mean 1; all
    are 1 where the means are equal.

    Args:
        means_B: Mean value of each response.
        over: Of all responses of the mini-batch, on all ranks.
        lowest: The smallest factor.
    """
    width = over.most - over.least
    scaled_B = (means_B - over.least) / width
    middle = (over.total / over.count - over.least) / width
    factors_B = lowest + (1 - lowest) * scaled_B / middle
    return torch.where(width > 1e-6, factors_B, 1.0)


def full_vocab_kl(
    rollout_BTV: Tensor, twin_BTV: Tensor, teacher: Side = "rollout", clamp: float | None = None
) -> Divergence:
    """KL(teacher, student) at each position, summed exactly over the vocabulary.

    Args:
        rollout_BTV: Logits / temperature, or log-probabilities, after the rollout's prompt.
        twin_BTV: The same after the twin. Detach the side that shall have no gradient.
        teacher: The teacher's side.
        clamp: As of `divergence`.
    """
    sides = (rollout_BTV, twin_BTV) if teacher == "rollout" else (twin_BTV, rollout_BTV)
    teacher_BTV, student_BTV = (side.float().log_softmax(-1) for side in sides)
    # A suppressed token (log-probability -inf on both sides) adds nothing.
    banned_BTV = teacher_BTV.isneginf()
    t_BTV, s_BTV = (x.masked_fill(banned_BTV, 0.0) for x in (teacher_BTV, student_BTV))
    terms_BTV = torch.where(banned_BTV, 0.0, t_BTV.exp() * (t_BTV - s_BTV))
    value_BT = terms_BTV.sum(-1)
    clamped_BT = torch.zeros_like(value_BT, dtype=torch.bool)
    if clamp is not None:
        clamped_BT = value_BT.detach() > clamp
        value_BT = value_BT.clamp(-clamp, clamp)
    return Divergence(value_BT, clamped_BT)


# The weight of each token


def row_weights(
    lengths_B: Tensor,
    mean: LossMean = "mini_batch",
    micro_batch: int = 0,
    counted_B: Tensor | None = None,
) -> Tensor:
    """The weight of every token of each row, `[B]`: `weighted_sum(x, weights, mask)` is the mean.

    The weights depend on the mini-batch alone. A mini-batch can therefore be cut into any pieces,
    and the pieces' gradients have exactly the mini-batch's gradient as their sum.

    Args:
        lengths_B: Tokens of each row, in the order of the mini-batch.
        mean: `mini_batch`: 1 / (all counted tokens). `micro_batch`: the mean over consecutive
            micro-batches of each one's own token-mean, as in the original; one without a counted
            token adds zero to that mean.
        micro_batch: Rows of a micro-batch; 0 is all of them. This is the nominal size: halving it
            to save memory must not change the objective.
        counted_B: Rows that count (those that a term uses); all if `None`.
    """
    tokens_B = lengths_B.double()
    if counted_B is not None:
        tokens_B = tokens_B * counted_B
    size = micro_batch if mean == "micro_batch" and micro_batch else max(1, len(tokens_B))
    parts = tokens_B.split(size)
    weights: list[Tensor] = []
    for part in parts:
        counted = max(1.0, float(part.sum()))
        weights.append(torch.full_like(part, 1.0 / (len(parts) * counted)))
    weights_B = torch.cat(weights)
    return (weights_B if counted_B is None else weights_B * counted_B).float()


def weighted_sum(values_BT: Tensor, weights_B: Tensor, mask_BT: Tensor) -> Tensor:
    """The sum over real tokens of `weight * value`; padding may hold anything, even infinities."""
    return (torch.where(mask_BT.bool(), values_BT, 0.0) * weights_B[:, None]).sum()
