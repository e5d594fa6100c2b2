from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modgap.training.objective import (
    Range,
    divergence,
    full_vocab_kl,
    group_advantages,
    has_spread,
    overlong_penalty,
    policy_loss,
    response_factors,
    right_rows,
    row_weights,
    token_advantages,
    token_weights,
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
    assert right_rows(scores).tolist() == [True, False, False, False]


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


# The terms: the paper's KL


@given(finite, st.sampled_from([10.0, None]))
def test_k3_is_never_negative_and_flat_exactly_where_it_says_clamped(
    d: float, clamp: float | None
) -> None:
    kl = divergence(torch.tensor([[d]]), torch.zeros(1, 1), "k3", clamp=clamp)
    assert kl.value_BT.item() >= 0
    assert clamp is None or kl.value_BT.item() <= 10
    got = gradient(lambda x: divergence(torch.zeros_like(x), x, "k3", clamp=clamp).value_BT, -d)[0]
    if kl.clamped_BT.item():
        assert got == 0
    else:
        assert got == pytest.approx(1 - math.exp(d), rel=1e-3, abs=1e-5)


def test_the_paper_clamp_is_flat_above_2_61_and_below_minus_11() -> None:
    d = torch.tensor([[2.60, 2.62, -10.9, -11.1]])
    clamped = divergence(d, torch.zeros(1, 4), "k3", clamp=10.0).clamped_BT
    assert clamped.tolist() == [[False, True, False, True]]
    assert not divergence(d, torch.zeros(1, 4), "k3").clamped_BT.any()


def test_forward_has_the_gradient_of_minus_the_log_probability() -> None:
    assert gradient(
        lambda x: divergence(torch.zeros_like(x), x, "forward").value_BT, -9.0, 0.1
    ) == [-1.0, -1.0]


# The terms: every estimator against the exact divergence of two distributions

ESTIMATORS = ("k3", "forward", "reverse", "jsd", "nll")


def exact(p: torch.Tensor, q: torch.Tensor, estimator: str, teacher: str) -> torch.Tensor:
    """The divergence of two distributions `[V]` of log-probabilities."""
    t, s = (p, q) if teacher == "rollout" else (q, p)
    if estimator == "reverse":
        t, s = s, t
    if estimator == "jsd":
        m = torch.logaddexp(p, q) - math.log(2)
        return ((p.exp() * (p - m)).sum() + (q.exp() * (q - m)).sum()) / 2
    if estimator == "nll":
        return -(p.detach().exp() * q).sum()
    return (t.exp() * (t - s)).sum()


@pytest.mark.parametrize("teacher", ["rollout", "twin"])
@pytest.mark.parametrize("estimator", ["forward", "reverse", "jsd", "nll"])
def test_estimators_are_unbiased_in_value_and_in_both_gradients(
    estimator: str, teacher: str
) -> None:
    """The expectation over tokens sampled from the rollout, summed over the whole vocabulary."""
    torch.manual_seed(1)
    for_p, for_q = (torch.randn(9, requires_grad=True) for _ in range(2))
    p, q = for_p.log_softmax(-1), for_q.log_softmax(-1)
    expected = exact(p, q, estimator, teacher)
    found = divergence(p[None], q[None], estimator, teacher)  # type: ignore[arg-type]
    # Each token is one of the vocabulary, weighed by how often it is sampled.
    estimated = (p.detach().exp() * found.value_BT[0]).sum()
    torch.testing.assert_close(estimated, expected)
    sides = [for_q] if estimator == "nll" else [for_p, for_q]
    for got, wanted in zip(
        torch.autograd.grad(estimated, sides, retain_graph=True),
        torch.autograd.grad(expected, sides),
        strict=True,
    ):
        assert wanted.abs().max() > 1e-2
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-4)


