"""The emoji scenes' prompt sets: what their prompts state is held out."""

from __future__ import annotations

import csv
import json
from collections import Counter
from itertools import product

import numpy as np
import pytest

from experiments.emoji_scenes import words as scene_words
from experiments.emoji_scenes.captions import all_words, caption
from experiments.emoji_scenes.prompts import (
    CATEGORIES,
    WORLD,
    category_of,
    demo_rows,
    rows,
    scene_facts,
    states_held_out,
)
from experiments.emoji_scenes.scenes import Scene, held_out_scene, random_scene, training_scene
from experiments.emoji_world import words
from experiments.emoji_world.prompts import ordered
from experiments.emoji_world.scenes import Thing
from sgool.metrics.scene import PLACES


def prompt_rows(name: str) -> list[dict[str, str]]:
    with (WORLD.prompts / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scenes_that_fit(facts: dict) -> list[Scene]:
    """All scenes of which the facts are true; what has no tint in them has its own colours."""
    things = tuple(Thing(item["noun"], item.get("tint")) for item in facts["objects"])
    all_grounds = (*scene_words.GROUNDS, *words.BACKGROUNDS)
    grounds = [facts["background"]] if "background" in facts else all_grounds
    if len(things) == 2:
        orders = [things] if "relation" in facts else [things, things[::-1]]
        return [Scene("beside", order, ground) for order, ground in product(orders, grounds)]
    layout = {1: "one", 2: "two", 3: "three"}[facts["objects"][0].get("count", 1)]
    places = [None] if layout != "one" else [facts["place"]] if "place" in facts else list(scene_words.PLACES)
    return [Scene(layout, things, ground, place) for ground, place in product(grounds, places)]


def test_there_are_forty_held_out_prompts_a_category_in_turn() -> None:
    table = prompt_rows("heldout")
    assert len({row["prompt"] for row in table}) == len(table) == 240
    assert [row["category"] for row in table] == [*CATEGORIES] * 40
    assert Counter(row["category"] for row in prompt_rows("tune")) == dict.fromkeys(CATEGORIES, 8)


@pytest.mark.parametrize("name", ["heldout", "demo"])
def test_no_training_scene_fits_a_held_out_prompt(name: str) -> None:
    fitting = {
        row["prompt"]: scene
        for row in prompt_rows(name)
        for scene in scenes_that_fit(json.loads(row["scene"]))
        if not scene.is_held_out()
    }
    assert fitting == {}


def test_tuning_prompts_fit_scenes_of_the_training() -> None:
    tune = prompt_rows("tune")
    assert {row["prompt"] for row in tune}.isdisjoint(row["prompt"] for row in prompt_rows("heldout"))
    assert all(not all(s.is_held_out() for s in scenes_that_fit(json.loads(row["scene"]))) for row in tune)


def test_committed_prompt_sets_are_what_the_script_writes() -> None:
    assert ordered(list(rows(held_out_scene, 40, 2027, WORLD)), CATEGORIES) == prompt_rows("heldout")
    assert ordered(list(rows(training_scene, 8, 1014, WORLD)), CATEGORIES) == prompt_rows("tune")
    assert list(demo_rows()) == prompt_rows("demo")


def test_the_demo_has_small_subjects_on_busy_grounds_and_different_nouns() -> None:
    facts = [json.loads(row["scene"]) for row in prompt_rows("demo")]
    assert len(facts) == 8
    assert sum(fact["background"] in scene_words.GROUNDS for fact in facts) == 6
    nouns = [item["noun"] for fact in facts for item in fact["objects"]]
    assert len(set(nouns)) == len(nouns) == 10


@pytest.mark.parametrize(
    ("scene", "relation", "expected"),
    [
        (Scene("beside", (Thing("cat"), Thing("car")), "sea"), True, "Positional"),
        (Scene("beside", (Thing("cat"), Thing("car")), "sea"), False, "Two objects"),
        (Scene("three", (Thing("car", "blue"),), "white"), False, "Counting"),
        (Scene("one", (Thing("car", "blue"),), "white", "left"), True, "Place"),
        (Scene("one", (Thing("car", "blue"),), "white", "left"), False, "Colours"),
        (Scene("one", (Thing("car"),), "white", "left"), False, "Single objects"),
    ],
)
def test_category(scene: Scene, relation: bool, expected: str) -> None:
    assert category_of(scene, relation) == expected


def test_facts_are_those_that_scene_checks_knows() -> None:
    pair = Scene("beside", (Thing("cat", "blue"), Thing("car")), "sea")
    assert scene_facts(pair, True, True) == {
        "objects": [{"noun": "cat", "tint": "blue"}, {"noun": "car"}],
        "relation": "left_right",
        "background": "sea",
    }
    one = Scene("one", (Thing("cat"),), "white", "right")
    assert scene_facts(one, True, False) == {"objects": [{"noun": "cat"}], "place": "right"}
    assert scene_facts(one, False, False) == {"objects": [{"noun": "cat"}]}
    assert scene_facts(Scene("two", (Thing("cat"),), "sea"), True, False) == {"objects": [{"noun": "cat", "count": 2}]}
    assert tuple(scene_words.PLACES) == PLACES


def test_a_held_out_place_or_ground_that_is_not_named_holds_nothing_out() -> None:
    noun, ground = min(scene_words.HELD_OUT_GROUNDS)
    scene = Scene("one", (Thing(noun),), ground, "left")
    generator = np.random.default_rng(0)
    assert states_held_out(scene, caption(scene, generator, relation=0, background=1))
    assert not states_held_out(scene, caption(scene, generator, relation=0, background=0))
    noun, place = min(scene_words.HELD_OUT_PLACES)
    ground = next(g for g in scene_words.GROUNDS if (noun, g) not in scene_words.HELD_OUT_GROUNDS)
    scene = Scene("one", (Thing(noun),), ground, place)
    assert states_held_out(scene, caption(scene, generator, relation=1))
    assert not states_held_out(scene, caption(scene, generator, relation=0, background=1))


def test_all_words_are_those_of_captions() -> None:
    generator = np.random.default_rng(1)
    texts = [caption(random_scene(generator), generator).text for _ in range(4000)]
    assert sorted({word for text in texts for word in text.split()}) == all_words()
