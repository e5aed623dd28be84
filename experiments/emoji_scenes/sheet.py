"""The contact sheet of the emoji scenes: every noun in all tints, places, counts, on grounds and in pairs."""

from __future__ import annotations

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_world import words
from experiments.emoji_world.captions import describe
from experiments.emoji_world.scenes import Thing
from experiments.emoji_world.sheet import Sheet


def sheet_prompts() -> list[list[str]]:
    """A row per noun: as it is, in the six tints, in three places, on two grounds, two and three of it, two pairs."""
    nouns, grounds = list(words.NOUNS), list(scene_words.GROUNDS.values())
    rows = []
    for index, noun in enumerate(nouns):
        a, b = describe(Thing(noun)), describe(Thing(nouns[(index + 5) % len(nouns)]))
        rows.append(
            [a]
            + [describe(Thing(noun, tint)) for tint in words.TINTS]
            + [f"{a} {place}" for place in scene_words.PLACES.values()]
            + [f"{a} {grounds[(index + k) % len(grounds)]}" for k in (0, 2)]
            + [describe(Thing(noun), count) for count in scene_words.COUNTS]
            + [f"{a} left of {b}", f"{a} right of {b}"]
        )
    return rows


def contact_sheet() -> Sheet:
    """The sheet at half the images' size, so that its file stays small."""
    return Sheet(sheet_prompts(), side=64)