def test_k3_is_differentiated_as_it_stands() -> None:
    d = torch.tensor([[-3.0, -0.2, 0.0, 0.9, 2.0]])
    for teacher, sign in (("rollout", 1), ("twin", -1)):
        p, q = (d.clone().requires_grad_(), torch.zeros_like(d).requires_grad_())
        x = sign * (p - q)
        naive = x.exp() - x - 1
        found = divergence(p, q, "k3", teacher).value_BT  # type: ignore[arg-type]
        torch.testing.assert_close(found, naive)
        for got, wanted in zip(
            torch.autograd.grad(found.sum(), (p, q)),
            torch.autograd.grad(naive.sum(), (p, q)),
            strict=True,
        ):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("teacher", ["rollout", "twin"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_clamp_bounds_the_value_and_stops_the_gradient(estimator: str, teacher: str) -> None:
    p = torch.tensor([[-4.0, -0.1, -2.0, -30.0]], requires_grad=True)
    q = torch.tensor([[-0.5, -6.0, -2.1, -0.1]], requires_grad=True)
    found = divergence(p, q, estimator, teacher, 0.2)  # type: ignore[arg-type]
    found.value_BT.sum().backward()
    assert found.value_BT.abs().max() <= 0.2 + 1e-6 and found.clamped_BT.any()
    for side in (p, q):
        assert side.grad is not None and not side.grad[found.clamped_BT].any()
        assert side.grad.isfinite().all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_detached_side_gets_no_gradient_and_the_other_the_same(estimator: str) -> None:
    p0, q0 = torch.randn(2, 1, 6) - 2
    alone: dict[str, torch.Tensor] = {}
    for live in ("both", "rollout", "twin"):
        p, q = p0.clone().requires_grad_(), q0.clone().requires_grad_()
        found = divergence(
            p if live != "twin" else p.detach(), q if live != "rollout" else q.detach(),
            estimator, "twin",
        )  # type: ignore[arg-type]  # fmt: skip
        if found.value_BT.requires_grad:
            found.value_BT.sum().backward()
        assert (p.grad is None) == (live == "twin") and (q.grad is None) == (live == "rollout")
        alone |= {f"{live} p": p.grad, f"{live} q": q.grad}  # type: ignore[dict-item]
    torch.testing.assert_close(alone["both p"], alone["rollout p"])
    torch.testing.assert_close(alone["both q"], alone["twin q"])


@pytest.mark.parametrize("estimator", ESTIMATORS[:-1])
def test_equal_sides_have_no_divergence(estimator: str) -> None:
    p = torch.randn(1, 5) - 2
    assert divergence(p, p.clone(), estimator).value_BT.abs().max() < 1e-6  # type: ignore[arg-type]


def test_extreme_differences_stay_finite() -> None:
    p = torch.tensor([[-200.0, -0.0]], requires_grad=True)
    q = torch.tensor([[-0.0, -200.0]], requires_grad=True)
    for estimator in ESTIMATORS:
        for teacher in ("rollout", "twin"):
            p.grad = q.grad = None
            divergence(p, q, estimator, teacher).value_BT.sum().backward()  # type: ignore[arg-type]
            assert p.grad is not None and p.grad.isfinite().all() and q.grad.isfinite().all()  # type: ignore[union-attr]


# The terms: advantages and weights


@pytest.mark.parametrize("estimator", ["k3", "forward", "reverse", "jsd"])
def test_an_advantage_has_the_gradient_of_the_loss(estimator: str) -> None:
    """Through the policy loss at a ratio of 1, as long as no clip is reached."""
    p0, q = torch.randn(2, 1, 6) - 2
    p = p0.clone().requires_grad_()
    divergence(p, q, estimator, "twin").value_BT.sum().backward()  # type: ignore[arg-type]
    as_loss, p.grad = p.grad, None
    added = token_advantages(p.detach(), q, estimator, None)  # type: ignore[arg-type]
    policy_loss(p, p.detach(), added.value_BT).loss_BT.sum().backward()
    torch.testing.assert_close(p.grad, as_loss)


def test_the_advantage_of_reverse_is_the_difference_of_the_log_probabilities() -> None:
    p, q = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -0.5]])
    assert token_advantages(p, q, "reverse", None).value_BT.tolist() == [[-1.0, 2.5]]
    bounded = token_advantages(p, q, "reverse", 2.0)
    assert bounded.value_BT.tolist() == [[-1.0, 2.0]]
    assert bounded.clamped_BT.tolist() == [[False, True]]


