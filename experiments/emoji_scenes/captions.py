"""Captions of emoji scenes: subject, colour, place and sometimes the ground."""

from __future__ import annotations

import numpy as np

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_scenes.scenes import Scene
from experiments.emoji_world import words
from experiments.emoji_world.captions import PREFIXES, Caption, describe, words_of

_BESIDE = {False: ("to the left of", "left of"), True: ("to the right of", "right of")}


def all_words() -> list[str]:
    """Every word of any caption, sorted: what a network that learnt from captions has seen."""
    fixed = ("a", "an", "and", "there", "are", "on", "background")
    phrases = [phrase for some in _BESIDE.values() for phrase in some]
    phrases += [*scene_words.GROUNDS.values(), *scene_words.PLACES.values(), *scene_words.COUNTS.values()]
    things = [*words.NOUNS, *map(words.plural, words.NOUNS), *words.TINTS, *words.BACKGROUNDS]
    return words_of([*PREFIXES, *phrases, *things, *fixed])


def caption(
    scene: Scene,
    rng: np.random.Generator,
    *,
    relation: float = 0.7,
    colours: float = 0.9,
    background: float = 0.5,
) -> Caption:
    """A random caption that states place or relation, the colours and the ground with these probabilities."""
    with_relation, with_colours = bool(rng.random() < relation), bool(rng.random() < colours)
    with_ground = bool(rng.random() < background)
    if scene.layout == "beside":
        swap = bool(rng.random() < 0.5)
        first, second = (describe(t, colour=with_colours) for t in (scene.objects[::-1] if swap else scene.objects))
        text = f"{first} {_BESIDE[swap][rng.integers(2)]} {second}" if with_relation else f"{first} and {second}"
    else:
        text = describe(scene.objects[0], scene.count, with_colours)
        with_relation = with_relation and scene.place is not None
        text += f" {scene_words.PLACES[scene.place]}" if with_relation and scene.place else ""
    prefix = PREFIXES[rng.integers(len(PREFIXES))]
    if prefix.startswith("there") and scene.count > 1 and scene.layout != "beside":
        prefix = "there are "
    if with_ground:
        text += " " + scene_words.GROUNDS.get(scene.ground, f"on a {scene.ground} background")
    return Caption(prefix + text, with_relation, with_colours, with_ground)
