"""Agreement, intervals and ranking against cases computed by hand, published ones, and other implementations."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

from sgool.study.agreement import fleiss_kappa
from sgool.study.ranking import fit_strengths, is_separated
from sgool.study.tally import FEWEST_PROMPTS, Block, tally, wilson
from sgool.study.votes import Vote
from tests.study.votes import small_key, vote

#: Ten items, fourteen raters, five answers; kappa 0.210, observed 0.378, expected 0.213: the example worked in
#: en.wikipedia.org/wiki/Fleiss'_kappa (statsmodels 0.15 gives 0.20993 too).
WORKED = np.array(
    [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]
)  # fmt: skip


class TestFleissKappa:
    def test_published_example(self) -> None:
        found = fleiss_kappa(WORKED)
        assert (found.items, found.ratings, found.note) == (10, 140, "")
        # To the three digits that are published.
        assert found.observed == pytest.approx(0.378, abs=5e-4)
        assert found.expected == pytest.approx(0.213, abs=5e-4)
        assert found.kappa == pytest.approx(0.210, abs=5e-4)

    def test_by_hand(self) -> None:
        """Items 3:0 and 1:2. Observed (1 + 1/3) / 2, expected (4/6)^2 + (2/6)^2 = 5/9: (2/3 - 5/9) / (4/9) = 1/4."""
        assert fleiss_kappa([[3, 0], [1, 2]]).kappa == pytest.approx(0.25, abs=1e-12)

    def test_perfect_agreement_and_the_least_possible(self) -> None:
        assert fleiss_kappa([[4, 0], [0, 4]]).kappa == pytest.approx(1.0, abs=1e-12)
        # Two raters who always differ: observed 0, expected 1/2.
        assert fleiss_kappa([[1, 1], [1, 1]]).kappa == pytest.approx(-1.0, abs=1e-12)

    def test_different_numbers_of_raters(self) -> None:
        """3:0 and 1:1, by hand: observed (1 + 0) / 2, shares 4/5 and 1/5, expected 17/25: (0.5 - 0.68) / 0.32."""
        found = fleiss_kappa([[3, 0], [1, 1], [1, 0]])
        assert found.kappa == pytest.approx(-0.5625, abs=1e-12)
        assert (found.items, found.ratings, found.note) == (2, 5, "items have 2 to 3 raters")

    def test_where_it_is_not_defined(self) -> None:
        same = fleiss_kappa([[3, 0, 0], [3, 0, 0]])
        assert (same.kappa, same.observed) == (None, 1.0)
        assert "same answer everywhere" in same.note
        for counts in ([], [[1, 0, 0]], np.zeros((0, 3))):
            assert (fleiss_kappa(counts).kappa, fleiss_kappa(counts).items) == (None, 0)


class TestWilson:
    @pytest.mark.parametrize(("successes", "number"), [(8, 10), (0, 5), (5, 5), (1, 300)])
    def test_against_scipy(self, successes: int, number: int) -> None:
        found = wilson(successes, number)
        expected = binomtest(successes, number).proportion_ci(method="wilson")
        assert (found.value, found.low, found.high) == pytest.approx(
            (successes / number, expected.low, expected.high), abs=1e-12
        )


def _negative_log_likelihood(values: np.ndarray, counts: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    """Davidson's, spelled out."""
    total = 0.0
    for (first, second), (wins, ties, losses) in zip(pairs, counts, strict=True):
        s, t, nu = math.exp(values[first]), math.exp(values[second]), math.exp(values[-1])
        whole = s + t + nu * math.sqrt(s * t)
        total += wins * math.log(s / whole) + ties * math.log(nu * math.sqrt(s * t) / whole)
        total += losses * math.log(t / whole)
    return -total


