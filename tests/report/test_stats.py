"""Paired differences and intervals against scipy and hand computation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sgool.report.stats import (
    FEWEST_GROUPS,
    bootstrap_interval,
    mean_or_none,
    paired_difference,
    relative_improvement,
    signed_rank_p,
    summary_rows,
)
from tests.fake_run import fake_pairs, fake_record


def series(*values: float) -> pd.Series:
    return pd.Series(values, index=[f"p{number}" for number in range(len(values))], dtype="float64")


class TestBootstrap:
    @pytest.mark.parametrize("size", [8, 60])
    def test_agrees_with_scipy(self, size: int) -> None:
        values = np.random.default_rng(1).gamma(2.0, size=size)
        expected = stats.bootstrap(
            (values,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(2)
        ).confidence_interval
        low, high = bootstrap_interval(values, resamples=20000)
        # Two Monte Carlo quantiles: each has a standard error of about 0.02 standard errors of the mean; five of them.
        tolerance = 0.1 * values.std() / np.sqrt(size)
        assert low == pytest.approx(expected.low, abs=tolerance)
        assert high == pytest.approx(expected.high, abs=tolerance)

    def test_two_values_by_hand(self) -> None:
        # Means of two draws from {0, 1}: 0, 1/2, 1 with chances 1/4, 1/2, 1/4: the quantiles are the ends.
        assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
        # One-half interval: quantiles 0.25 and 0.75 would fall on a boundary, 0.3 and 0.7 are inside the middle.
        assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)

    def test_groups_are_drawn_whole(self) -> None:
        values = np.random.default_rng(3).normal(size=30)
        # Each value thrice within one group adds nothing: the same interval, to the bit of a sum's rounding.
        alone = bootstrap_interval(values)
        thrice = bootstrap_interval(np.repeat(values, 3), np.repeat(np.arange(30), 3))
        assert thrice == pytest.approx(alone, rel=1e-12)
        pretended = bootstrap_interval(np.repeat(values, 3))
        assert pretended[1] - pretended[0] < 0.7 * (alone[1] - alone[0])

    def test_groups_of_unequal_size_weigh_their_values(self) -> None:
        low, high = bootstrap_interval([0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"])
        assert (low, high) == (0.0, 1.0)
        # Drawing a and b: (0 + 3) / 4, the mean of values and not of groups' means.
        assert bootstrap_interval([0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"], confidence=0.4) == (0.75, 0.75)

    def test_the_same_every_time_and_for_any_block(self) -> None:
        values = np.random.default_rng(4).normal(size=3000)  # several blocks of draws
        assert bootstrap_interval(values) == bootstrap_interval(values)
        assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)

    @pytest.mark.parametrize("values", [[], [1.0]])
    def test_none_without_two_values(self, values: list[float]) -> None:
        assert bootstrap_interval(values) is None
        assert bootstrap_interval(values * 3, ["one prompt"] * len(values) * 3) is None


class TestPairedDifference:
    def test_by_hand(self) -> None:
        result = paired_difference(series(1, 2, 3, 4, 5, 7), series(0, 2, 4, 3, 5 - 1e-7, 6))
        assert (result.pairs, result.wins, result.draws, result.losses) == (6, 3, 2, 1)
        assert result.difference == pytest.approx((1 + 0 - 1 + 1 + 1e-7 + 1) / 6, rel=1e-12)
        # 5 - (5 - 1e-7) is 1e-7 to the rounding of numbers near 5
        assert (result.low, result.high) == pytest.approx(bootstrap_interval([1, 0, -1, 1, 1e-7, 1]), abs=1e-14)
        assert not result.clear

    def test_only_pairs_that_both_have(self) -> None:
        values = series(1, float("nan"), 3)
        others = pd.Series({"p2": 1.0, "p1": 5.0, "other": 9.0})
        result = paired_difference(values, others)
        assert (result.pairs, result.difference, result.wins) == (1, 2.0, 1)
        assert (result.low, result.high, result.clear) == (None, None, False)

    def test_none_at_all(self) -> None:
        result = paired_difference(series(), series(1))
        assert (result.pairs, result.wins, result.draws, result.losses, result.low) == (0, 0, 0, 0, None)
        assert np.isnan(result.difference)

    @pytest.mark.parametrize("prompts", [FEWEST_GROUPS - 1, FEWEST_GROUPS])
    def test_interval_only_with_enough_prompts(self, prompts: int) -> None:
        values = series(*np.arange(1.0, 2 * prompts + 1))
        groups = pd.Series(np.repeat([f"prompt {number}" for number in range(prompts)], 2), index=values.index)
        result = paired_difference(values, values * 0, groups)
        assert result.pairs == 2 * prompts
        assert (result.low is not None) == (prompts == FEWEST_GROUPS)
        assert result.clear == (prompts == FEWEST_GROUPS)

    def test_few_wins_among_draws_are_not_clear(self) -> None:
        result = paired_difference(series(*[1.0] * 5, *[0.0] * 12), series(*[0.0] * 17))
        assert (result.wins, result.draws, result.losses) == (5, 12, 0)
        assert result.low is not None
        assert result.low > 0  # the interval alone would claim too much
        assert not result.clear
        assert paired_difference(series(*[1.0] * 6, *[0.0] * 12), series(*[0.0] * 18)).clear

    def test_worse_is_clear_too(self) -> None:
        result = paired_difference(series(*range(8)), series(*range(1, 9)))
        assert result.clear
        assert (result.low, result.high) == (-1.0, -1.0)


class TestSignedRank:
    def test_by_hand(self) -> None:
        # All six positive: of 2^6 patterns of signs one is as extreme, and its mirror.
        assert signed_rank_p([1, 2, 3, 4, 5, 6]) == 2 / 64
        # Ranks 1..6, the negative ones sum to 1: patterns with a sum of at most 1 are {} and {1}; with their mirrors 4.
        assert signed_rank_p([-1, 2, 3, 4, 5, 6]) == 4 / 64

    def test_equal_sizes_by_hand(self) -> None:
        # All of one size: the signed-rank test is the sign test; 8 of 8: 2 / 2^8, 7 of 8: 2 (1 + 8) / 2^8.
        assert signed_rank_p([1.0] * 8) == pytest.approx(2 / 256, rel=1e-12)
        assert signed_rank_p([1.0] * 7 + [-1.0]) == pytest.approx(18 / 256, rel=1e-12)

    @pytest.mark.parametrize("size", [12, 50])
    def test_exact_as_scipy(self, size: int) -> None:
        values = np.random.default_rng(size).normal(0.3, size=size)
        assert signed_rank_p(values) == stats.wilcoxon(values, method="exact").pvalue

    def test_approximate_as_scipy(self) -> None:
        values = np.random.default_rng(5).integers(-3, 5, 80).astype(float)  # equal sizes, and zeros
        expected = stats.wilcoxon(values, zero_method="wilcox", correction=False, method="asymptotic").pvalue
        assert signed_rank_p(values) == expected
        assert signed_rank_p(values) == signed_rank_p(values[values != 0])

    def test_draws_are_left_out(self) -> None:
        values = [1, 2, 3, 4, 5, 6]
        assert signed_rank_p([*values, 0, 1e-7, -1e-7]) == signed_rank_p(values)

    def test_rounding_does_not_break_ties(self) -> None:
        exact = [0.3] * 4 + [-0.3] * 2 + [0.6]
        noisy = [0.1 + 0.2] * 2 + [0.3] * 2 + [-0.3, -(0.1 + 0.2), 0.6]
        assert signed_rank_p(noisy) == signed_rank_p(exact)

    def test_none_with_too_few(self) -> None:
        assert signed_rank_p([1.0] * (FEWEST_GROUPS - 1) + [0.0] * 50) is None
        assert signed_rank_p([]) is None

    def test_seeds_of_a_prompt_count_once(self) -> None:
        values = np.random.default_rng(6).normal(0.4, size=20)
        groups = pd.Series(
            np.repeat([f"prompt {number}" for number in range(20)], 2), index=[f"p{n}" for n in range(40)]
        )
        twice = series(*np.repeat(values, 2))
        result = paired_difference(twice, twice * 0, groups)
        assert (result.pairs, result.prompts) == (40, 20)
        assert result.p_value == pytest.approx(signed_rank_p(values), rel=1e-9)
        assert result.p_value > signed_rank_p(np.repeat(values, 2))


class TestRelativeImprovement:
    def test_by_hand(self) -> None:
        values, others = series(2, 4, 6), series(1, 2, 5)
        result = relative_improvement(values, others, pd.Series("one prompt", index=values.index))
        assert (result.pairs, result.low, result.high) == (3, None, None)
        assert result.percent == pytest.approx(100 * (12 / 8 - 1), rel=1e-12)

    def test_agrees_with_scipy(self) -> None:
        generator = np.random.default_rng(7)
        others = generator.uniform(20, 30, 60)
        values = others + generator.normal(1, 2, 60)

        def ratio(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
            return 100 * (a.mean(axis=axis) / b.mean(axis=axis) - 1)

        expected = stats.bootstrap(
            (values, others), ratio, paired=True, vectorized=True, method="percentile", n_resamples=20000,
            rng=np.random.default_rng(8),
        ).confidence_interval  # fmt: skip
        one, two = series(*values), series(*others)
        result = relative_improvement(one, two, pd.Series(one.index, index=one.index))
        # Monte Carlo quantiles of two seeds: some hundredths of the interval's width.
        width = expected.high - expected.low
        assert result.low == pytest.approx(expected.low, abs=0.05 * width)
        assert result.high == pytest.approx(expected.high, abs=0.05 * width)

    def test_nothing_to_compare_with(self) -> None:
        groups = pd.Series({"p0": "a", "p1": "b"})
        assert relative_improvement(series(1, 1), series(0, 0), groups) is None
        assert relative_improvement(series(1, 1), series(-1, -2), groups) is None
        assert relative_improvement(series(), series(1), groups) is None


class TestSummaryRows:
    def test_means_over_finished_pairs(self) -> None:
        one, two, three = fake_pairs()[:3]
        records = [
            fake_record(one, "vanilla", metrics={"judge/clip_score": 20.0, "judge/clip_score_initial": 20.0}),
            fake_record(
                one,
                metrics={"judge/clip_score": 30.0, "judge/clip_score_initial": 20.0},
                seconds=1.0,
                network_backward_passes=20,
            ),
            fake_record(
                two,
                metrics={"judge/clip_score": 31.0, "judge/clip_score_initial": 21.0},
                seconds=3.0,
                network_backward_passes=40,
            ),
            fake_record(three, status="failed", error="NaN", seconds=100.0),
        ]
        vanilla, sgool = summary_rows(records)
        assert (vanilla["method"], vanilla["pairs"], vanilla["failed"]) == ("vanilla", 1, 0)
        assert (sgool["method"], sgool["pairs"], sgool["failed"]) == ("sgool", 2, 1)
        assert sgool["judge"] == "judge/clip_score"
        assert (sgool["judge_initial"], sgool["judge_final"]) == (20.5, 30.5)
        assert (sgool["network_calls"], sgool["seconds"], sgool["scene_pairs"]) == (1070.0, 2.0, 2)
        accuracy = [record.metrics["scene_accuracy"] for record in records[1:3]]
        assert sgool["scene_final"] == sum(accuracy) / 2

    def test_absent_metrics_and_all_failed(self) -> None:
        (row,) = summary_rows([fake_record(fake_pairs()[0], status="failed", error="why")])
        assert (row["pairs"], row["failed"], row["judge"]) == (0, 1, None)
        assert {row[name] for name in ("judge_initial", "judge_final", "scene_final", "seconds")} == {None}
        assert summary_rows([]) == []

    def test_the_guide_is_never_the_judge(self) -> None:
        record = fake_record(fake_pairs()[0], status="failed", error="x", metrics={"guide/clip_score": 30.0})
        assert summary_rows([record])[0]["judge"] is None

    def test_mean_or_none(self) -> None:
        assert mean_or_none([1.0, float("nan"), 2.0]) == 1.5
        assert mean_or_none([float("nan")]) is None
        assert mean_or_none([]) is None
