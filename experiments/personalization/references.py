"""Paints the reference images: ``python -m experiments.personalization.references --emoji DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.emoji_world.fetch import find_emoji
from experiments.emoji_world.scenes import Painter, Scene, Thing
from sgool.config.paths import ASSETS, home_path

FOLDER = ASSETS / "emoji_world/references"
#: Name of the file -> what it shows. A noun, a tint and a background each, all different nouns.
REFERENCES: dict[str, Scene] = {
    "blue_cat": Scene("single", (Thing("cat", "blue"),), "white"),
    "panda": Scene("single", (Thing("panda"),), "pink"),
    "purple_car": Scene("single", (Thing("car", "purple"),), "cyan"),
    "green_star": Scene("single", (Thing("star", "green"),), "brown"),
    "strawberry": Scene("single", (Thing("strawberry"),), "gray"),
    "yellow_house": Scene("single", (Thing("house", "yellow"),), "black"),
    "red_rocket": Scene("single", (Thing("rocket", "red"),), "pink"),
    "mushroom": Scene("single", (Thing("mushroom"),), "white"),
}


def paint(emoji: Path, folder: Path = FOLDER) -> None:
    """Writes one PNG of 64x64 pixels per reference."""
    painter = Painter(find_emoji(emoji))
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, scene) in enumerate(REFERENCES.items()):
        image = painter.paint(scene, np.random.default_rng([16, number])).image
        Image.fromarray(image).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=home_path, required=True, help="an unpacked emoji-datasource-google")
    paint(parser.parse_args().emoji)