def test_top_keeps_the_largest_share_of_each_response() -> None:
    values = torch.tensor([[5.0, 1, 4, 2, 3], [1, 1, 9, 9, 9]])
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    kept = token_weights(values, mask, 1.0, 0.4)
    assert kept[0].tolist() == [1, 0, 1, 0, 0]  # 2 of 5, not 3 by rounding
    assert kept[1, :2].tolist() == [1, 0]  # of equal ones the first
    half = token_weights(values, mask, 0.5, 0.4)
    assert half[0].tolist() == [1, 0.5, 1, 0.5, 0.5]


def test_weights_in_proportion_have_the_mean_1() -> None:
    values = torch.tensor([[1.0, 3, 99], [0, 0, 99]])
    mask = torch.tensor([[True, True, False]] * 2)
    assert token_weights(values, mask, 1.0, None)[:, :2].tolist() == [[0.5, 1.5], [1, 1]]


def test_factors_of_responses_have_the_mean_1_and_grow_with_the_mean_value() -> None:
    means = torch.tensor([0.2, 0.5, 0.3, 1.2])
    factors = response_factors(means, Range.of(means), 0.9)
    assert factors.mean().item() == pytest.approx(1) and factors.min().item() == pytest.approx(0.9)
    assert factors.argsort().tolist() == means.argsort().tolist()
    equal = torch.full((3,), 0.4)
    assert response_factors(equal, Range.of(equal), 0.9).tolist() == [1, 1, 1]


# The terms: the whole vocabulary


def test_full_vocab_is_what_the_sampled_estimators_estimate() -> None:
    torch.manual_seed(0)
    full, free = torch.randn(2, 3, 11), torch.randn(2, 3, 11)
    found = full_vocab_kl(full, free).value_BT
    logp, logq = full.log_softmax(-1), free.log_softmax(-1)
    reference = torch.nn.functional.kl_div(logq, logp, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found, reference)
    swapped = full_vocab_kl(full, free, "twin").value_BT
    torch.testing.assert_close(swapped, full_vocab_kl(free, full).value_BT)
    for side in (full, free):
        side.requires_grad_()
        expected = (
            full.log_softmax(-1).exp() * (full.log_softmax(-1) - free.log_softmax(-1))
        ).sum()
        (a,) = torch.autograd.grad(expected, side)
        (b,) = torch.autograd.grad(full_vocab_kl(full, free).value_BT.sum(), side)
        torch.testing.assert_close(a, b)
        side.requires_grad_(False)


def test_a_banned_token_adds_nothing_to_the_full_vocabulary_kl() -> None:
    full, free = torch.randn(1, 1, 5), torch.randn(1, 1, 5)
    ban = torch.tensor([0.0, 0, -torch.inf, 0, 0])
    keep = [0, 1, 3, 4]
    for teacher in ("rollout", "twin"):
        full_ban = (full + ban).requires_grad_()
        free_ban = (free + ban).requires_grad_()
        kl = full_vocab_kl(full_ban, free_ban, teacher).value_BT  # type: ignore[arg-type]
        alone = full_vocab_kl(full[..., keep], free[..., keep], teacher).value_BT  # type: ignore[arg-type]
        torch.testing.assert_close(kl, alone)
        kl.sum().backward()
        assert free_ban.grad is not None and free_ban.grad.isfinite().all()
        assert full_ban.grad is not None and full_ban.grad.isfinite().all()


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
