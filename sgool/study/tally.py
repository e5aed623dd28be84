"""Computes wins, draws and losses of method pairs, agreement and ranking from a set of votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgool.study.agreement import Agreement, fleiss_kappa
from sgool.study.key import StudyKey
from sgool.study.ranking import fit_strengths, is_separated
from sgool.study.votes import QUESTIONS, Vote

RESAMPLES = 2000
FEWEST_PROMPTS = 6
"""The fewest prompts for a bootstrap interval: with five, chance puts all of them on one side in 6 % of cases."""

_Z = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """An estimated share in [0, 1] or log-strength, with its 95 % interval; its ends are None if there is none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairResult:
    """The result of two methods on one question.

    Attributes:
        first: The first method.
        second: The second method.
        items: How many comparisons have at least one vote.
        prompts: How many different prompts these comparisons have.
        votes: How many votes there are.
        wins: How many votes are for the first method.
        ties: How many votes say that there is no difference.
        losses: How many votes are for the second method.
        share: (wins + ties / 2) / votes; the interval is over prompts.
        items_first: In how many comparisons more than half of the votes are for the first method.
        items_second: In how many they are for the second; the other comparisons are undecided.
        success_first: ``items_first / items`` with Wilson's interval. For ``match``: the prompt alignment success rate.
        success_second: The same for the second.
        agreement: The agreement of raters over these comparisons.
    """

    first: str
    second: str
    items: int
    prompts: int
    votes: int
    wins: int
    ties: int
    losses: int
    share: Estimate
    items_first: int
    items_second: int
    success_first: Estimate
    success_second: Estimate
    agreement: Agreement


@dataclass(frozen=True)
class QuestionResult:
    """The results of one question.

    Attributes:
        pairs: The result of every method pair that has a vote.
        agreement: The agreement of raters over all comparisons.
        strengths: Method -> log-strength (sum 0), the best method first.
        tie_parameter: Davidson's nu.
        separated: Whether some methods were never beaten or tied by the others; only the prior keeps strengths finite.
        left: The share of the left image among votes that are no ties; far from one half it shows a habit of raters.
    """

    pairs: list[PairResult]
    agreement: Agreement
    strengths: dict[str, Estimate]
    tie_parameter: float
    separated: bool
    left: float | None


@dataclass(frozen=True)
class Block:
    """The results of a set of raters.

    Attributes:
        raters: How many raters there are.
        items: How many comparisons have a vote.
        single: How many comparisons have only one vote.
        prompts: How many different prompts the comparisons have.
        votes: How many votes there are on each question.
        questions: The results of ``match`` and ``prefer``; empty without votes.
    """

    raters: int
    items: int
    single: int
    prompts: int
    votes: int
    questions: dict[str, QuestionResult]


def tally(votes: Sequence[Vote], key: StudyKey) -> Block:
    """Count a set of votes and estimate shares, agreement and ranking.

    Args:
        votes: One vote per rater and item, without those on attention checks.
        key: The study's key.
    """
    questions = {question: _question(votes, key, question) for question in QUESTIONS} if votes else {}
    prompts = {key.items[vote.item].prompt for vote in votes}
    items = Counter(vote.item for vote in votes)
    single = sum(count == 1 for count in items.values())
    return Block(len({vote.rater for vote in votes}), len(items), single, len(prompts), len(votes), questions)


