"""Properties of the statistics: known values, invariances, and coverage by simulation."""

from __future__ import annotations

import math
import time
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modgap.analysis import resampling
from modgap.analysis.gap import (
    accuracy,
    gap_change,
    holm,
    majority_vote,
    mcnemar,
    paired_gap,
    pass_at_k,
)
from modgap.analysis.power import difference_sd, power, problems_needed
from modgap.analysis.resampling import student_critical

counts = st.lists(st.integers(0, 4), min_size=1, max_size=30)
pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)
fast = settings(deadline=None, max_examples=60)


# ---- accuracy ------------------------------------------------------------------------------------
@fast
@given(counts)
def test_accuracy_lies_in_its_interval_and_the_interval_in_0_1(correct: list[int]) -> None:
    estimate = accuracy(correct, 4)
    assert estimate.value == pytest.approx(sum(correct) / (4 * len(correct)))
    assert (
        0 <= estimate.ci_low <= estimate.value + 1e-12
        and estimate.value - 1e-12 <= estimate.ci_high <= 1
    )
    assert (estimate.se is None) == (len(correct) == 1)


def test_accuracy_is_a_mean_over_problems_whatever_their_samples() -> None:
    assert accuracy([1, 0], [1, 100]).value == 0.5


def test_one_sample_a_problem_gives_wilson_with_students_quantile() -> None:
    correct, n, p = [1] * 30 + [0] * 70, 100, 0.3
    z2 = student_critical(0.05, 99) ** 2
    effective = n - 1  # r (1 - r) / se^2 with the K / (K - 1) of the standard error
    centre, half = (
        p + z2 / (2 * effective),
        math.sqrt(z2 * (p * (1 - p) / effective + z2 / (4 * effective**2))),
    )
    estimate = accuracy(correct, 1)
    assert estimate.ci_low == pytest.approx((centre - half) / (1 + z2 / effective))
    assert estimate.ci_high == pytest.approx((centre + half) / (1 + z2 / effective))


def test_samples_of_one_problem_are_not_counted_as_independent() -> None:
    always_or_never = [4, 0] * 50
    assert accuracy(always_or_never, 4).se == pytest.approx(accuracy([1, 0] * 50, 1).se)
    doubled = accuracy([4, 0] * 50 * 2, 4, clusters=list(range(100)) * 2)
    single = accuracy(always_or_never, 4)
    assert (doubled.se, doubled.ci_low) == pytest.approx((single.se, single.ci_low))


@pytest.mark.parametrize(
    ("a", "b", "problems", "samples"),
    [(2, 2, 60, 4), (0.5, 0.5, 100, 4), (4, 1, 200, 1), (0.6, 6, 100, 4)],
)
def test_the_interval_of_an_accuracy_covers_the_truth(
    a: float, b: float, problems: int, samples: int
) -> None:
    rng = np.random.default_rng(7)
    intervals = [
        accuracy(rng.binomial(samples, rng.beta(a, b, problems)), samples) for _ in range(1000)
    ]
    assert 0.93 <= np.mean([e.ci_low <= a / (a + b) <= e.ci_high for e in intervals]) <= 0.97


@pytest.mark.parametrize(
    ("tail", "of_freedom"),
    [
        (
            0.05,
            {
                1: 12.7062,
                2: 4.30265,
                3: 3.18245,
                5: 2.57058,
                10: 2.22814,
                100: 1.98397,
                999: 1.96234,
            },
        ),
        (0.01, {1: 63.6567, 2: 9.92484, 3: 5.84091, 7: 3.49948, 10: 3.16927, 100: 2.62589}),
        (0.001, {1: 636.619, 2: 31.5991, 3: 12.9240, 5: 6.86883, 10: 4.58689, 100: 3.39049}),
    ],
)
def test_quantiles_of_student_are_the_tables(tail: float, of_freedom: dict[int, float]) -> None:
    for freedom, t in of_freedom.items():
        assert student_critical(tail, freedom) == pytest.approx(t, rel=3e-6)
        assert student_critical(tail, freedom + 0.5) < student_critical(tail, freedom)
    assert student_critical(tail, math.inf) == pytest.approx(-NormalDist().inv_cdf(tail / 2))


# ---- the gap -------------------------------------------------------------------------------------
@fast
@given(pairs)
def test_swapping_the_views_turns_the_gap_around(samples: list[tuple[int, int]]) -> None:
    text, vision = np.array(samples).T / 4
    one, two = paired_gap(text, vision, resamples=500), paired_gap(vision, text, resamples=500)
    assert one.points == pytest.approx(-two.points)
    assert one.p_value == two.p_value
    assert one.table == [[two.table[0][0], two.table[1][0]], [two.table[0][1], two.table[1][1]]]
    assert one.p_vision_given_text == two.p_text_given_vision
    assert -100 <= one.ci_low <= one.ci_high <= 100
    assert sum(map(sum, one.table)) == one.n_problems == len(samples)


