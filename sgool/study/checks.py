"""Attention checks: comparisons whose right answer is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sgool.study.collect import Entry
from sgool.study.plan import seeded

WRONG_PROMPT = "wrong_prompt"
SAME_IMAGE = "same_image"
_FILLERS = {
    "a", "an", "and", "are", "at", "by", "for", "from", "in", "is", "of", "on", "one", "or", "the", "to", "with",
    "drawing", "image", "photo", "picture",
}  # fmt: skip
_TRIES = 200


@dataclass(frozen=True)
class Check:
    """An attention check: a comparison with a known answer.

    Attributes:
        kind: ``wrong_prompt``: the first image was made for the prompt, the second for one without a word in common;
            the first must be said to match better. ``same_image``: both are one image; both answers must be a tie.
        prompt: The prompt that is shown above the images.
        first: The first image.
        second: The second image.
    """

    kind: str
    prompt: str
    first: Entry
    second: Entry


def make_checks(entries: Sequence[Entry], number: int, seed: int) -> list[Check]:
    """Draw attention checks, of both kinds in turn.

    The images of ``wrong_prompt`` come from the better half by CLIP score where a run has one: a rater must not be
    called inattentive because the image is bad. If all prompts share a word, all checks are of the other kind.

    Args:
        entries: The images to draw from.
        number: How many checks to draw.
        seed: The study's seed.
    """
    generator = seeded(seed, "checks")
    ordered = sorted(entries, key=lambda entry: (entry.pair_id, entry.method))
    checks: list[Check] = []
    used: set[str] = set()
    for index in range(number):
        fresh = [entry for entry in ordered if entry.pair_id not in used] or ordered
        candidates = _better_half(fresh)
        check = None
        for _ in range(_TRIES if index % 2 == 0 else 0):
            first, second = generator.choice(candidates), generator.choice(candidates)
            if words(first.prompt) and words(second.prompt) and not words(first.prompt) & words(second.prompt):
                check = Check(WRONG_PROMPT, first.prompt, first, second)
                break
        if check is None:
            entry = generator.choice(fresh)
            check = Check(SAME_IMAGE, entry.prompt, entry, entry)
        used |= {check.first.pair_id, check.second.pair_id}
        checks.append(check)
    return checks


def words(prompt: str) -> set[str]:
    """Return the words of a prompt that say what a picture shows, without a plural's s."""
    found = re.findall(r"\w+", prompt.lower())
    return {word.removesuffix("s") if len(word) > 3 else word for word in found} - _FILLERS


def _better_half(entries: Sequence[Entry]) -> list[Entry]:
    scores = [entry.score for entry in entries if entry.score is not None]
    if not scores:
        return list(entries)
    middle = median(scores)
    return [entry for entry in entries if entry.score is not None and entry.score >= middle]
