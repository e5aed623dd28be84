"""Paints images of the target nouns, to compare a run's images with.

python -m experiments.vocabulary.reference --emoji DIR [--out runs/vocabulary_reference]

Writes OUT/SCENES/SET/NOUN/NUMBER.png, each with one object on the background of the noun's prompt. SCENES is ``unseen``
(tints that the classifier's training left out for this noun and background) or ``any`` (all tints, the noun's own
colours among them). SET is ``reference``, or as many images as a run has: ``right``, painted anew, and ``wrong``, with
another noun on the same background.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.emoji_world import words
from experiments.emoji_world.fetch import find_emoji
from experiments.emoji_world.scenes import Painter, Scene, Thing
from sgool.config.paths import home_path
from sgool.prompts import read_prompts

SCENES = ("unseen", "any")
#: Set -> images per noun; a run has three seeds.
SETS = {"reference": 64, "right": 3, "wrong": 3}
SEED = 31


def backgrounds() -> dict[str, str]:
    """Target noun -> background of its prompt."""
    rows = (row.metadata for row in read_prompts("emoji_world/generic") if row.category == "Class")
    return {row["target"]: row["scene"]["background"] for row in rows}


def scenes_of(noun: str, background: str, kind: str) -> list[Scene]:
    """The scenes with one such object, one per tint; ``unseen``: those of the other half or held out."""
    scenes = [Scene("single", (Thing(noun, tint),), background) for tint in (None, *words.allowed_tints(noun))]
    return [scene for scene in scenes if kind == "any" or scene.half() == 1 or scene.is_held_out()]


def another(noun: str, background: str, kind: str) -> str:
    """The noun half way round the list, or the next one that has a scene on this background."""
    nouns = list(words.NOUNS)
    start = nouns.index(noun) + len(nouns) // 2
    turned = (nouns[place % len(nouns)] for place in range(start, start + len(nouns) // 2))
    return next(other for other in turned if scenes_of(other, background, kind))


def images(painter: Painter, kind: str, name: str, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """The target noun and the pixels of every image of a set; places and sizes by chance."""
    for noun, background in backgrounds().items():
        shown = another(noun, background, kind) if name == "wrong" else noun
        scenes = scenes_of(shown, background, kind)
        for number in range(SETS[name]):
            # The reference has every tint equally often; of three images the tints are drawn.
            place = number % len(scenes) if name == "reference" else rng.integers(len(scenes))
            yield noun, painter.paint(scenes[place], rng).image


def write(painter: Painter, out: Path) -> None:
    """All images, the same ones every time."""
    for kind_index, kind in enumerate(SCENES):
        for set_index, name in enumerate(SETS):
            rng = np.random.default_rng((SEED, kind_index, set_index))
            for number, (noun, pixels) in enumerate(images(painter, kind, name, rng)):
                folder = out / kind / name / noun
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{number % SETS[name]:02}.png")


def main() -> None:
    """Writes the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", type=home_path, required=True, help="an unpacked emoji-datasource-google 16.0.0")
    parser.add_argument("--out", type=home_path, default=Path("runs/vocabulary_reference"))
    arguments = parser.parse_args()
    write(Painter(find_emoji(arguments.emoji)), arguments.out)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
