"""CLIP score over any open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from sgool.models.clip import ClipTower


class ClipScore(Metric):
    """Mean of 100 · max(cos(image, text), 0), the scale of ``torchmetrics.multimodal.CLIPScore``, in [0, 100].

    (Hessel et al. 2021 weigh by 2.5 instead of 100. torchmetrics sets only a negative *mean* to 0, here as in that
    paper each image counts at least 0, so that the mean of the images' scores is the score of the set.) ``update``
    takes images (B, 3, H, W) in [0, 1] and B prompts.
    """

    total: Tensor
    number: Tensor

    def __init__(self, clip: ClipTower, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clip = (clip,)  # in a tuple: a frozen network, not a part of the metric's state
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("number", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) scores.

        Raises:
            ValueError: The numbers of images and prompts differ.
        """
        if len(images) != len(prompts):
            raise ValueError(f"expected as many prompts as images, got {len(prompts)} and {len(images)}")
        clip = self._clip[0]
        cosine = (clip.encode_image(images.clamp(0, 1)) * clip.encode_text(list(prompts))).sum(dim=-1)
        return 100 * cosine.clamp_min(0)

    def update(self, images: Tensor, prompts: Sequence[str]) -> None:
        """Adds images and their prompts."""
        scores = self.score(images, prompts)
        self.total += scores.double().sum()
        self.number += len(scores)

    def compute(self) -> Tensor:
        """Mean score."""
        return self.total / self.number
