"""The objective of both training engines: DAPO and the contrastive KL, as functions of tensors.

Every function is pure: tensors in, tensors out, no model, no state. Losses are per token.
`row_weights` gives the weight of each token, so a mini-batch can be cut into any pieces and the
gradients have the same sum.

Differences from the paper: the KL can also be estimated by `forward` or `full_vocab`, its clamp can
be left out, and the share of clamped tokens can be logged.

Legend: G groups, N samples of a group, B rows (responses), T response tokens (padded; `mask_BT` is
1 on real ones), V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modgap.core.recipe import KlClamp, KlEstimator, LossMean

ADVANTAGE_EPSILON = 1e-6
LOG_RATIO_BOUND = 20.0
KL_BOUND = 10.0


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


def eligible_rows(scores_B: Tensor) -> Tensor:
    """Rows that the contrastive KL uses, `[B]` bool: correct and well formatted (score 1.0).

    The score is the reward before the overlong penalty: a long correct response is still correct.
    """
    return scores_B >= 1.0 - 1e-6


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
    advantages_B: Tensor,
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
        advantages_B: One for each row.
        clip_low: Lower clip.
        clip_high: Upper clip.
        dual_clip: c of the dual clip.
    """
    log_ratio_BT = (logps_BT - old_logps_BT.detach()).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    ratio_BT = log_ratio_BT.exp()
    advantages_B1 = advantages_B[:, None]
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss_BT = torch.maximum(-ratio_BT * advantages_B1, -clipped_BT * advantages_B1)
    bounded_BT = torch.minimum(loss_BT, -dual_clip * advantages_B1)
    negative_B1 = advantages_B1 < 0
    with torch.no_grad():
        low_BT = negative_B1 & (ratio_BT < 1 - clip_low)
        high_BT = (advantages_B1 > 0) & (ratio_BT > 1 + clip_high)
        dual_BT = negative_B1 & (ratio_BT > dual_clip)
    return PolicyLoss(
        torch.where(negative_B1, bounded_BT, loss_BT), ratio_BT.detach(), low_BT, high_BT, dual_BT
    )


# The contrastive KL


class ContrastiveKl(NamedTuple):
    """KL(full-text prompt || its text-free twin) of each token.

    Attributes:
        kl_BT: The estimate; its gradient flows through the text-free side only.
        clamped_BT: Tokens whose gradient a clamp makes zero.
    """

    kl_BT: Tensor
    clamped_BT: Tensor


def contrastive_kl(
    logps_full_BT: Tensor,
    logps_free_BT: Tensor,
    estimator: KlEstimator = "k3",
    clamp: KlClamp = "paper",
) -> ContrastiveKl:
    """The contrastive KL from the log-probabilities of the sampled tokens under both prompts.

    With `d = sg[log p(y_t | q_full)] - log p(y_t | q_free)`:

    * `k3` (paper): `exp(d) - d - 1`, d clamped to [-20, 20] and, with `clamp="paper"`, the result
      to [-10, 10]: the gradient is zero where d > 2.61 or d < -11. The responses come from q_full,
      for which k3 weights the gradient by `1 - exp(d)`: it is a biased gradient of the KL.
    * `forward`: d itself. It differs from `-log p(y_t | q_free)` by a constant, so its gradient is
      that of the true KL(full || free), and its mean is an unbiased estimate of it. Never clamped.

    Args:
        logps_full_BT: Under the prompt that the response was sampled from. Detached here.
        logps_free_BT: Under the text-free twin.
        estimator: `k3` or `forward`; for `full_vocab` see `full_vocab_kl`.
        clamp: `paper` or `none`.
    """
    d_BT = logps_full_BT.detach() - logps_free_BT
    if estimator == "forward":
        return ContrastiveKl(d_BT, torch.zeros_like(d_BT, dtype=torch.bool))
    assert estimator == "k3", f"{estimator!r} needs more than the sampled tokens' log-probabilities"
    outside_BT = d_BT.detach().abs() > LOG_RATIO_BOUND
    d_BT = d_BT.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    k3_BT = torch.expm1(d_BT) - d_BT
    if clamp == "none":
        return ContrastiveKl(k3_BT, outside_BT)
    return ContrastiveKl(k3_BT.clamp(-KL_BOUND, KL_BOUND), outside_BT | (k3_BT.detach() > KL_BOUND))


def full_vocab_kl(logits_full_BTV: Tensor, logits_free_BTV: Tensor) -> ContrastiveKl:
    """KL(full || free) at each position, summed exactly over the vocabulary.

    This is `kl_estimator=full_vocab`.

    Args:
        logits_full_BTV: Logits / temperature, or log-probabilities, under the full-text prompt.
            Detached here.
        logits_free_BTV: The same under the text-free twin.
    """
    full_BTV = logits_full_BTV.detach().float().log_softmax(-1)
    free_BTV = logits_free_BTV.float().log_softmax(-1)
    # A suppressed token (log-probability -inf on both sides) adds nothing.
    terms_BTV = torch.where(full_BTV.isneginf(), 0.0, full_BTV.exp() * (full_BTV - free_BTV))
    kl_BT = terms_BTV.sum(-1)
    return ContrastiveKl(kl_BT, torch.zeros_like(kl_BT, dtype=torch.bool))


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
        counted_B: Rows that count (`eligible_rows` for the contrastive KL); all if `None`.
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
