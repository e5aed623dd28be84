"""Writes the prompt sets of the emoji scenes: held-out combinations, seen ones for tuning, eight for the demo.

Run ``python -m experiments.emoji_scenes.prompts``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_scenes.captions import caption
from experiments.emoji_scenes.clip import mutate
from experiments.emoji_scenes.scenes import Scene, held_out_scene, training_scene
from experiments.emoji_world import prompts as world_prompts
from experiments.emoji_world import words
from experiments.emoji_world.captions import Caption
from experiments.emoji_world.prompts import ordered, row, rows, write
from experiments.emoji_world.scenes import Thing
from experiments.emoji_world.world import World

CATEGORIES = ("Single objects", "Colours", "Place", "Counting", "Two objects", "Positional")


def category_of(scene: Scene, relation: bool) -> str:
    """The category of a prompt; ``relation`` is whether it states the relation of two objects or the place of one."""
    if scene.is_pair:
        return "Positional" if relation else "Two objects"
    if scene.count > 1:
        return "Counting"
    if relation:
        return "Place"
    return "Colours" if scene.objects[0].tint else "Single objects"


def scene_facts(scene: Scene, relation: bool, background: bool) -> dict:
    """What the prompt states, in the form of `sgool.metrics.scene_checks`; "beside" is its left_right."""
    facts = world_prompts.scene_facts(scene, False, background)  # type: ignore[arg-type]
    facts |= {"relation": "left_right"} if scene.is_pair and relation else {}
    return facts | ({"place": scene.place} if scene.place and relation else {})


def states_held_out(scene: Scene, text: Caption) -> bool:
    """Whether the fact that gives the prompt its category is stated and held out, so that no training scene fits it."""
    nouns = [thing.noun for thing in scene.objects]
    kind = category_of(scene, text.relation)
    if kind in ("Two objects", "Positional"):
        return (min(nouns), max(nouns)) in words.HELD_OUT_PAIRS
    if kind == "Counting":
        return (nouns[0], scene.count) in scene_words.HELD_OUT_COUNTS
    if kind == "Place":
        return (nouns[0], scene.place) in scene_words.HELD_OUT_PLACES
    if kind == "Colours":
        return text.colours and (nouns[0], scene.objects[0].tint) in words.HELD_OUT_TINTS
    return text.background and (nouns[0], scene.ground) in scene_words.HELD_OUT_GROUNDS


WORLD = World(
    caption=caption,
    mutate=mutate,
    training_scene=training_scene,
    held_out_scene=held_out_scene,
    scene_facts=scene_facts,
    category_of=category_of,
    states_held_out=states_held_out,
    categories=CATEGORIES,
    prompts=Path(__file__).resolve().parent / "prompt_sets",
)


def demo_rows() -> Iterator[dict]:
    """Eight held-out prompts that name their ground; six have small subjects on busy grounds, so need saliency.

    The nouns are all different, and chosen by a hash, before anything was sampled from the prompts.
    """
    rng = np.random.default_rng(0)
    free = set(words.NOUNS)

    def choose(options: Iterable[tuple], nouns_of: Callable[[tuple], tuple] = lambda option: option[:1]) -> tuple:
        """The first of the options, by hash, whose nouns are free; they are no more afterwards."""
        order = sorted(options, key=lambda option: words.stable_hash("scenes demo", *option))
        found = next(option for option in order if free.issuperset(nouns_of(option)))
        free.difference_update(nouns_of(found))
        return found

    def pair(ground: str) -> Scene:
        a, b = choose(words.HELD_OUT_PAIRS, lambda option: option)
        return Scene("beside", (Thing(a, words.allowed_tints(a)[-1]), Thing(b)), ground)

    def tinted(ground: str) -> Scene:
        return Scene("one", (Thing(*choose(words.HELD_OUT_TINTS)),), ground, "middle")

    def placed(ground: str) -> Scene:
        noun, place = choose(scene_words.HELD_OUT_PLACES)
        return Scene("one", (Thing(noun),), ground, place)

    scenes: list[tuple[Scene, float]] = [(pair("street"), 1), (pair("meadow"), 1), (placed("night"), 1)]
    scenes += [(placed("sea"), 1), (tinted("room"), 0), (tinted("white"), 0)]
    noun, ground = choose(scene_words.HELD_OUT_GROUNDS)
    scenes.append((Scene("one", (Thing(noun),), ground, "middle"), 0))
    noun, count = choose(scene_words.HELD_OUT_COUNTS)
    scenes.append((Scene(scene_words.COUNTS[count], (Thing(noun),), "cyan"), 0))
    for scene, relation in scenes:
        yield row(WORLD, scene, caption(scene, rng, relation=relation, colours=1, background=1))


def write_all(folder: Path = WORLD.prompts) -> None:
    """Writes the three sets into a folder."""
    write("heldout", ordered(list(rows(held_out_scene, 40, 2027, WORLD)), CATEGORIES), folder)
    write("tune", ordered(list(rows(training_scene, 8, 1014, WORLD)), CATEGORIES), folder)
    write("demo", list(demo_rows()), folder)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_all()