def test_a_gap_by_hand() -> None:
    text, vision = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    gap = paired_gap(text, vision)
    assert gap.points == pytest.approx(30)
    assert gap.table == [[2, 4], [1, 3]]
    assert gap.p_value == pytest.approx(2 * (1 + 5) / 2**5)
    assert gap.relative == pytest.approx(0.5)
    assert gap.p_vision_given_text == pytest.approx(2 / 6)
    assert gap.p_text_given_vision == pytest.approx(2 / 3)


def test_a_tied_vote_is_not_right() -> None:
    assert paired_gap([0.5, 0.75], [0.75, 0.5]).table == [[0, 1], [1, 0]]


def test_a_model_that_solves_nothing_has_no_relative_gap_and_no_nan() -> None:
    gap = paired_gap([0, 0], [0, 0])
    assert (gap.points, gap.ci_low, gap.ci_high, gap.p_value) == (0, 0, 0, 1)
    assert (gap.relative, gap.p_vision_given_text, gap.p_text_given_vision) == (None, None, None)
    assert (paired_gap([1], [0]).ci_low, paired_gap([1], [0]).ci_high) == (-100, 100)


def test_the_bootstrap_is_seeded_and_its_two_ways_of_drawing_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    text, vision = rng.binomial(4, 0.6, 300) / 4, rng.binomial(4, 0.4, 300) / 4
    drawn_by_value = paired_gap(text, vision)
    assert paired_gap(text, vision) == drawn_by_value
    monkeypatch.setattr("modgap.analysis.resampling.FEW_ROWS", 0)
    drawn_by_row = paired_gap(text, vision)
    assert (drawn_by_row.ci_low, drawn_by_row.ci_high) == pytest.approx(
        (drawn_by_value.ci_low, drawn_by_value.ci_high), abs=0.4
    )


def test_clusters_widen_the_interval_of_alike_problems() -> None:
    rng = np.random.default_rng(0)
    text, vision = (np.repeat(rng.binomial(1, p, 60), 5) for p in (0.6, 0.4))
    ids = np.repeat(np.arange(60), 5).tolist()
    apart, together = paired_gap(text, vision), paired_gap(text, vision, clusters=ids)
    ratio = (together.ci_high - together.ci_low) / (apart.ci_high - apart.ci_low)
    assert ratio == pytest.approx(math.sqrt(5), rel=0.1)


@pytest.mark.parametrize(("problems", "samples"), [(40, 4), (150, 1), (150, 4)])
def test_the_interval_of_a_gap_covers_the_truth(problems: int, samples: int) -> None:
    rng = np.random.default_rng(3)

    def chances(size: int) -> tuple[np.ndarray, np.ndarray]:
        ease = rng.normal(size=size)  # shared by the two views of a problem
        return 1 / (1 + np.exp(-1.5 * ease - 0.8)), 1 / (
            1 + np.exp(-ease - rng.normal(size=size) + 0.2)
        )

    text, vision = chances(400_000)
    truth, hits = 100 * float(np.mean(text - vision)), 0
    for _ in range(1000):
        text, vision = chances(problems)
        gap = paired_gap(
            rng.binomial(samples, text) / samples,
            rng.binomial(samples, vision) / samples,
            resamples=1000,
        )
        hits += gap.ci_low <= truth <= gap.ci_high
    assert 930 <= hits <= 970


