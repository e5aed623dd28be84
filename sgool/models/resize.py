"""Brings whole images to the square that a network sees: differentiably, or exactly as published code does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]
ResizeMode = Literal["shortest", "longest", "max_size", "squash"]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """A network's own resize and crop of whole images.

    Calling it is differentiable; `as_published` gives the pixels that the network's published code computes.

    Attributes:
        size: Side in pixels of the square that the network sees.
        interpolation: Interpolation of the resize.
        resize_size: Side in pixels that images are resized to before the crop; None: ``size``.
        mode: Which side gets ``resize_size`` pixels: "shortest" or "longest" (the proportions are kept), or "squash"
            (both). "max_size" is "longest" as HPS's code rounds it; the two differ by a pixel for a few sizes.
        fill: Red, green and blue in [0, 1] of the border, where the resized image is smaller than ``size``.
        round_crop: Whether the crop's corner is rounded, as torchvision, timm and open_clip do; False: rounded down,
            as transformers does.
        on_tensors: Whether the published code resizes float tensors (HPS) and not 8-bit images with Pillow.
        antialias: Whether the resize of tensors is anti-aliased, as Pillow's always is.
    """

    size: int
    interpolation: Interpolation = "bicubic"
    resize_size: int | None = None
    mode: ResizeMode = "shortest"
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)
    round_crop: bool = True
    on_tensors: bool = False
    antialias: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, h, w), nominally in [0, 1] (not clamped), as (N, 3, size, size), differentiably.

        The result has at least float32: half precision has no anti-aliased resize on CPU, and would lose levels.
        """
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        target = self._target(images)
        if target != tuple(images.shape[-2:]):
            mode = self.interpolation
            images = F.interpolate(images, target, mode=mode, align_corners=False, antialias=self.antialias)
        return self._centre(images)

    @torch.no_grad()
    def as_published(self, images: Tensor) -> Tensor:
        """Returns images (N, 3, h, w), rounded to 8 bits, as (N, 3, size, size), without gradient.

        The resize is Pillow's, which rounds to 8 bits again, or that of float tensors if ``on_tensors``. The result has
        the images' device and at least float32. NaN stays NaN: Pillow's resize would hide it, so all of such an image
        is NaN then.
        """
        # Contiguous, as published code makes its tensors: the rounding of convolutions depends on the memory's layout.
        images = images.to(torch.promote_types(images.dtype, torch.float32)).contiguous()
        levels = (images.clamp(0, 1) * 255).round()
        target = self._target(images)
        if self.on_tensors or target == tuple(images.shape[-2:]):
            return self(levels / 255)
        resized = resize_with_pillow(levels.nan_to_num(), target, self.interpolation)
        pixels = self._centre(resized.to(images.device, images.dtype) / 255)
        return pixels.masked_fill(levels.isnan().flatten(1).any(dim=1).view(-1, 1, 1, 1), torch.nan)

    def _target(self, images: Tensor) -> tuple[int, int]:
        """Returns the height and width that images are resized to; each mode rounds as the published code does."""
        height, width = images.shape[-2:]
        size = self.size if self.resize_size is None else self.resize_size
        if self.mode == "squash":
            return size, size
        if self.mode == "shortest":
            shortest = min(height, width)
            return int(size * height / shortest), int(size * width / shortest)
        longest = max(height, width)
        # A side of 0 pixels, of a very oblong image, would be an error.
        if self.mode == "longest":
            return max(1, round(height / (longest / size))), max(1, round(width / (longest / size)))
        return max(1, round(height * (size / longest))), max(1, round(width * (size / longest)))

    def _centre(self, images: Tensor) -> Tensor:
        """Pads images with ``fill``, then crops them around the centre, to (size, size)."""
        height, width = images.shape[-2:]
        down, right = max(self.size - height, 0), max(self.size - width, 0)
        if down or right:
            images = _pad(images, (right // 2, right - right // 2, down // 2, down - down // 2), self.fill)
        top, left = (self._corner(side - self.size) for side in images.shape[-2:])
        return images[..., top : top + self.size, left : left + self.size]

    def _corner(self, rest: int) -> int:
        return round(rest / 2) if self.round_crop else rest // 2


def published_images(network: Any, images: Tensor) -> Tensor:
    """Returns images (N, 3, h, w) as a network's published code shows them to it, which is what judges look at.

    That is the network's method ``as_published``. A network without it gets the images as they are, within [0, 1].
    """
    as_published = getattr(network, "as_published", None)
    return images.clamp(0, 1) if as_published is None else as_published(images)


def _pad(images: Tensor, borders: tuple[int, int, int, int], fill: Sequence[float]) -> Tensor:
    planes = [F.pad(plane, borders, value=value) for plane, value in zip(images.unbind(1), fill, strict=True)]
    return torch.stack(planes, dim=1)


def resize_with_pillow(levels: Tensor, target: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Resizes images (N, 3, h, w) of levels 0 to 255 to (N, 3, *target), uint8, on the CPU."""
    resample = Image.Resampling[interpolation.upper()]
    height, width = target
    arrays = levels.to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    resized = [np.array(Image.fromarray(array).resize((width, height), resample)) for array in arrays]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
