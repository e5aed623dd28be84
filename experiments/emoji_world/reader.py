"""Training of the scene reader: which objects, colours, counts and relations an image shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.emoji_world import words
from experiments.emoji_world.augment import augment
from experiments.emoji_world.common import Stage, images_to_tensor
from experiments.emoji_world.scenes import training_scene
from sgool.metrics.reader import SceneReader

TINTS = ("natural", *words.TINTS)


def new_reader() -> SceneReader:
    """An untrained reader of this world's words."""
    return SceneReader(nouns=list(words.NOUNS), tints=list(TINTS), backgrounds=list(words.BACKGROUNDS))


class ReaderStage(Stage):
    """Penalty-reduced focal loss on the heat map (CenterNet), cross-entropy on tints and background.

    With ``recolour``, a quarter of each batch has exchanged colour channels and unscored colours: a noun is its shape,
    in whatever colour.

    Args:
        painter: Paints the scenes.
        reader: What to train; by default this world's.
        sample: Random scenes of a half, ``sample(rng, half=1)``.
        batch_size: Images in a step.
        vae: The autoencoder whose distortions are part of the augmentation, if any.
        recolour: See above.
        kwargs: Of `Stage`.
    """

    def __init__(
        self,
        painter: Any,
        *,
        reader: SceneReader | None = None,
        sample: Callable[..., Any] = training_scene,
        batch_size: int = 48,
        vae: torch.nn.Module | None = None,
        recolour: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.reader = (reader or new_reader()).to(memory_format=torch.channels_last)
        self.painter, self.sample, self.batch_size, self.recolour = painter, sample, batch_size, recolour
        self._vae = (vae,)

    def batch(self, rng: np.random.Generator) -> tuple:
        """Distorted images, heat maps (B, nouns, H/4, W/4), tints at the centres (B, H/4, W/4), backgrounds (B,)."""
        scenes = [self.sample(rng, half=1) for _ in range(self.batch_size)]
        painted = [self.painter.paint(scene, rng) for scene in scenes]
        size = painted[0].image.shape[0]
        both = [targets(s, p.centres, size // 4) for s, p in zip(scenes, painted, strict=True)]
        heat, tints = zip(*both, strict=True)
        backgrounds = torch.tensor([self.reader.backgrounds.index(s.background) for s in scenes])
        images = augment(images_to_tensor([p.image for p in painted]), rng, size, self._vae[0], move=0)
        tint = torch.from_numpy(np.stack(tints))
        for i in range(self.batch_size // 4 if self.recolour else 0):
            images[i] = images[i, torch.from_numpy(rng.permutation(3))]
            tint[i], backgrounds[i] = -1, -1
        return images, torch.from_numpy(np.stack(heat)), tint, backgrounds

    def loss(  # type: ignore[override]
        self, images: Tensor, heat: Tensor, tints: Tensor, backgrounds: Tensor
    ) -> dict[str, Tensor]:
        """The three losses and their sum."""
        heat_logits, tint_logits, background_logits = (t.float() for t in self.reader(images))
        objects = focal_loss(heat_logits, heat)
        colour = F.cross_entropy(tint_logits, tints, ignore_index=-1)
        background = F.cross_entropy(background_logits, backgrounds, ignore_index=-1)
        total = objects + colour + 0.5 * background
        return {"loss": total, "objects": objects, "colour": colour, "background": background}


def targets(scene: Any, centres: np.ndarray, cells: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian peaks per noun (nouns, C, C) and tint indices around each centre (C, C), -1 elsewhere; C ``cells``."""
    heat = np.zeros((len(words.NOUNS), cells, cells), np.float32)
    tints = np.full((cells, cells), -1, np.int64)
    rows, columns = np.mgrid[:cells, :cells]
    for i, centre in enumerate(centres):
        thing = scene.objects[i] if scene.is_pair else scene.objects[0]
        row, column = np.clip(np.floor(centre / 4), 0, cells - 1)
        distance = (rows - row) ** 2 + (columns - column) ** 2
        noun = list(words.NOUNS).index(thing.noun)
        heat[noun] = np.maximum(heat[noun], np.exp(-distance / 2))
        tints[distance <= 2] = TINTS.index(thing.tint or "natural")
    return heat, tints


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced pixel-wise focal loss of CenterNet (Zhou et al. 2019, eq. 1), per object."""
    p = logits.sigmoid().clamp(1e-5, 1 - 1e-5)
    positive = target == 1
    loss = torch.where(positive, (1 - p).square() * p.log(), (1 - target).pow(4) * p.square() * (1 - p).log())
    return -loss.sum() / positive.sum().clamp_min(1)
