"""Measures the embedded models against their bars; ``train all`` ends with it and the model card quotes it.

    python -m experiments.emoji_world.evaluate [--number 400]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.emoji_world.captions import caption
from experiments.emoji_world.clip import KINDS, four_way
from experiments.emoji_world.common import images_to_tensor, psnr
from experiments.emoji_world.prompts import scene_facts
from experiments.emoji_world.scenes import Painter, Scene, held_out_scene
from sgool.metrics import SceneReader, scene_checks
from sgool.models.clip import ClipTower


def held_out_images(painter: Painter, number: int, seed: int) -> tuple[list[Scene], Tensor]:
    """Scenes with held-out combinations and their images (N, 3, 64, 64)."""
    rng = np.random.default_rng(seed)
    scenes = [held_out_scene(rng) for _ in range(number)]
    return scenes, images_to_tensor([painter.paint(scene, rng).image for scene in scenes])


@torch.no_grad()
def reconstruction_psnr(vae: object, painter: Painter, number: int) -> dict[str, float]:
    """Mean and 5 % quantile of the autoencoder's PSNR in dB."""
    _, images = held_out_images(painter, number, 101)
    values = []
    for part in images.split(50):
        decoded = vae.decode(vae.encode(part * 2 - 1).latent_dist.mean).sample  # type: ignore[attr-defined]
        values.append(psnr((decoded / 2 + 0.5).clamp(0, 1), part))
    result = torch.cat(values)
    return {"mean": float(result.mean()), "q05": float(result.quantile(0.05))}


@torch.no_grad()
def hard_choices(clip: ClipTower, painter: Painter, number: int, sample: Callable = held_out_scene) -> dict[str, float]:
    """Accuracy of choosing the right one of four captions for an image, per kind of swapped fact (chance 0.25)."""
    rng = np.random.default_rng(102)
    result = {}
    for kind in KINDS:
        groups: list[list[Scene]] = []
        while len(groups) < number:
            options = four_way(sample(rng), kind, rng)
            groups += [options] if options is not None else []
        images = images_to_tensor([painter.paint(group[0], rng).image for group in groups])
        texts = [caption(s, rng, relation=1, colours=1, background=0).text for group in groups for s in group]
        embeds = torch.cat([clip.encode_text(texts[i : i + 200]) for i in range(0, len(texts), 200)])
        scores = torch.einsum("nd,nkd->nk", clip.encode_image(images), embeds.view(number, 4, -1))
        result[kind] = float((scores.argmax(1) == 0).float().mean())
    return result


def reader_accuracy(reader: SceneReader, painter: Painter, number: int) -> dict[str, float]:
    """Share of held-out scenes whose objects, counts, colours, relation and background are read rightly."""
    scenes, images = held_out_images(painter, number, 103)
    rows = []
    for scene, reading in zip(scenes, reader.read(images), strict=True):
        rows.append(scene_checks(scene_facts(scene, scene.is_pair, True), reading))
    names = sorted({name for row in rows for name in row})
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def default_painter(folder: str | Path) -> Painter:
    """The painter over the emoji of the npm package, unpacked under ``folder``."""
    return Painter(Path(folder) / "package" / "img" / "google" / "64")
