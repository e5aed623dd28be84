"""Models of human preference and taste as metrics: the scorers that objectives use, without their goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.metrics.base import TextScore
from sgool.metrics.clip_score import check_number
from sgool.objectives.scores import Scorer


class PreferenceScore(TextScore):
    """Mean score of images for their prompts by a frozen scorer, on the scorer's own scale.

    Args:
        scorer: HPS, PickScore, ImageReward or an aesthetic predictor (which does not look at the prompts).
        key: The end of the metric's name in records.
    """

    def __init__(self, scorer: Scorer, key: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._scorer = (scorer,)
        self.key = key  # type: ignore[misc]

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Per prompt the text that the network does not read, or None."""
        truncated = getattr(self._scorer[0], "truncated", None)
        return truncated(prompts) if truncated else [None] * len(prompts)

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) scores.

        Raises:
            ValueError: The numbers of images and prompts differ.
        """
        check_number(images, prompts)
        # Each prompt alone, as objectives encode them: padding must not depend on the other prompts of a batch.
        encoded = torch.cat([self._scorer[0].encode_prompts([prompt]) for prompt in prompts])
        return self._scorer[0](images.clamp(0, 1), encoded)
