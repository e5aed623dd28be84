"""Measures the emoji world's classifier on held-out scenes: ``python -m experiments.vocabulary.evaluate --emoji DIR``.

Writes ``classifier.csv``, and ``heldout.png`` with three of the scenes per noun.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from experiments.emoji_world import words
from experiments.emoji_world.common import images_to_tensor
from experiments.emoji_world.fetch import find_emoji
from experiments.emoji_world.scenes import SIZE, Painter, Scene, Thing
from experiments.intervals import wilson
from experiments.vocabulary.train_classifier import NOUNS, RADIUS, random_views
from sgool.config.paths import home_path
from sgool.models.classifier import ImageClassifier, load_classifier

SHEET = Path(__file__).with_name("heldout.png")
ROWS = 3


def held_out(painter: Painter, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """``number`` scenes per noun with one object whose tint or background training left out, and their classes."""
    images, classes = [], []
    for index, noun in enumerate(NOUNS):
        for _ in range(number):
            images.append(painter.paint(_held_out_scene(noun, rng), rng).image)
            classes.append(index)
    return images_to_tensor(images), torch.tensor(classes)


def _held_out_scene(noun: str, rng: np.random.Generator) -> Scene:
    while True:
        tint = [None, *words.allowed_tints(noun)][rng.integers(len(words.allowed_tints(noun)) + 1)]
        scene = Scene("single", (Thing(noun, tint),), list(words.BACKGROUNDS)[rng.integers(len(words.BACKGROUNDS))])
        if scene.is_held_out():
            return scene


def measurements(classifier: ImageClassifier, images: Tensor, classes: Tensor) -> Iterator[dict[str, str | float]]:
    """Accuracy with a Wilson interval on the images as painted and as changed."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    inputs = images.clone().requires_grad_(True)
    F.cross_entropy(classifier(inputs), classes, reduction="sum").backward()
    assert inputs.grad is not None
    step = F.normalize(inputs.grad.flatten(1), dim=1).view_as(images)
    kinds = {
        "as painted": images,
        "crops as in the objective": random_views(images, np.random.default_rng(0)),
        "noise of 0.1": (images + 0.1 * noise).clamp(0, 1),
        f"adversarial step of length {RADIUS}": (images + RADIUS * step).clamp(0, 1),
        f"random step of length {RADIUS}": (images + RADIUS * F.normalize(noise.flatten(1), dim=1).view_as(images)),
    }
    for name, changed in kinds.items():
        with torch.no_grad():
            hits = int((classifier(changed).argmax(1) == classes).sum())
        low, high = wilson(hits, len(classes))
        yield {"images": name, "right": hits, "number": len(classes), "low": round(low, 3), "high": round(high, 3)}


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=home_path, required=True, help="an unpacked emoji-datasource-google")
    parser.add_argument("--out", type=home_path, default=Path(__file__).with_name("classifier.csv"))
    arguments = parser.parse_args()
    images, classes = held_out(Painter(find_emoji(arguments.emoji)), 20, np.random.default_rng(12))
    frame = pd.DataFrame(measurements(load_classifier("local", checkpoint="emoji_world/classifier"), images, classes))
    frame.to_csv(arguments.out, index=False)
    print(frame.to_string(index=False))
    tiles = (images.view(len(NOUNS), 20, 3, SIZE, SIZE)[:, :ROWS] * 255).round().byte()
    sheet = tiles.permute(1, 3, 0, 4, 2).reshape(ROWS * SIZE, len(NOUNS) * SIZE, 3)
    Image.fromarray(sheet.numpy()).save(SHEET, optimize=True)


if __name__ == "__main__":
    main()
