"""Writes the built-in prompt sets: held-out combinations for evaluation, seen ones for tuning, eight for the demo.

Run ``python -m experiments.emoji_world.prompts``.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.emoji_world import words
from experiments.emoji_world.captions import Caption, caption
from experiments.emoji_world.scenes import Scene, Thing, held_out_scene, mutate, training_scene
from experiments.emoji_world.world import World

FOLDER = Path(__file__).resolve().parents[2] / "sgool" / "assets" / "emoji_world" / "prompts"
#: Nouns whose colour everybody knows: another one is DrawBench's "conflicting".
FAMILIAR = ("cat", "panda", "frog", "tree", "banana", "strawberry", "mushroom")
CATEGORIES = ("Single objects", "Colours", "Counting", "Positional", "Two objects", "Conflicting")


def category_of(scene: Scene, stated_relation: bool) -> str:
    """DrawBench's category for a scene, by the held-out combination in it (or, without one, by its layout)."""
    if scene.is_pair:
        return "Positional" if stated_relation else "Two objects"
    if scene.count > 1:
        return "Counting"
    if scene.objects[0].tint:
        return "Conflicting" if scene.objects[0].noun in FAMILIAR else "Colours"
    return "Single objects"


def scene_facts(scene: Scene, relation: bool, background: bool) -> dict:
    """What the prompt states, in the form of `sgool.metrics.scene_checks`."""
    objects = []
    for thing in scene.objects:
        entry: dict = {"noun": thing.noun}
        entry |= {"tint": thing.tint} if thing.tint else {}
        entry |= {"count": scene.count} if not scene.is_pair and scene.count > 1 else {}
        objects.append(entry)
    facts: dict = {"objects": objects}
    facts |= {"relation": scene.layout} if scene.is_pair and relation else {}
    facts |= {"background": scene.background} if background else {}
    return facts


def rows(
    sample: Callable[[np.random.Generator], Any], number: int, seed: int, world: World | None = None
) -> Iterator[dict]:
    """``number`` distinct prompts a category of ``world`` (this one), from random scenes of ``sample(rng)``.

    If ``sample`` is the world's ``held_out_scene``, what the prompts state is held out itself.
    """
    world = world or WORLD
    held_out = sample is world.held_out_scene
    rng = np.random.default_rng(seed)
    counts = dict.fromkeys(world.categories, 0)
    seen: set[str] = set()
    while min(counts.values()) < number:
        scene = sample(rng)
        text = world.caption(scene, rng, relation=0.5, colours=1, background=0.35)
        kind = world.category_of(scene, text.relation)
        if held_out and kind == "Single objects":
            text = world.caption(scene, rng, relation=0, background=1)
        if held_out and not world.states_held_out(scene, text):
            continue
        if text.text in seen or counts[kind] >= number:
            continue
        seen.add(text.text)
        counts[kind] += 1
        yield row(world, scene, text)


def row(world: World, scene: Any, text: Caption) -> dict:
    """The line of a prompt set."""
    facts = world.scene_facts(scene, text.relation, text.background)
    kind = world.category_of(scene, text.relation)
    return {"prompt": text.text, "category": kind, "scene": json.dumps(facts, separators=(",", ":"))}


def states_held_out(scene: Scene, text: Caption) -> bool:
    """Whether what the caption states is held out, not only something in the scene that it passes over.

    For pairs it is the pair ("two objects") or the relation of a pair that was seen ("positional").
    """
    nouns = [thing.noun for thing in scene.objects]
    if scene.is_pair and text.relation:
        return (nouns[0], scene.layout, nouns[1]) in words.HELD_OUT_RELATIONS
    if scene.is_pair:
        return (min(nouns), max(nouns)) in words.HELD_OUT_PAIRS
    # A held-out background alone holds out no prompt that does not name it: training saw the object on others.
    backgrounds = [scene.background] if text.background else list(words.BACKGROUNDS)
    return all(replace(scene, background=background).is_held_out() for background in backgrounds)


def demo_rows() -> Iterator[dict]:
    """Eight plain held-out prompts, chosen by rules before anything was sampled from them.

    Five of them have two coloured things that no training scene had together, which the models are weakest at. The
    order of pairs and relations is that of a hash.
    """
    rng = np.random.default_rng(0)
    pairs = sorted(words.HELD_OUT_PAIRS, key=lambda pair: words.stable_hash("demo", *pair))[:5]
    for index, (a, b) in enumerate(pairs):
        scene = Scene("left_right", _in_two_tints(a, b, index), "white")
        yield row(WORLD, scene, caption(scene, rng, relation=0, colours=1, background=0))
    relations = sorted(words.HELD_OUT_RELATIONS, key=lambda triple: words.stable_hash("demo", *triple))
    a, relation, b = next(triple for triple in relations if triple[1] == "top_bottom")
    scenes = [Scene(relation, _in_two_tints(a, b, len(pairs)), "white")]
    noun, count = min(words.HELD_OUT_COUNTS)
    scenes.append(Scene({2: "two", 3: "three", 4: "four"}[count], (Thing(noun),), "white"))
    noun, tint = min((noun, tint) for noun, tint in words.HELD_OUT_TINTS if noun in FAMILIAR)
    scenes.append(Scene("single", (Thing(noun, tint),), "white"))
    for scene in scenes:
        yield row(WORLD, scene, caption(scene, rng, relation=1, colours=1, background=0))


def _in_two_tints(a: str, b: str, index: int) -> tuple[Thing, Thing]:
    """Two things in different tints, other ones for each index."""
    tints = list(words.TINTS)
    turned = tints[index % len(tints) :] + tints[: index % len(tints)]
    first = next(tint for tint in turned if tint in words.allowed_tints(a))
    second = next(tint for tint in reversed(turned) if tint in words.allowed_tints(b) and tint != first)
    return Thing(a, first), Thing(b, second)


def write(name: str, table: list[dict], folder: Path = FOLDER) -> None:
    """Writes one prompt set."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["prompt", "category", "scene"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def ordered(table: list[dict], categories: Sequence[str] = CATEGORIES) -> list[dict]:
    """Categories in turn, so that the first N prompts of a set are a fair sample of it."""
    groups = [[row for row in table if row["category"] == kind] for kind in categories]
    return [row for turn in zip(*groups, strict=True) for row in turn]


WORLD = World(
    caption=caption,
    mutate=mutate,
    training_scene=training_scene,
    held_out_scene=held_out_scene,
    scene_facts=scene_facts,
    category_of=category_of,
    states_held_out=states_held_out,
    categories=CATEGORIES,
    prompts=FOLDER,
)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    write("heldout", ordered(list(rows(held_out_scene, 40, 2026))))
    write("tune", ordered(list(rows(training_scene, 8, 1013))))
    write("demo", list(demo_rows()))
