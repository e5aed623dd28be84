"""Writes the three prompt sets: ``python -m experiments.prompt_sets.prompts``.

Each stands for a data set of the SGOOL paper, in the embedded model's words and on combinations that no network saw:
``syntax`` for CommonSyntacticProcesses, ``composition`` for DrawBench, ``descriptive`` for DailyDallE.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from experiments.emoji_world import prompts, words
from experiments.emoji_world.captions import caption, describe
from experiments.emoji_world.scenes import Scene, Thing, held_out_scene

FOLDER = Path(__file__).parent
#: The categories of `composition`: those of the embedded sets but for single objects, which take no composing.
CATEGORIES = tuple(kind for kind in prompts.CATEGORIES if kind != "Single objects")
#: Prompts per set.
SIZE = 20
_Row = dict[str, str]
#: Layout -> how its first object stands to the second, and the second to the first.
_RELATIONS = {"left_right": ("to the left of", "to the right of"), "top_bottom": ("above", "below")}


def syntax() -> Iterator[_Row]:
    """Four pairs of nouns that training left out, each in five constructions.

    "Converse" says the scene of "Plain" with the other noun first, "Word order" the opposite scene with the words of
    "Plain", "Existential" puts a verb before it, "Coordination" has the nouns alone.
    """
    for number, (first, second) in enumerate(_pairs(4)):
        layout = ("left_right", "top_bottom")[number % 2]
        forward, backward = _RELATIONS[layout]
        a, b = describe(Thing(first)), describe(Thing(second))
        there, back = (Scene(layout, pair, "white") for pair in (_things(first, second), _things(second, first)))
        yield _row(f"{a} {forward} {b}", "Plain", there)
        yield _row(f"{b} {backward} {a}", "Converse", there)
        yield _row(f"{b} {forward} {a}", "Word order", back)
        yield _row(f"there is {a} {forward} {b}", "Existential", there)
        yield _row(f"{a} and {b}", "Coordination", there, relation=False)


def composition() -> Iterator[_Row]:
    """As many prompts of each of `CATEGORIES`, in turn; each says what none of ``emoji_world/heldout`` says."""
    known = _heldout()
    drawn = [row for row in prompts.rows(held_out_scene, 12, 2027) if row["scene"] not in known]
    groups = [[row for row in drawn if row["category"] == kind] for kind in CATEGORIES]
    for turn in list(zip(*groups, strict=False))[: SIZE // len(CATEGORIES)]:
        yield from turn


def descriptive() -> Iterator[_Row]:
    """Long prompts: two tinted objects, their relation (which training left out) and the background."""
    known = _heldout()
    return islice((row for row in _descriptions() if row["scene"] not in known), SIZE)


def _descriptions() -> Iterator[_Row]:
    rng = np.random.default_rng(2028)
    while True:
        scene = held_out_scene(rng)
        if scene.is_pair and all(thing.tint for thing in scene.objects):
            text = caption(scene, rng, relation=1, colours=1, background=1)
            if prompts.states_held_out(scene, text):
                yield _row(text.text, "Descriptive", scene, background=True)


#: File name -> rows.
SETS: dict[str, Callable[[], Iterator[_Row]]] = {
    "syntax": syntax,
    "composition": composition,
    "descriptive": descriptive,
}


def write(folder: Path = FOLDER) -> None:
    """Writes one CSV per set."""
    for name, rows in SETS.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["prompt", "category", "scene"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows())


def _pairs(number: int) -> list[tuple[str, str]]:
    """Pairs of nouns that training left out, chosen by a hash; none that ``heldout`` names without a tint."""
    known = _heldout()
    new = [pair for pair in words.HELD_OUT_PAIRS if not {_named(pair), _named(pair[::-1])} & known]
    return sorted(new, key=lambda pair: words.stable_hash("syntax", *pair))[:number]


def _named(pair: tuple[str, str]) -> str:
    return _row("", "", Scene("left_right", _things(*pair), "white"), relation=False)["scene"]


def _things(first: str, second: str) -> tuple[Thing, Thing]:
    return Thing(first), Thing(second)


def _row(text: str, category: str, scene: Scene, *, relation: bool = True, background: bool = False) -> _Row:
    facts = prompts.scene_facts(scene, relation, background)
    return {"prompt": text, "category": category, "scene": json.dumps(facts, separators=(",", ":"))}


def _heldout() -> set[str]:
    """What the prompts of the other experiments say."""
    with (prompts.FOLDER / "heldout.csv").open(newline="", encoding="utf-8") as file:
        return {row["scene"] for row in csv.DictReader(file)}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    write()
