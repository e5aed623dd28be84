"""A term: how far the mean brightness is from a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sgool.types import PromptSeed


class Brightness:
    input_size = None

    def __init__(self, name: str, wanted: float = 0.5) -> None:
        self.name, self.wanted = name, wanted

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        return torch.full((len(pairs), 1), self.wanted)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        return (views.mean(dim=(1, 2, 3)) - targets[:, 0].to(views)).square()
