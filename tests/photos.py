"""Photos without a file for comparisons with published code: hard edges everywhere, the same on every machine."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: Heights and widths around a network's 24 or 32 pixels: oblong, odd, smaller, equal in one side, and square.
SIZES = ((48, 80), (80, 48), (37, 53), (20, 31), (32, 50), (33, 32), (64, 64), (9, 14), (105, 192), (47, 33), (24, 32))


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Makes an 8-bit RGB photo; there is no smooth place in it, so that every pixel of a resize counts."""
    y, x, channel = np.mgrid[0:height, 0:width, 0:3]
    return Image.fromarray(((y * y * 7 + x * x * 3 + y * x * 5 + channel * 41 + 89 * seed) % 256).astype(np.uint8))


def as_batch(image: Image.Image) -> Tensor:
    """Returns the photo as (1, 3, h, w) in [0, 1], float32."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
