"""Paints the images that are edited: ``python -m experiments.aesthetic.photos --emoji DIR``.

Scenes with one object whose tint or background no training saw: no network knows them, as none knows a user's photo.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.emoji_world import words
from experiments.emoji_world.captions import article, describe
from experiments.emoji_world.fetch import find_emoji
from experiments.emoji_world.scenes import Painter, Scene, Thing
from sgool.config.paths import home_path

FOLDER = Path(__file__).with_name("photos")
#: Nouns whose scenes with the background that training left out are for choosing settings.
TUNED = tuple(words.NOUNS)[8:14]


@dataclass(frozen=True)
class Photo:
    """A painted image: its file, what it shows, and a sentence that says so."""

    file: Path
    scene: Scene

    @property
    def text(self) -> str:
        """The truth in words, for judges that read."""
        return f"{describe(self.scene.objects[0])} on {article(self.scene.background)} background"


def photos(kind: str = "evaluated", folder: Path = FOLDER) -> list[Photo]:
    """The 16 images that are evaluated, or the 6 of kind "tuned", none of which is evaluated."""
    scenes = _tuned() if kind == "tuned" else _evaluated()
    return [Photo(folder / kind / f"{number:02d}_{_name(scene)}.png", scene) for number, scene in enumerate(scenes)]


def paint(emoji: Path, folder: Path = FOLDER) -> None:
    """Writes one PNG of 64x64 pixels per photo."""
    painter = Painter(find_emoji(emoji))
    for seed, kind in enumerate(("evaluated", "tuned")):
        for number, photo in enumerate(photos(kind, folder)):
            photo.file.parent.mkdir(parents=True, exist_ok=True)
            image = painter.paint(photo.scene, np.random.default_rng([51, seed, number])).image
            Image.fromarray(image).save(photo.file, optimize=True)


def _evaluated() -> Iterator[Scene]:
    """Every noun in the tint that training left out, on the backgrounds in turn."""
    rng = np.random.default_rng(50)
    backgrounds = [str(name) for _ in range(3) for name in rng.permutation(list(words.BACKGROUNDS))]
    for noun, background in zip(words.NOUNS, backgrounds, strict=False):
        (tint,) = (tint for tinted, tint in words.HELD_OUT_TINTS if tinted == noun)
        yield Scene("single", (Thing(noun, tint),), background)


def _tuned() -> Iterator[Scene]:
    rng = np.random.default_rng(52)
    yield from (_on_held_out_background(noun, rng) for noun in TUNED)


def _on_held_out_background(noun: str, rng: np.random.Generator) -> Scene:
    """In its own colours or a tint that training had."""
    (background,) = (found for held, found in words.HELD_OUT_BACKGROUNDS if held == noun)
    tints = [None, *(tint for tint in words.allowed_tints(noun) if (noun, tint) not in words.HELD_OUT_TINTS)]
    return Scene("single", (Thing(noun, tints[rng.integers(len(tints))]),), background)


def _name(scene: Scene) -> str:
    (thing,) = scene.objects
    return "_".join(filter(None, (thing.tint, thing.noun, "on", scene.background)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=home_path, required=True, help="an unpacked emoji-datasource-google")
    paint(parser.parse_args().emoji)