def test_equal_numbers_are_resampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever else two intervals differ, each is its own."""
    values = np.random.default_rng(8).normal(size=30)
    drawn, sums = [], resampling._resampled_sums

    def counted(*given: Any) -> Any:
        drawn.append(given)
        return sums(*given)

    monkeypatch.setattr(resampling, "_resampled_sums", counted)
    monkeypatch.setattr(resampling, "_intervals", {})
    usual: dict[str, Any] = {
        "values_P": values, "clusters": None, "resamples": 500, "seed": 1, "level": 0.95,
        "everything": (-1.0, 1.0),
    }  # fmt: skip
    others = [
        {"values_P": values + 1}, {"clusters": [n // 2 for n in range(30)]}, {"resamples": 400},
        {"seed": 2}, {"level": 0.9},
    ]  # fmt: skip
    found = [resampling.bootstrap_interval(**usual | other) for other in ({}, *others) * 2]
    assert len(drawn) == len(others) + 1 == len(set(found))
    assert found[: len(drawn)] == found[len(drawn) :]


def test_ten_thousand_problems_take_seconds_at_worst() -> None:
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    paired_gap(rng.binomial(4, 0.6, 10_000) / 4, rng.binomial(4, 0.5, 10_000) / 4)
    assert time.perf_counter() - start < 3  # measured: 0.02 s


def test_mcnemar_is_the_binomial_test() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    for b, c in ((1, 0), (7, 2), (30, 12), (300, 250)):
        tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
        assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(min(1, 2 * tail / 2 ** (b + c)))


# ---- change of the gap ---------------------------------------------------------------------------
def test_a_change_of_the_gap_is_paired_over_all_four() -> None:
    rng = np.random.default_rng(1)
    easy = rng.random(400)
    a_text, a_vision, b_vision = (
        rng.binomial(8, np.clip(easy + shift, 0, 1)) / 8 for shift in (0.1, -0.2, 0.0)
    )
    change = gap_change(a_text, a_vision, a_text, b_vision)
    assert change.points == pytest.approx(change.after - change.before)
    assert change.before == pytest.approx(paired_gap(a_text, a_vision).points)
    assert change.ci_high < 0 and change.p_value < 0.001  # the gap closed
    same = gap_change(a_text, a_vision, a_text, a_vision)
    assert (same.points, same.ci_low, same.ci_high, same.p_value) == (0, 0, 0, 1)


def test_the_sign_flip_test_keeps_its_size() -> None:
    rng = np.random.default_rng(2)
    p_values = [
        gap_change(
            *(rng.binomial(4, 0.5, 60) / 4 for _ in range(4)), resamples=200, seed=seed
        ).p_value
        for seed in range(600)
    ]
    assert 0.02 <= np.mean([p <= 0.05 for p in p_values]) <= 0.08


# ---- votes, pass@k, Holm -------------------------------------------------------------------------
@fast
@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k))


def test_pass_at_1_is_the_accuracy() -> None:
    assert pass_at_k(4, [0, 1, 4], 1) == pytest.approx(accuracy([0, 1, 4], 4).value)
    assert pass_at_k([4, 2, 8], [1, 1, 4], 2) == pytest.approx((0.5 + 1 + (1 - 6 / 28)) / 3)


def test_a_majority_votes_over_values_and_no_number_does_not_vote() -> None:
    assert majority_vote([5.0, 7.0, 5.001, None, None, None]) == 5.0
    assert majority_vote([7.0, 5.0]) == 7.0
    assert majority_vote([None]) is None
    assert majority_vote([]) is None


@fast
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_never_lowers_a_p_value(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert all(a <= 1 for a in adjusted)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


# ---- planning ------------------------------------------------------------------------------------
def test_the_planned_number_of_problems_has_the_power_it_promises() -> None:
    rng = np.random.default_rng(5)
    points, samples, a, consistency = 10.0, 4, 0.6, 0.5
    problems = problems_needed(
        points, samples, text_accuracy=a, consistency=consistency, correlation=0.0
    )
    concentration = 1 / consistency - 1  # a beta distribution with this intraclass correlation
    found = 0
    for _ in range(1000):
        text, vision = (
            rng.binomial(samples, rng.beta(p * concentration, (1 - p) * concentration, problems))
            / samples
            for p in (a, a - points / 100)
        )
        d = text - vision
        found += abs(d.mean()) > 1.96 * d.std(ddof=1) / math.sqrt(problems)
    assert 0.76 <= found / 1000 <= 0.84
    assert power(
        points, problems, samples, text_accuracy=a, consistency=consistency, correlation=0.0
    ) == pytest.approx(0.8, abs=0.01)


def test_more_samples_and_larger_gaps_need_fewer_problems() -> None:
    needed = [problems_needed(5, samples) for samples in (1, 2, 4, 8)]
    assert needed == sorted(needed, reverse=True) and needed[0] > needed[-1]
    assert problems_needed(10, 4) < problems_needed(5, 4) < problems_needed(2, 4)
    assert difference_sd(5, 10**6, consistency=1.0, correlation=1.0) < difference_sd(5, 1)


# ---- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([], 4), "at least one problem"),
        (lambda: accuracy([1], 0), "at least one sample"),
        (lambda: accuracy([5], 4), "between 0"),
        (lambda: accuracy([1, 2], 4, clusters=["a"]), "1 cluster ids for 2 problems"),
        (lambda: paired_gap([], []), "at least one"),
        (lambda: paired_gap([1, 0], [1]), "same problems"),
        (lambda: paired_gap([1, math.nan], [1, 0]), "between 0 and 1"),
        (lambda: gap_change([1], [0], [1, 1], [0, 0]), "same problems"),
        (lambda: pass_at_k(4, 2, 5), "between 1 and the smallest number of samples, 4"),
        (lambda: holm([0.5, 1.5]), "1.5"),
        (lambda: problems_needed(0, 4), "gap of 0"),
        (lambda: problems_needed(80, 4), "text accuracy"),
        (lambda: power(5, 0, 4), "0 problems"),
    ],
)
def test_bad_input_is_a_clear_error(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_the_majority_is_the_first_of_the_values_with_the_most_votes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = [
            None if value == 0 else float(value) / 300
            for value in rng.integers(0, 6, rng.integers(1, 9))
        ]
        said = [value for value in values if value is not None]
        votes = [sum(abs(a - b) <= 5e-3 for b in said) for a in said]
        expected = said[votes.index(max(votes))] if said else None
        assert majority_vote(values) == expected