class TestStrengths:
    def test_two_methods_by_hand(self) -> None:
        """12 wins, 6 ties, 3 losses: as many parameters as shares, so s1 / s2 = 12 / 3 and nu = 6 / sqrt(12 * 3)."""
        ((one, two),), (nu,) = fit_strengths(np.array([[[12.0, 6.0, 3.0]]]), [(0, 1)], 2, prior=0)
        # The ridge of 1e-8 that keeps the sum at 0 moves nothing beyond 1e-8.
        assert (one, two, nu) == pytest.approx((math.log(2), -math.log(2), 1.0), abs=1e-7)

    def test_without_ties_it_is_bradley_and_terry_s_model(self) -> None:
        """Against the algorithm of Hunter, Annals of Statistics 32 (2004) 384-406, section 2."""
        pairs = list(combinations(range(4), 2))
        counts = np.random.default_rng(1).integers(1, 12, (len(pairs), 3)).astype(float)
        counts[:, 1] = 0
        strengths = np.ones(4)
        for _ in range(3000):
            wins, weights = np.zeros(4), np.zeros(4)
            for (i, j), (won, _, lost) in zip(pairs, counts, strict=True):
                wins[[i, j]] += won, lost
                weights[[i, j]] += (won + lost) / (strengths[i] + strengths[j])
            strengths = wins / weights
            strengths /= np.exp(np.log(strengths).mean())
        (found,), (nu,) = fit_strengths(counts[None], pairs, 4, prior=0)
        assert found == pytest.approx(np.log(strengths), abs=1e-6)  # the minorisation has settled to about 1e-12
        assert nu == 0

    def test_against_a_general_optimiser(self) -> None:
        pairs = list(combinations(range(4), 2))
        counts = np.random.default_rng(2).integers(1, 15, (len(pairs), 3)).astype(float)
        best = minimize(_negative_log_likelihood, np.zeros(5), (counts, pairs), method="BFGS", options={"gtol": 1e-8})
        (found,), (nu,) = fit_strengths(counts[None], pairs, 4, prior=0)
        # Finite differences leave BFGS about 1e-6 off.
        assert found == pytest.approx(best.x[:4] - best.x[:4].mean(), abs=1e-5)
        assert nu == pytest.approx(math.exp(best.x[4]), rel=1e-5)

    def test_many_data_sets_at_once_are_the_same_as_one_by_one(self) -> None:
        pairs = list(combinations(range(3), 2))
        counts = np.random.default_rng(3).integers(0, 9, (20, 3, 3)).astype(float)
        together, ties = fit_strengths(counts, pairs, 3)
        for index, one in enumerate(counts):
            alone, tie = fit_strengths(one[None], pairs, 3)
            assert together[index] == pytest.approx(alone[0], abs=1e-7)
            assert ties[index] == pytest.approx(tie[0], abs=1e-7)

    def test_a_method_that_never_lost_gets_a_finite_strength_and_is_named(self) -> None:
        pairs = [(0, 1), (0, 2), (1, 2)]
        counts = np.array([[9.0, 0, 0], [9.0, 0, 0], [5.0, 0, 4.0]])
        assert is_separated(counts, pairs, 3)
        (strengths,), _ = fit_strengths(counts[None], pairs, 3)
        assert strengths[0] > strengths[1] > strengths[2] > -10
        counts[1] = 8, 1, 0  # one tie ties them together
        assert not is_separated(counts, pairs, 3)

    def test_the_prior_moves_little_where_there_are_votes(self) -> None:
        counts = np.array([[[60.0, 20.0, 30.0]]])
        with_prior, _ = fit_strengths(counts, [(0, 1)], 2)
        without, _ = fit_strengths(counts, [(0, 1)], 2, prior=0)
        assert with_prior[0, 0] == pytest.approx(without[0, 0], rel=0.01)
        assert with_prior[0, 0] < without[0, 0]


def _block(outcomes: list[tuple[str, str]]) -> Block:
    """One item per (prompt, answers), an answer per rater: a, b or t; methods a and b, a always on the left."""
    key = small_key(["a", "b"], [(prompt, "a", "b") for prompt, _ in outcomes])
    words = {"a": "left", "b": "right", "t": "tie"}
    votes: list[Vote] = []
    for number, (_, answers) in enumerate(outcomes):
        images = (f"i{number}a", f"i{number}b")
        votes += [vote("s", f"r{n}", f"i{number}", images, words[letter]) for n, letter in enumerate(answers)]
    return tally(votes, key)


