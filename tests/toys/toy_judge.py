"""A judge: the mean brightness."""

from __future__ import annotations

from torch import Tensor

from sgool.metrics.base import ImageScore


class Brightness(ImageScore):
    key = "brightness"

    def __init__(self, percent: bool = False) -> None:
        super().__init__()
        self.factor = 100 if percent else 1

    def score(self, images: Tensor) -> Tensor:
        return self.factor * images.clamp(0, 1).mean(dim=(1, 2, 3))
