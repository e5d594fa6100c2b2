from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modgap.training.objective import (
    contrastive_kl,
    eligible_rows,
    full_vocab_kl,
    group_advantages,
    has_spread,
    overlong_penalty,
    policy_loss,
    row_weights,
    weighted_sum,
)

finite = st.floats(-30, 30, allow_nan=False, width=32)


def gradient(loss_of, *values: float) -> list[float]:
    x = torch.tensor([values], requires_grad=True)
    loss_of(x).sum().backward()
    assert x.grad is not None
    return x.grad[0].tolist()


# Advantages


def test_advantages_are_the_standard_scores_of_their_group() -> None:
    rewards = torch.tensor([[1.0, 0.1, 0.0, 0.1, 1.0], [0.1, 0.1, 0.1, 0.1, 1.0]])
    advantages = group_advantages(rewards)
    for row, got in zip(rewards.tolist(), advantages.tolist(), strict=True):
        mean = sum(row) / 5
        deviation = math.sqrt(sum((r - mean) ** 2 for r in row) / 4)
        assert got == pytest.approx([(r - mean) / (deviation + 1e-6) for r in row], rel=1e-5)


@given(st.floats(-2, 2, allow_nan=False, width=32), st.integers(2, 9))
def test_equal_rewards_give_exactly_no_advantage_and_no_gradient(
    reward: float, samples: int
) -> None:
    rewards = torch.full((1, samples), reward)
    assert not has_spread(rewards).any()
    advantages = group_advantages(rewards)[0]
    logps = torch.randn(samples, 3, requires_grad=True)
    terms = policy_loss(logps, logps.detach() - 0.5, advantages)
    weighted_sum(
        terms.loss_BT, row_weights(torch.full((samples,), 3)), torch.ones(samples, 3)
    ).backward()
    assert logps.grad is not None and not logps.grad.any()


def test_the_overlong_penalty_alone_can_keep_a_group() -> None:
    lengths = torch.tensor([10, 80, 90, 100, 120])
    penalties = overlong_penalty(lengths, limit=100, buffer=20, penalty=1.0)
    assert penalties.tolist() == pytest.approx([0, 0, -0.5, -1.0, -2.0])
    scores = torch.ones(1, 5)
    assert not has_spread(scores).any() and has_spread(scores + penalties).all()
    assert not overlong_penalty(lengths, limit=100, buffer=0, penalty=1.0).any()


def test_eligible_means_correct_and_well_formatted() -> None:
    scores = torch.tensor([0.9 * 1 + 0.1 * 1, 0.9, 0.1, 0.0])
    assert eligible_rows(scores).tolist() == [True, False, False, False]


# The clips


def policy_gradient(log_ratio: float, advantage: float) -> float:
    return gradient(
        lambda x: policy_loss(x, torch.zeros_like(x), torch.tensor([advantage])).loss_BT, log_ratio
    )[0]


@given(st.floats(-6, 6, allow_nan=False), st.sampled_from([-2.0, -0.5, 0.5, 2.0]))
def test_the_gradient_stops_beyond_the_clips_and_nowhere_else(
    log_ratio: float, advantage: float
) -> None:
    ratio = math.exp(log_ratio)
    edges = [0.8, 1.28, 10.0]
    if min(abs(ratio - edge) for edge in edges) < 1e-4:
        return
    stopped = ratio > 1.28 if advantage > 0 else ratio < 0.8 or ratio > 10.0
    got = policy_gradient(log_ratio, advantage)
    assert got == pytest.approx(0.0 if stopped else -advantage * ratio, rel=1e-4)
    x = torch.tensor([[log_ratio]])
    terms = policy_loss(x, torch.zeros(1, 1), torch.tensor([advantage]))
    assert (
        bool(terms.low_BT | terms.high_BT | terms.dual_BT) == stopped
    )  # what is logged is what happens


@given(finite, st.floats(-5, -0.01, allow_nan=False))
def test_the_dual_clip_bounds_the_loss_of_a_negative_advantage(
    log_ratio: float, advantage: float
) -> None:
    terms = policy_loss(
        torch.tensor([[log_ratio]]), torch.zeros(1, 1), torch.tensor([advantage]), dual_clip=10.0
    )
    assert terms.loss_BT.item() <= 10.0 * -advantage * (1 + 1e-5)


def test_the_log_ratio_is_clamped_to_20() -> None:
    terms = policy_loss(torch.tensor([[90.0, -90.0]]), torch.zeros(1, 2), torch.tensor([1.0]))
    assert terms.ratio_BT[0].tolist() == pytest.approx([math.exp(20), math.exp(-20)], rel=1e-4)


def test_the_old_side_gets_no_gradient() -> None:
    old = torch.zeros(1, 2, requires_grad=True)
    terms = policy_loss(torch.zeros(1, 2, requires_grad=True), old, torch.tensor([1.0]))
    terms.loss_BT.sum().backward()
    assert old.grad is None


# The contrastive KL


@given(finite, st.sampled_from(["paper", "none"]))
def test_k3_is_never_negative_and_flat_exactly_where_it_says_clamped(d: float, clamp: str) -> None:
    kl = contrastive_kl(torch.tensor([[d]]), torch.zeros(1, 1), "k3", clamp)  # type: ignore[arg-type]
    assert kl.kl_BT.item() >= 0
    assert clamp == "none" or kl.kl_BT.item() <= 10
    got = gradient(lambda x: contrastive_kl(torch.zeros_like(x), x, "k3", clamp).kl_BT, -d)[0]  # type: ignore[arg-type]
    if kl.clamped_BT.item():
        assert got == 0
    else:
        assert got == pytest.approx(1 - math.exp(d), rel=1e-3, abs=1e-5)