class TestTally:
    def test_counts_by_hand(self) -> None:
        block = _block([("p0", "aab"), ("p1", "att"), ("p2", "abt"), ("p3", "bbb"), ("p4", "a")])
        (pair,) = block.questions["match"].pairs
        assert (block.raters, block.items, block.single, block.prompts, block.votes) == (3, 5, 1, 5, 13)
        assert (pair.first, pair.second, pair.items, pair.votes) == ("a", "b", 5, 13)
        assert (pair.wins, pair.ties, pair.losses) == (5, 3, 5)
        assert pair.share.value == pytest.approx((5 + 3 / 2) / 13)
        # Majority: a, none (a tie has it), none, b, a.
        assert (pair.items_first, pair.items_second) == (2, 1)
        assert pair.success_first == wilson(2, 5)
        # Couples of agreeing raters: 1/3, 1/3, 0, 1 over the four items with two raters or more.
        assert pair.agreement.observed == pytest.approx((1 / 3 + 1 / 3 + 0 + 1) / 4)
        assert pair.agreement.items == 4

    def test_half_of_the_votes_is_no_majority(self) -> None:
        (pair,) = _block([("p0", "ab"), ("p1", "at")]).questions["match"].pairs
        assert (pair.items_first, pair.items_second) == (0, 0)

    def test_sides_do_not_matter_methods_do(self) -> None:
        key = small_key(["a", "b"], [("p", "a", "b")])
        votes = [
            vote("s", "r1", "i0", ("i0a", "i0b"), "left", prefer="tie"),
            vote("s", "r2", "i0", ("i0b", "i0a"), "right", prefer="left"),
        ]
        questions = tally(votes, key).questions
        assert (questions["match"].pairs[0].wins, questions["match"].left) == (2, 0.5)
        prefer = questions["prefer"]
        assert (prefer.pairs[0].ties, prefer.pairs[0].losses, prefer.left) == (1, 1, 1.0)

    def test_few_prompts_give_no_interval(self) -> None:
        few = _block([(f"p{n}", "ab") for n in range(FEWEST_PROMPTS - 1)]).questions["match"]
        assert few.pairs[0].share.low is None
        assert {strength.low for strength in few.strengths.values()} == {None}
        enough = _block([(f"p{n}", "aab"[n % 3]) for n in range(FEWEST_PROMPTS)]).questions["match"]
        assert enough.pairs[0].share.low is not None

    def test_the_interval_is_that_of_a_mean_over_prompts(self) -> None:
        """40 prompts, half for each: 0.5 +- 1.96 sqrt(0.25 / 40) = 0.155; one step of the share is 0.025."""
        (pair,) = _block([(f"p{n}", "ab"[n % 2]) for n in range(40)]).questions["match"].pairs
        assert (pair.share.low, pair.share.high) == pytest.approx((0.345, 0.655), abs=0.03)

    def test_seeds_of_one_prompt_do_not_make_it_narrower(self) -> None:
        once = _block([(f"p{n}", "ab"[n % 2]) for n in range(10)])
        often = _block([(f"p{n}", "ab"[n % 2]) for n in range(10) for _ in range(8)])
        assert once.questions["match"].pairs[0].share == often.questions["match"].pairs[0].share

    def test_where_all_prompts_agree_the_interval_still_has_a_width(self) -> None:
        (pair,) = _block([(f"p{n}", "aa") for n in range(8)]).questions["match"].pairs
        assert pair.share == wilson(8, 8)
        assert pair.share.low is not None
        assert pair.share.low < 0.7

    def test_no_vote(self) -> None:
        assert tally([], small_key(["a", "b"], [("p", "a", "b")])).questions == {}

    def test_three_methods_are_ranked_best_first(self) -> None:
        couples = [("a", "b"), ("a", "c"), ("b", "c")]
        key = small_key(["a", "b", "c"], [(f"p{n}", *couple) for n in range(8) for couple in couples])
        votes = []
        for item in key.items:
            number = int(item[1:])
            answer = "left" if number % 4 == 0 else "right"  # the later letter wins three times in four
            votes.append(vote("s", "r", item, (f"{item}a", f"{item}b"), answer))
        question = tally(votes, key).questions["match"]
        assert list(question.strengths) == ["c", "b", "a"]
        assert sum(strength.value for strength in question.strengths.values()) == pytest.approx(0, abs=1e-9)
        assert not question.separated
        for strength in question.strengths.values():
            assert strength.low is not None
            assert strength.high is not None
            assert strength.low < strength.value < strength.high
