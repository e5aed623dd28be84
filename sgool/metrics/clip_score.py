"""The CLIP score, with any open_clip model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.metrics.base import TextScore
from sgool.models.clip import ClipTower
from sgool.models.networks import Networks
from sgool.models.resize import published_images


class ClipScore(TextScore):
    """Mean of 100 · max(cos(image, text), 0), the scale of ``torchmetrics.multimodal.CLIPScore``, in [0, 100].

    Hessel et al. 2021 have the factor 2.5 instead of 100. As in that paper, each image counts at least 0, so that the
    mean of the images' scores is the score of the set; torchmetrics sets only a negative *mean* to 0. ``update`` takes
    images (B, 3, H, W) in [0, 1] and B prompts. A prompt is cut to the network's context, and its end token is kept,
    as in CLIP's training. Images are rounded to 8 bits and resized by Pillow, as open_clip's own code does.
    """

    key, title, place = "clip_score", "CLIP score", 0
    higher_is_better = True

    def __init__(self, clip: ClipTower, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clip = (clip,)

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text that the network does not read, or None."""
        return self._clip[0].truncated(prompts)

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores (B,) of images (B, 3, H, W) in [0, 1] for B prompts.

        Raises:
            ValueError: The numbers of images and prompts differ.
        """
        check_number(images, prompts)
        clip = self._clip[0]
        embeds = clip.encode_image(published_images(clip, images))
        cosine = (embeds * clip.encode_text(list(prompts))).sum(dim=-1)
        return 100 * cosine.clamp_min(0)


def check_number(images: Tensor, prompts: Sequence[str]) -> None:
    """Raises a ValueError unless there are as many prompts as images."""
    if len(images) != len(prompts):
        raise ValueError(f"expected as many prompts as images, got {len(prompts)} and {len(images)}")


def build_clip_judge(model: str, pretrained: str | None, networks: Networks) -> list[ClipScore]:
    """Builds the judge of a validated configuration from its options, those of `ClipJudgeOptions`."""
    return [ClipScore(networks.clip(model, pretrained))]