def test_the_paper_clamp_is_flat_above_2_61_and_below_minus_11() -> None:
    d = torch.tensor([[2.60, 2.62, -10.9, -11.1]])
    assert contrastive_kl(d, torch.zeros(1, 4)).clamped_BT.tolist() == [[False, True, False, True]]
    assert not contrastive_kl(d, torch.zeros(1, 4), clamp="none").clamped_BT.any()


def test_forward_has_the_gradient_of_minus_the_log_probability() -> None:
    assert gradient(
        lambda x: contrastive_kl(torch.zeros_like(x), x, "forward").kl_BT, -9.0, 0.1
    ) == [-1.0, -1.0]


def test_gradient_flows_through_the_text_free_side_only() -> None:
    for estimator in ("k3", "forward"):
        full = torch.tensor([[-0.5]], requires_grad=True)
        free = torch.tensor([[-0.9]], requires_grad=True)
        contrastive_kl(full, free, estimator).kl_BT.sum().backward()  # type: ignore[arg-type]
        assert full.grad is None and free.grad is not None
    full_V, free_V = (
        torch.randn(1, 1, 7, requires_grad=True),
        torch.randn(1, 1, 7, requires_grad=True),
    )
    full_vocab_kl(full_V, free_V).kl_BT.sum().backward()
    assert full_V.grad is None and free_V.grad is not None


def test_full_vocab_is_what_the_sampled_estimators_estimate() -> None:
    torch.manual_seed(0)
    full, free = torch.randn(2, 3, 11), torch.randn(2, 3, 11)
    exact = full_vocab_kl(full, free).kl_BT
    logp, logq = full.log_softmax(-1), free.log_softmax(-1)
    reference = torch.nn.functional.kl_div(logq, logp, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(exact, reference)
    # The expectation under the full-text side, over all tokens: `forward` is unbiased in value and
    # gradient.
    free.requires_grad_()
    expected = (logp.exp() * (logp - free.log_softmax(-1))).sum()
    (a,) = torch.autograd.grad(expected, free)
    (b,) = torch.autograd.grad(full_vocab_kl(full, free).kl_BT.sum(), free)
    torch.testing.assert_close(a, b)


def test_a_banned_token_adds_nothing_to_the_full_vocabulary_kl() -> None:
    full, free = torch.randn(1, 1, 5), torch.randn(1, 1, 5)
    ban = torch.tensor([0.0, 0, -torch.inf, 0, 0])
    keep = [0, 1, 3, 4]
    free_ban = (free + ban).requires_grad_()
    kl = full_vocab_kl(full + ban, free_ban).kl_BT
    torch.testing.assert_close(kl, full_vocab_kl(full[..., keep], free[..., keep]).kl_BT)
    kl.sum().backward()
    assert free_ban.grad is not None and free_ban.grad.isfinite().all()


# What a token counts


def mean_loss(lengths: list[int], values: torch.Tensor, **how: object) -> float:
    lengths_B = torch.tensor(lengths)
    mask = torch.arange(values.shape[1]) < lengths_B[:, None]
    return weighted_sum(values, row_weights(lengths_B, **how), mask).item()  # type: ignore[arg-type]


def test_token_mean_over_the_mini_batch_weighs_every_token_alike() -> None:
    values = torch.tensor([[1.0, 9, 9], [2, 3, 4], [5, 6, 9]])
    assert mean_loss([1, 3, 2], values) == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) / 6)


def test_mean_of_micro_batch_means() -> None:
    values = torch.tensor([[1.0, 9, 9], [2, 3, 4], [5, 6, 9]])
    got = mean_loss([1, 3, 2], values, mean="micro_batch", micro_batch=2)
    assert got == pytest.approx(((1 + 2 + 3 + 4) / 4 + (5 + 6) / 2) / 2)


def test_rows_that_do_not_count_weigh_nothing_and_an_empty_micro_batch_is_a_zero() -> None:
    values = torch.tensor([[1.0, 9, 9], [2, 3, 4], [5, 6, 9]])
    counted = torch.tensor([False, False, True])
    assert mean_loss([1, 3, 2], values, counted_B=counted) == pytest.approx(5.5)
    got = mean_loss([1, 3, 2], values, mean="micro_batch", micro_batch=2, counted_B=counted)
    assert got == pytest.approx(5.5 / 2)
    assert mean_loss([1, 3, 2], values, counted_B=torch.zeros(3, dtype=torch.bool)) == 0


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.integers(1, 8),
    st.sampled_from(["mini_batch", "micro_batch"]),
)
def test_any_cut_of_a_mini_batch_adds_up_to_the_same(
    lengths: list[int], size: int, mean: str
) -> None:
    values = torch.randn(len(lengths), 5)
    lengths_B = torch.tensor(lengths)
    mask = torch.arange(5) < lengths_B[:, None]
    weights = row_weights(lengths_B, mean, 3)  # type: ignore[arg-type]
    whole = weighted_sum(values, weights, mask)
    cut = sum(
        weighted_sum(values[i : i + size], weights[i : i + size], mask[i : i + size])
        for i in range(0, len(lengths), size)
    )
    torch.testing.assert_close(whole, torch.as_tensor(cut), rtol=1e-5, atol=1e-6)


def test_padding_may_hold_anything() -> None:
    values = torch.tensor([[1.0, torch.inf], [3.0, torch.nan]], requires_grad=True)
    loss = weighted_sum(values, row_weights(torch.tensor([1, 1])), torch.tensor([[1, 0], [1, 0]]))
    loss.backward()
    assert (
        loss.item() == 2
        and values.grad is not None
        and values.grad.tolist() == [[0.5, 0], [0.5, 0]]
    )
