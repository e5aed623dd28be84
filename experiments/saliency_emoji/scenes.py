"""Scenes of the emoji world with their saliency: the objects, blurred."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.emoji_world.common import images_to_tensor
from experiments.emoji_world.scenes import Painted
from sgool.saliency.spectral_residual import gaussian_blur

#: Standard deviation in pixels of 64 of the blur that makes a mask a density.
BLUR = 2.0


def painted_scenes(
    painter: Any, rng: np.random.Generator, number: int, sample: Callable[[np.random.Generator], Any]
) -> tuple[list, Tensor, Tensor]:
    """Scenes, their images (B, 3, H, H) in [0, 1] and their objects' opacity (B, 1, H, H) in [0, 1]."""
    scenes = [sample(rng) for _ in range(number)]
    painted = [painter.paint(scene, rng) for scene in scenes]
    return scenes, images_to_tensor([p.image for p in painted]), object_masks(painted)


def object_masks(painted: Sequence[Painted]) -> Tensor:
    """(B, 1, H, H) in [0, 1]: opacity of what stands before the background."""
    masks = np.stack([p.masks.sum(0, keepdims=True).clip(0, 1) for p in painted])
    return torch.from_numpy(masks.astype(np.float32))


def density(masks: Tensor) -> Tensor:
    """The ground truth of saliency: masks blurred, maximum 1 per image."""
    blurred = gaussian_blur(masks, BLUR)
    return blurred / blurred.amax((2, 3), keepdim=True)