def wilson(successes: float, number: float) -> Estimate:
    """Compute a share with Wilson's score interval, at 95 %.

    Source: Wilson, Journal of the American Statistical Association 22 (1927) 209-212.
    """
    share = successes / number
    centre = (share + _Z**2 / (2 * number)) / (1 + _Z**2 / number)
    half = _Z / (1 + _Z**2 / number) * np.sqrt(share * (1 - share) / number + _Z**2 / (4 * number**2))
    return Estimate(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _question(votes: Sequence[Vote], key: StudyKey, question: str) -> QuestionResult:
    table = _Table(votes, key, question)
    drawn = table.resampled()
    pairs = [_pair(table, index, drawn[:, index]) for index in range(len(table.pairs))]
    whole = table.counts.sum(axis=0)
    present = sorted({method for pair in table.pairs for method in pair})
    places = [(present.index(first), present.index(second)) for first, second in table.pairs]
    (values,), (ties,) = fit_strengths(whole[None], places, len(present))
    enough = len(table.prompts) >= FEWEST_PROMPTS
    spread = fit_strengths(drawn, places, len(present))[0] if enough else None
    strengths = {}
    for place in np.argsort(-values, kind="stable"):
        low, high = (None, None) if spread is None else _middle(spread[:, place])
        strengths[key.methods[present[place]]] = Estimate(float(values[place]), low, high)
    sided = [getattr(vote, question) for vote in votes if getattr(vote, question) != "tie"]
    left = sided.count("left") / len(sided) if sided else None
    separated = is_separated(whole, places, len(present))
    return QuestionResult(pairs, fleiss_kappa(table.item_counts), strengths, float(ties), separated, left)


class _Table:
    """Counts of (first wins, ties, second wins) by item, and by prompt and method pair."""

    def __init__(self, votes: Sequence[Vote], key: StudyKey, question: str) -> None:
        self.methods = key.methods
        self.items = sorted({vote.item for vote in votes})
        owners = [sorted(map(key.methods.index, key.items[item].images.values())) for item in self.items]
        self.pairs = sorted({(first, second) for first, second in owners})
        self.prompts = sorted({key.items[item].prompt for item in self.items})
        self.item_counts = np.zeros((len(self.items), 3))
        places = {item: place for place, item in enumerate(self.items)}
        for vote in votes:
            method = vote.method(question, key)
            place = places[vote.item]
            column = 1 if method is None else 2 * owners[place].index(key.methods.index(method))
            self.item_counts[place, column] += 1
        pair_places = {pair: place for place, pair in enumerate(self.pairs)}
        prompt_places = {prompt: place for place, prompt in enumerate(self.prompts)}
        self.item_pairs = np.array([pair_places[first, second] for first, second in owners])
        self.item_prompts = np.array([prompt_places[key.items[item].prompt] for item in self.items])
        self.counts = np.zeros((len(self.prompts), len(self.pairs), 3))
        np.add.at(self.counts, (self.item_prompts, self.item_pairs), self.item_counts)

    def resampled(self) -> NDArray[np.float64]:
        """Draw whole prompts with replacement, since seeds of one prompt are not independent: (resamples, pairs, 3)."""
        number = len(self.prompts)
        weights = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), RESAMPLES)
        return np.einsum("rq,qpk->rpk", weights.astype(np.float64), self.counts)


def _pair(table: _Table, index: int, drawn: NDArray[np.float64]) -> PairResult:
    own = table.item_counts[table.item_pairs == index]
    prompts = len(np.unique(table.item_prompts[table.item_pairs == index]))
    wins, ties, losses = (int(count) for count in own.sum(axis=0))
    majority = own > own.sum(axis=1, keepdims=True) / 2
    first, second = (table.methods[place] for place in table.pairs[index])
    won, lost = int(majority[:, 0].sum()), int(majority[:, 2].sum())
    return PairResult(
        first, second, len(own), prompts, wins + ties + losses, wins, ties, losses,
        _share(wins, ties, losses, prompts, drawn), won, lost, wilson(won, len(own)), wilson(lost, len(own)),
        fleiss_kappa(own),
    )  # fmt: skip


def _share(wins: int, ties: int, losses: int, prompts: int, drawn: NDArray[np.float64]) -> Estimate:
    """Bootstrap a share over prompts; if all agree, this has no width, and Wilson's interval over prompts is used."""
    value = (wins + ties / 2) / (wins + ties + losses)
    if prompts < FEWEST_PROMPTS:
        return Estimate(value, None, None)
    numbers = drawn.sum(axis=1)
    some = numbers > 0  # a resample may have no prompt of this pair
    low, high = _middle((drawn[some, 0] + drawn[some, 1] / 2) / numbers[some])
    if high - low < 1e-12:
        return wilson(value * prompts, prompts)
    return Estimate(value, low, high)


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
