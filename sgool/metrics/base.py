"""What the metrics of single images have in common: a score for each, and their mean over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanScore(Metric):
    """The mean of scores of single images; a subclass says how an image is scored.

    The states are sums in float64, so that batches, metrics of parts of a run and processes add up to the same number.
    Networks are kept in a tuple: frozen, they are no part of the metric's state.
    """

    full_state_update = False
    #: The end of the metric's name in records: ``NAME/key``.
    key: ClassVar[str]
    total: Tensor
    number: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("number", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def score(self, *args: Any, **kwargs: Any) -> Tensor:
        """(B,) scores of B images; infinite where the metric is not defined for an image."""
        raise NotImplementedError

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Adds images; arguments as those of `score`."""
        scores = self.score(*args, **kwargs)
        scores = scores[~scores.isinf()]
        self.total += scores.double().sum().to(self.total.device)  # the states may have stayed on the CPU
        self.number += len(scores)

    def compute(self) -> Tensor:
        """Mean score; NaN before any was counted."""
        return self.total / self.number


class TextScore(MeanScore):
    """A score of images (B, 3, H, W) in [0, 1] for B prompts: ``score(images, prompts)``."""

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Per prompt the text that the network does not read, or None."""
        return [None] * len(prompts)


class ImageScore(MeanScore):
    """A score of images (B, 3, H, W) in [0, 1] alone: ``score(images)``."""


class ChangeScore(MeanScore):
    """How far images are from those that their pairs began with: ``score(images, first)``, each (B, 3, H, W)."""
