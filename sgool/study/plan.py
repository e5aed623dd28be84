"""Plans who sees which images, in which order and on which side: balanced, and the same for the same seed."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")

FORMS = 64
"""Number of orders in a page that many raters share. A rater's id picks one; two raters may have the same."""


@dataclass(frozen=True)
class Shown:
    """A place in a form: the index of the item that is shown, and whether its two images change sides."""

    item: int
    swapped: bool


@dataclass(frozen=True)
class Facts:
    """The facts about a comparison that planning needs: its method pair and its prompt-seed pair."""

    methods: Hashable
    pair: Hashable


def seeded(*parts: object) -> random.Random:
    """Return a random generator that depends only on the parts, on any machine."""
    text = "\0".join(str(part) for part in parts)
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def make_forms(
    comparisons: Sequence[Facts], checks: int, per_rater: int, seed: int, raters: Sequence[str]
) -> list[list[Shown]]:
    """Make a form per rater (or per anonymous slot): the order in which a rater sees the items.

    Within a form no item appears twice, the method pairs appear equally often (within one, as far as there are
    comparisons), each is on its first side as often as on the other (within one), and the checks are spread over the
    form. Over the forms every comparison of a method pair appears equally often (within one). Within a form, different
    prompts are preferred.

    Args:
        comparisons: The comparisons, in an order that is the same at every call; they are the items 0, 1, ...
        checks: How many attention checks there are; they are the items after the comparisons, and all are in each form.
        per_rater: The most comparisons in a form.
        seed: The study's seed.
        raters: One name per form.
    """
    used: Counter[int] = Counter()
    return [_form(comparisons, checks, per_rater, seeded(seed, rater), used) for rater in raters]


def choose(candidates: Sequence[Value], number: int | None, seed: int) -> list[Value]:
    """Draw ``number`` candidates (all if None) and return them in their order."""
    if number is None or number >= len(candidates):
        return list(candidates)
    chosen = set(seeded(seed, "pairs").sample(range(len(candidates)), number))
    return [candidate for index, candidate in enumerate(candidates) if index in chosen]


def _form(
    comparisons: Sequence[Facts], checks: int, per_rater: int, generator: random.Random, used: Counter[int]
) -> list[Shown]:
    groups: dict[Hashable, list[int]] = {}
    for item, facts in enumerate(comparisons):
        groups.setdefault(facts.methods, []).append(item)
    shown: list[Shown] = []
    seen: Counter[Hashable] = Counter()
    quotas = _quotas([len(items) for items in groups.values()], per_rater, generator)
    for items, quota in zip(groups.values(), quotas, strict=True):
        chosen = _draw(items, quota, comparisons, generator, used, seen)
        shown += [Shown(*step) for step in zip(chosen, _sides(quota, generator), strict=True)]
    generator.shuffle(shown)
    return _spread(shown, len(comparisons), checks, generator)


def _draw(
    items: Sequence[int],
    number: int,
    comparisons: Sequence[Facts],
    generator: random.Random,
    used: Counter[int],
    seen: Counter[Hashable],
) -> list[int]:
    """Draw the least used items, first those of pairs that are rare in the form, and count their use."""
    order = list(items)
    generator.shuffle(order)
    order.sort(key=lambda item: (used[item], seen[comparisons[item].pair]))
    for item in order[:number]:
        used[item] += 1
        seen[comparisons[item].pair] += 1
    return order[:number]


def _quotas(sizes: Sequence[int], total: int, generator: random.Random) -> list[int]:
    """Share ``total`` among groups, as equally as their sizes allow; which group gets one more is drawn."""
    quotas = [0] * len(sizes)
    for _ in range(min(total, sum(sizes))):
        open_groups = [index for index, size in enumerate(sizes) if quotas[index] < size]
        fewest = min(quotas[index] for index in open_groups)
        quotas[generator.choice([index for index in open_groups if quotas[index] == fewest])] += 1
    return quotas


def _sides(number: int, generator: random.Random) -> list[bool]:
    """Swap half of the sides, in random order; for an odd number the last one is drawn."""
    sides = [index % 2 == 0 for index in range(number - number % 2)]
    sides += [generator.random() < 0.5] if number % 2 else []
    generator.shuffle(sides)
    return sides


def _spread(shown: list[Shown], first_check: int, checks: int, generator: random.Random) -> list[Shown]:
    """Put a check into each of equal parts of the form, but none at its start, where raters still get used to it."""
    order = list(range(first_check, first_check + checks))
    generator.shuffle(order)
    result: list[Shown] = []
    for part, check in enumerate(order):
        start, end = part * len(shown) // checks, (part + 1) * len(shown) // checks
        block = shown[start:end]
        earliest = min(2, len(block)) if part == 0 else 0
        block.insert(generator.randint(earliest, len(block)), Shown(check, generator.random() < 0.5))
        result += block
    return result if checks else shown
