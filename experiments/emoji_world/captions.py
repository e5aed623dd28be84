"""Captions of scenes from varied templates, each with the facts that it states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from experiments.emoji_world import words
from experiments.emoji_world.scenes import Scene, Thing

PREFIXES = ("", "", "", "", "a picture of ", "an image of ", "a drawing of ", "there is ", "here is ")
_RELATIONS = {
    ("left_right", False): ("to the left of", "on the left of", "left of"),
    ("left_right", True): ("to the right of", "on the right of", "right of"),
    ("top_bottom", False): ("above", "over", "on top of"),
    ("top_bottom", True): ("below", "under", "underneath"),
}


@dataclass(frozen=True)
class Caption:
    """A caption and which facts of its scene it states."""

    text: str
    relation: bool
    colours: bool
    background: bool


def all_words() -> list[str]:
    """Every word of any caption, sorted: what a network that learnt from captions has seen."""
    fixed = ("a", "an", "and", "there", "are", "on", "background")
    texts = [*PREFIXES, *(phrase for phrases in _RELATIONS.values() for phrase in phrases), *fixed]
    things = [*words.NOUNS, *map(words.plural, words.NOUNS), *words.TINTS, *words.BACKGROUNDS, *words.COUNTS.values()]
    return words_of([*texts, *things])


def words_of(texts: Iterable[str]) -> list[str]:
    """Every word of the texts once, sorted."""
    return sorted({word for text in texts for word in text.split()})


def article(phrase: str) -> str:
    """The phrase behind "a" or "an"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def describe(thing: Thing, count: int = 1, colour: bool = True) -> str:
    """The noun with its count and colour: "a cat", "two blue cats"."""
    noun = thing.noun if count == 1 else words.plural(thing.noun)
    phrase = f"{thing.tint} {noun}" if colour and thing.tint else noun
    return article(phrase) if count == 1 else f"{words.COUNTS[count]} {phrase}"


def caption(
    scene: Scene,
    rng: np.random.Generator,
    *,
    relation: float = 0.8,
    colours: float = 0.9,
    background: float = 0.4,
) -> Caption:
    """A random caption that states the relation, the colours and the background with these probabilities."""
    with_relation = scene.is_pair and rng.random() < relation
    with_colours = rng.random() < colours
    with_background = rng.random() < background
    if scene.is_pair:
        swap = bool(rng.random() < 0.5)
        first, second = scene.objects[::-1] if swap else scene.objects
        a, b = describe(first, colour=with_colours), describe(second, colour=with_colours)
        phrases = _RELATIONS[scene.layout, swap]
        text = f"{a} {phrases[rng.integers(3)]} {b}" if with_relation else f"{a} and {b}"
    else:
        text = describe(scene.objects[0], scene.count, with_colours)
    prefix = PREFIXES[rng.integers(len(PREFIXES))]
    if prefix.startswith("there") and scene.count > 1 and not scene.is_pair:
        prefix = "there are "
    ending = f" on a {scene.background} background" if with_background else ""
    return Caption(prefix + text + ending, with_relation, with_colours, with_background)
