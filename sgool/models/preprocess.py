"""Preprocesses images in [0, 1] for a network, differentiably: size, mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(nn.Module):
    """Preprocessing by an anti-aliased resize of the smaller side, a centre crop and normalisation.

    Square images of the right size are only normalised.

    Args:
        size: Side in pixels of the square that the network sees.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel.
        interpolation: Interpolation of the resize.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    ) -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation
        # float64 here, so that a network moved to float64 has the exact constants.
        for name, values in (("mean", mean), ("std", std)):
            value = torch.tensor(list(values), dtype=torch.float64).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Converts images (N, 3, h, w), nominally in [0, 1] (not clamped), to (N, 3, size, size) of type ``dtype``."""
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(f"expected images of shape (N, 3, h, w), N >= 1, got {tuple(images.shape)}")
        images = _centre(_resize(images, self.size, self.interpolation), self.size)
        images = images.to(device=self.mean.device, dtype=dtype)
        return (images - self.mean.to(dtype)) / self.std.to(dtype)


def frozen(network: nn.Module) -> nn.Module:
    """Puts a network into evaluation mode, so that images stay independent, and switches its weights' gradients off."""
    return network.eval().requires_grad_(False)


def _resize(images: Tensor, size: int, interpolation: str) -> Tensor:
    height, width = images.shape[-2:]
    smaller = min(height, width)
    if smaller == size:
        return images
    # int rounds the longer side down, as torchvision's Resize does.
    shape = (int(size * height / smaller), int(size * width / smaller))
    return F.interpolate(images, shape, mode=interpolation, antialias=True, align_corners=False)


def _centre(images: Tensor, size: int) -> Tensor:
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]
