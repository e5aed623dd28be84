"""The vocabulary of the emoji world, and the combinations that no network may see in training."""

from __future__ import annotations

import hashlib
from itertools import combinations, permutations

#: Noun -> file of the Noto emoji in ``emoji-datasource-google/img/google/64``.
NOUNS: dict[str, str] = {
    "cat": "1f431.png",
    "panda": "1f43c.png",
    "frog": "1f438.png",
    "fish": "1f41f.png",
    "butterfly": "1f98b.png",
    "tree": "1f333.png",
    "house": "1f3e0.png",
    "car": "1f697.png",
    "rocket": "1f680.png",
    "umbrella": "2602-fe0f.png",
    "heart": "2764-fe0f.png",
    "star": "2b50.png",
    "banana": "1f34c.png",
    "strawberry": "1f353.png",
    "mushroom": "1f344.png",
    "guitar": "1f3b8.png",
}
PLURALS = {"fish": "fish", "butterfly": "butterflies", "strawberry": "strawberries"}

#: Tint -> sRGB of its mid-tone.
TINTS: dict[str, tuple[int, int, int]] = {
    "red": (224, 36, 36),
    "orange": (246, 138, 20),
    "yellow": (246, 218, 30),
    "green": (44, 164, 60),
    "blue": (40, 92, 226),
    "purple": (146, 50, 190),
}
#: Background -> sRGB. Their names differ from the tints', so that a colour word is never ambiguous.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (24, 24, 26),
    "gray": (150, 152, 156),
    "pink": (250, 190, 208),
    "brown": (132, 92, 62),
    "cyan": (150, 226, 236),
}
#: Tints too close to the emoji's own colours to be told apart from the untinted object.
NATURAL: dict[str, tuple[str, ...]] = {
    "cat": ("yellow", "orange"),
    "frog": ("green",),
    "tree": ("green",),
    "car": ("red",),
    "heart": ("red",),
    "star": ("yellow", "orange"),
    "banana": ("yellow", "orange"),
    "strawberry": ("red",),
    "mushroom": ("red",),
    "fish": ("blue",),
    "butterfly": ("orange", "blue"),
    "umbrella": ("purple",),
    "guitar": ("red", "orange"),
}
COUNTS = {2: "two", 3: "three", 4: "four"}
LAYOUTS = ("single", "left_right", "top_bottom", "two", "three", "four")


def plural(noun: str) -> str:
    """The noun's plural form."""
    return PLURALS.get(noun, noun + "s")


def allowed_tints(noun: str) -> list[str]:
    """The tints that a scene may give to ``noun``."""
    return [tint for tint in TINTS if tint not in NATURAL.get(noun, ())]


def stable_hash(*parts: object) -> int:
    """A hash that is the same on every machine and Python version."""
    text = "|".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def _smallest(items: list[tuple], number: int, salt: str) -> frozenset[tuple]:
    return frozenset(sorted(items, key=lambda item: stable_hash(salt, *item))[:number])


#: Never in any training scene: one tint, one background and (for 12 nouns) one count per noun, 12
#: pairs of nouns, and a fifth of the (noun, relation, noun) triples of the pairs that remain.
HELD_OUT_TINTS = frozenset().union(*(_smallest([(n, t) for t in allowed_tints(n)], 1, "tint") for n in NOUNS))
HELD_OUT_BACKGROUNDS = frozenset().union(*(_smallest([(n, b) for b in BACKGROUNDS], 1, "background") for n in NOUNS))
HELD_OUT_COUNTS = _smallest([(n, c) for n in NOUNS for c in COUNTS], 12, "count")
HELD_OUT_PAIRS = _smallest(list(combinations(sorted(NOUNS), 2)), 12, "pair")
HELD_OUT_RELATIONS = _smallest(
    [
        (a, relation, b)
        for a, b in permutations(sorted(NOUNS), 2)
        if (min(a, b), max(a, b)) not in HELD_OUT_PAIRS
        for relation in ("left_right", "top_bottom")
    ],
    80,
    "relation",
)
