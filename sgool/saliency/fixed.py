"""Detectors that do not look at the image: a user's mask or boxes, and the centre.

They serve as controls for the other detectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.models.formats import to_rgb
from sgool.saliency.base import check_images


class FixedSaliency:
    """A detector with the same mask or boxes for every image.

    Args:
        mask: Mask (h, w), not negative and somewhere above 0; it is resized to each image.
        boxes: Boxes as (top, left, height, width), fractions of the image's sides, inside [0, 1].

    Raises:
        ConfigError: Neither or both are given, or boxes lie outside the image.
        SgoolError: The mask is not finite, negative or all zero.
    """

    def __init__(self, mask: Tensor | None = None, boxes: Sequence[Sequence[float]] | None = None) -> None:
        if (mask is None) == (boxes is None):
            given = "neither" if mask is None else "both"
            raise ConfigError(
                [f"saliency.detector: expected either a mask or boxes, got {given}; set the other one to null."]
            )
        if mask is not None and (problem := _mask_problem(mask)):
            raise SgoolError(f"`saliency.detector.mask`: {problem}")
        if boxes is not None and (problems := box_problems(boxes)):
            raise ConfigError(problems)
        self._mask = mask
        self._boxes = [tuple(float(value) for value in box) for box in boxes or ()]

    def __call__(self, images: Tensor) -> Tensor:
        """Returns the mask or boxes at the images' size; see `sgool.saliency.base.SaliencyDetector`."""
        check_images(images)
        height, width = images.shape[-2:]
        dtype = torch.promote_types(images.dtype, torch.float32)
        if self._mask is not None:
            mask = self._mask.to(images.device, dtype)[None, None]
            one = F.interpolate(mask, (height, width), mode="bilinear", align_corners=False, antialias=True)
        else:
            one = torch.zeros(1, 1, height, width, dtype=dtype, device=images.device)
            for top, left, tall, wide in self._boxes:
                rows, columns = _pixels(top, tall, height), _pixels(left, wide, width)
                one[..., rows, columns] = 1
        return _with_maximum_1(one).expand(len(images), -1, -1, -1)


class CentreSaliency:
    """A detector with a Gaussian around the centre, the usual baseline of saliency benchmarks.

    Args:
        sigma: Standard deviation as a fraction of each side.

    Raises:
        ConfigError: ``sigma`` is not positive.
    """

    def __init__(self, sigma: float = 0.25) -> None:
        if not (math.isfinite(sigma) and sigma > 0):
            raise ConfigError([f"saliency.detector.sigma must be a positive fraction of the sides, got {sigma}."])
        self.sigma = float(sigma)

    def __call__(self, images: Tensor) -> Tensor:
        """Returns the Gaussian at the images' size; see `sgool.saliency.base.SaliencyDetector`."""
        check_images(images)
        dtype = torch.promote_types(images.dtype, torch.float32)
        rows, columns = (self._profile(side, dtype, images.device) for side in images.shape[-2:])
        return _with_maximum_1(rows[:, None] * columns).expand(len(images), 1, -1, -1)

    def _profile(self, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        centres = (torch.arange(side, dtype=dtype, device=device) + 0.5) / side
        return torch.exp(-0.5 * ((centres - 0.5) / self.sigma) ** 2)


def build_fixed(mask: str | None, boxes: Sequence[Sequence[float]] | None) -> FixedSaliency:
    """Builds the detector of a validated configuration from its options, those of `FixedOptions`."""
    return FixedSaliency(None if mask is None else read_mask(mask), boxes)


def read_mask(file: str) -> Tensor:
    """Reads a mask (h, w) in [0, 1]: the brightness of an image file, or its opacity if any pixel is transparent.

    Integers of more than 8 bits are read as of [0, 65535], floating-point numbers as of [0, 1].

    Raises:
        SgoolError: There is no such file, or it is no image.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    path = Path(file).expanduser()
    if not path.is_file():
        raise SgoolError(
            f"`saliency.detector.mask`: there is no file {file!r} (relative paths start at {Path.cwd()}); expected an "
            "image, white where the image is salient"
        )
    try:
        with Image.open(path) as image:
            alpha = image.convert("RGBA").getchannel("A")
            opacity = np.asarray(alpha, dtype=np.float32) / 255
            many_bits = image.mode == "F" or image.mode.startswith("I")  # Pillow's own conversion cuts them off
            grey = (to_rgb(image) if many_bits else image).convert("L")
            brightness = np.asarray(grey, dtype=np.float32) / 255
            return torch.from_numpy(brightness if opacity.min() == 1 else opacity)
    except (UnidentifiedImageError, OSError) as error:
        raise SgoolError(f"`saliency.detector.mask`: {file!r} is no image that Pillow can read: {error}") from error
    except ValueError as error:
        raise SgoolError(f"`saliency.detector.mask`: {file!r} cannot be read as a mask: {error}") from error


def box_problems(boxes: Sequence[Sequence[float]]) -> list[str]:
    """Returns a problem for each box that is not (top, left, height, width) inside the unit square."""
    if not boxes:
        return ["saliency.detector.boxes must hold at least one box, got none."]
    slack = 1e-6  # 0.7 + 0.3 may exceed 1 in the last bit
    return [
        f"saliency.detector.boxes must be [top, left, height, width] in fractions of the image, inside it, got {box}."
        for box in map(list, boxes)
        if len(box) != 4
        or not all(math.isfinite(value) and value >= 0 for value in box)
        or min(box[2:]) <= 0
        or box[0] + box[2] > 1 + slack
        or box[1] + box[3] > 1 + slack
    ]


def _mask_problem(mask: Tensor) -> str | None:
    if mask.ndim != 2:
        return f"expected a mask of shape (h, w), got {tuple(mask.shape)}"
    if not bool(mask.isfinite().all()) or bool((mask < 0).any()):
        return "expected finite values of at least 0; the mask holds NaN, infinite or negative ones"
    if not bool((mask > 0).any()):
        return "the mask is black everywhere; expected something white, the salient part"
    return None


def _pixels(start: float, extent: float, side: int) -> slice:
    """Returns the pixels of an extent along one side, at least one."""
    first = min(round(start * side), side - 1)
    return slice(first, max(first + 1, round((start + extent) * side)))


def _with_maximum_1(saliency: Tensor) -> Tensor:
    return saliency / saliency.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(saliency.dtype).tiny)
