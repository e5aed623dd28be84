"""What a photo editor's sliders do to a rating: saturation and contrast, turned up until as much has changed."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 8.0
_HALVINGS = 24


def saturate(image: Tensor, factor: float) -> Tensor:
    """An image (3, H, W) in [0, 1] with saturation and contrast times ``factor``."""
    luma = (image * torch.tensor([0.299, 0.587, 0.114], dtype=image.dtype).view(3, 1, 1)).sum(0, keepdim=True)
    coloured = luma + factor * (image - luma)
    middle = luma.mean()
    return (middle + factor * (coloured - middle)).clamp(0, 1)


def psnr(image: Tensor, reference: Tensor) -> float:
    """In dB, of values in [0, 1]; infinite for equal images."""
    return float(-10 * torch.log10((image - reference).square().mean()))


def filter_of_psnr(image: Tensor, wanted: float) -> Tensor:
    """`saturate` with the factor from 1 to 8 whose PSNR to the image is ``wanted``, or nearest to it."""
    low, high = 1.0, _MOST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if psnr(saturate(image, middle), image) > wanted else (low, middle)
    return (saturate(image, high) * 255).round() / 255
