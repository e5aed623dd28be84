"""A rating of images by a known formula: colourfulness and contrast, as a rank among the emoji world's paintings.

Nobody rated emoji. A formula stands in for the raters, so that what an edit does to the rating can be measured on its
pixels, without trusting a network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Mean and standard deviation of `colourfulness` and of `contrast`, and the correlation of both, over 4000 training
#: scenes as painted; `python -m experiments.aesthetic.heads --emoji DIR --constants` measures them.
COLOURFULNESS = (74.8, 20.8)
CONTRAST = (34.9, 17.1)
CORRELATION = -0.09
_LUMA = (0.299, 0.587, 0.114)


def colourfulness(images: Tensor) -> Tensor:
    """(N,) of images (N, 3, H, W) in [0, 1]: the measure M of Hasler and Suesstrunk (2003), on their scale of 0 to 255.

    With rg = R - G and yb = (R + G) / 2 - B, it is the root of both variances' sum plus 0.3 times the root of both
    squared means' sum. Grey images have 0.
    """
    red, green, blue = (255 * images).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1).flatten(2)
    return _length(opponents.std(2, correction=0)) + 0.3 * _length(opponents.mean(2))


def contrast(images: Tensor) -> Tensor:
    """(N,) of images (N, 3, H, W) in [0, 1]: root mean square contrast, the standard deviation of luma, 0 to 127.5."""
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (255 * (images * weights).sum(1)).flatten(1).std(1, correction=0)


def rating(images: Tensor) -> Tensor:
    """(N,) from 1 to 10 of images (N, 3, H, W) in [0, 1].

    Both measures are standardised and added; their sum is brought to unit variance, and through the normal distribution
    to a rank. So 5.5 is about the median painting, and 9.1 better than about nine in ten.
    """
    scores = [
        (measure - mean) / deviation
        for measure, (mean, deviation) in (
            (colourfulness(images), COLOURFULNESS),
            (contrast(images), CONTRAST),
        )
    ]
    total = (scores[0] + scores[1]) / math.sqrt(2 + 2 * CORRELATION)
    return 1 + 9 * torch.special.ndtr(total)


def coarse(images: Tensor, cell: int = 8) -> Tensor:
    """The images as means over cells: what is left of them without fine texture."""
    return torch.nn.functional.avg_pool2d(images, cell)


def _length(pair: Tensor) -> Tensor:
    """Euclidean norm over the last dimension."""
    return torch.linalg.vector_norm(pair, dim=-1)
