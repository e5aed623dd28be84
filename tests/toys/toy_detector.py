"""A detector: what is bright is salient."""

from __future__ import annotations

from torch import Tensor

from sgool.saliency.base import normalise_map


class Bright:
    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def __call__(self, images: Tensor) -> Tensor:
        return normalise_map(images.mean(dim=1, keepdim=True).clamp(0, 1) ** self.power)
