"""A guide that sees half as much: the distance to the prompt, for a CLIP whose input has half of its own size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sgool.models.networks import Networks
from sgool.objectives.alignment import TextAlignment


class HalfTextAlignment(TextAlignment):
    """`TextAlignment` whose views are resized to half of the CLIP's input, and back before the CLIP sees them.

    A view of the whole image loses half of its resolution, and a crop of half its side loses nothing. So it is with
    a real CLIP of 224 pixels and an image of 448 or more, which the embedded world of 64 pixels cannot show otherwise.

    Args:
        networks: The run's networks.
        name: Name in logs.
        clip: Name of the CLIP.
    """

    def __init__(self, networks: Networks, name: str = "text", clip: str = "emoji_world/guide") -> None:
        super().__init__(networks.clip(model=clip, pretrained=None), name)
        assert self.input_size is not None
        self.input_size //= 2

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (N,) in [0, pi^2 / 2] of views (N, 3, s, s) for targets (N, D)."""
        return super().__call__(self._enlarged(views), targets)

    def paired(self, views: Tensor, index: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (M,) of views[index] for targets (M, D); each of the views (N, 3, s, s) is embedded once."""
        return super().paired(self._enlarged(views), index, targets)

    def _enlarged(self, views: Tensor) -> Tensor:
        size = self.clip.input_size
        return F.interpolate(views, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
