"""An objective without any sense of beauty: what moving the latents as far does to a rating."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.emoji_world.words import stable_hash
from sgool.types import PromptSeed

#: Cells a side of the random pattern; a cell of 8 of 64 pixels is as coarse as parts of an object.
_CELLS = 8


class RandomPattern:
    """Colours along a random smooth pattern, another one for each pair: the mean of pixels times pattern, raised."""

    input_size = None

    def __init__(self, name: str, scale: float = 1.0) -> None:
        self.name, self.scale = name, scale

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """(B, 3 * 64): the pattern of each pair's id."""
        return torch.stack([_pattern(pair.pair_id) for pair in pairs])

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """(N,) losses of views (N, 3, H, W)."""
        cells = targets.to(views).view(-1, 3, _CELLS, _CELLS)
        pattern = F.interpolate(cells, views.shape[-2:], mode="bilinear", align_corners=False)
        return -self.scale * (views * pattern).mean(dim=(1, 2, 3))


def _pattern(text: str) -> Tensor:
    seed = stable_hash("pattern", text) % 2**63
    return torch.randn(3 * _CELLS**2, generator=torch.Generator().manual_seed(seed))
