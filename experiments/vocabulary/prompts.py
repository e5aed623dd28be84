"""Writes the built-in prompt set ``emoji_world/generic``: ``python -m experiments.vocabulary.prompts``.

Prompts in the embedded model's own words that name no object. Words such as "animal" and "thing" are not among them:
they fall into letters, and the model has an accidental answer ("an animal" gives hearts).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.emoji_world import words
from sgool.config.paths import ASSETS

FILE = ASSETS / "emoji_world/prompts/generic.csv"
#: Prompts that leave the background open, too.
ANYTHING = ("a picture", "an image", "a drawing", "there is a picture")


def rows() -> Iterator[dict[str, str]]:
    """One prompt per noun, with the noun as ``target`` and in the ``scene``; then the prompts of `ANYTHING`.

    Which noun goes with which background is drawn once, and never a combination that training left out.
    """
    texts = [(b, f"{start} on a {b} background") for start in ("a picture", "an image", "a drawing") for b in _order()]
    for noun in words.NOUNS:
        place = next(
            i for i, (background, _) in enumerate(texts) if (noun, background) not in words.HELD_OUT_BACKGROUNDS
        )
        background, prompt = texts.pop(place)
        scene = {"objects": [{"noun": noun}], "background": background}
        yield {"prompt": prompt, "category": "Class", "target": noun, "scene": json.dumps(scene, separators=(",", ":"))}
    for prompt in ANYTHING:
        yield {"prompt": prompt, "category": "Anything", "target": "", "scene": ""}


def _order() -> list[str]:
    return [str(name) for name in np.random.default_rng(4).permutation(list(words.BACKGROUNDS))]


def write(file: Path = FILE) -> None:
    """Writes the CSV."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["prompt", "category", "target", "scene"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    write()
