"""The vocabulary of the emoji scenes: the emoji world's nouns and tints, grounds, places and distractors."""

from __future__ import annotations

from experiments.emoji_world import words
from experiments.emoji_world.words import stable_hash

#: Ground -> how captions say it.
GROUNDS: dict[str, str] = {
    "meadow": "on a meadow",
    "room": "in a room",
    "sea": "by the sea",
    "street": "on a street",
    "night": "at night",
}
PLACES: dict[str, str] = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
COUNTS = {2: "two", 3: "three"}
LAYOUTS = ("one", "beside", "two", "three")

#: Ground -> files of Noto emoji that may stand around there. No caption names them, and no noun is among them.
DISTRACTORS: dict[str, tuple[str, ...]] = {
    "meadow": ("1f33c.png", "1f337.png", "1f33b.png", "1faa8.png", "1f41d.png", "1f40c.png", "1f422.png"),
    "room": ("1fa91.png", "1f4da.png", "1f570-fe0f.png", "1fab4.png", "1f6cb-fe0f.png", "1f56f-fe0f.png", "1f9fa.png"),
    "sea": ("26f5.png", "1f41a.png", "1f980.png", "1f6f6.png", "1f422.png", "1faa8.png"),
    "street": ("1f6a6.png", "1f6b2.png", "1f68c.png", "1f5d1-fe0f.png", "26fd.png", "1f6d1.png"),
    "night": ("1f3ee.png", "1f989.png", "1f987.png", "1fab4.png", "1faa8.png", "1f56f-fe0f.png"),
}


def _one_each(options: tuple[str, ...], salt: str) -> frozenset[tuple[str, str]]:
    return frozenset((noun, min(options, key=lambda o: stable_hash(salt, noun, o))) for noun in words.NOUNS)


#: Never in any training scene, beside the emoji world's tints and pairs: one ground, one place and one count per noun.
HELD_OUT_GROUNDS = _one_each(tuple(GROUNDS), "ground")
HELD_OUT_PLACES = _one_each(tuple(PLACES), "place")
HELD_OUT_COUNTS = frozenset((noun, 2 + stable_hash("scenes count", noun) % 2) for noun in words.NOUNS)
