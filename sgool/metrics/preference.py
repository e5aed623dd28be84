"""Models of human preference and taste as metrics, with the same scorers as the objectives' terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.metrics.base import TextScore
from sgool.metrics.clip_score import check_number
from sgool.models.networks import Networks
from sgool.models.resize import published_images
from sgool.objectives.build import build_term
from sgool.objectives.scores import Score, Scorer

#: Key of a shipped scorer -> how reports show it: title, decimals, place.
_KNOWN = {
    "hps": ("HPS", 2, 10),
    "hps_v3": ("HPSv3", 2, 14),
    "pickscore": ("PickScore", 2, 20),
    "image_reward": ("ImageReward", 3, 30),
    "aesthetic": ("aesthetic score", 2, 40),
}


class PreferenceScore(TextScore):
    """Mean score of images for their prompts by a frozen scorer, on the scorer's own scale.

    Images are rounded to 8 bits and resized as the scorer's published code does, so that the number is the published
    one. The terms of objectives, which need gradients, resize in floating point.

    Args:
        scorer: HPS, HPSv3, PickScore, ImageReward or an aesthetic predictor (which does not look at the prompts). One
            of your own may have a method ``as_published(images)``, which returns the images as its call is to see them,
            or ``published_scores(images, prompts)``, which is called in place of the scorer.
        key: The end of the metric's name in records.
        title: Name in reports; None: the title of a shipped scorer, or else the key.
    """

    higher_is_better = True

    def __init__(self, scorer: Scorer, key: str, title: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._scorer = (scorer,)
        self.key = key  # type: ignore[misc]
        known, self.digits, self.place = _KNOWN.get(key, ("", self.digits, self.place))
        self.title = known if title is None else title

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text that the network does not read, or None."""
        truncated = getattr(self._scorer[0], "truncated", None)
        return truncated(prompts) if truncated else [None] * len(prompts)

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores (B,) of images (B, 3, H, W) in [0, 1] for B prompts.

        Raises:
            ValueError: The numbers of images and prompts differ.
        """
        check_number(images, prompts)
        # Each prompt is encoded by itself, as in objectives: padding must not depend on the other prompts of a batch.
        encoded = torch.cat([self._scorer[0].encode_prompts([prompt]) for prompt in prompts])
        published_scores = getattr(self._scorer[0], "published_scores", None)
        if published_scores is not None:
            scores: Tensor = published_scores(images, encoded)
            return scores
        return self._scorer[0](published_images(self._scorer[0], images), encoded)


def build_hps_judge(clip: Mapping[str, Any], name: str, networks: Networks) -> list[PreferenceScore]:
    """Builds the judge of a validated configuration from its options, those of `HPSJudgeOptions`."""
    return _scored_by({"type": "hps", "clip": clip}, name, networks)


def build_pickscore_judge(model: str, processor: str, name: str, networks: Networks) -> list[PreferenceScore]:
    """Builds the judge of a validated configuration from its options, those of `PickScoreJudgeOptions`."""
    return _scored_by({"type": "pickscore", "model": model, "processor": processor}, name, networks)


def build_image_reward_judge(
    checkpoint: str, med_config: str | None, tokenizer: str, name: str, networks: Networks
) -> list[PreferenceScore]:
    """Builds the judge of a validated configuration from its options, those of `ImageRewardJudgeOptions`."""
    files = {"checkpoint": checkpoint, "med_config": med_config, "tokenizer": tokenizer}
    return _scored_by({"type": "image_reward", **files}, name, networks)


def build_hps_v3_judge(
    checkpoint: str, model: str, instruction: str | None, dtype: str, name: str, networks: Networks
) -> list[PreferenceScore]:
    """Builds the judge of a validated configuration from its options, those of `HPSv3JudgeOptions`."""
    files = {"checkpoint": checkpoint, "model": model, "instruction": instruction, "dtype": dtype}
    return _scored_by({"type": "hps_v3", **files}, name, networks)


def build_aesthetic_judge(
    clip: Mapping[str, Any], checkpoint: str, name: str, networks: Networks
) -> list[PreferenceScore]:
    """Builds the judge of a validated configuration from its options, those of `AestheticJudgeOptions`."""
    return _scored_by({"type": "aesthetic", "clip": clip, "checkpoint": checkpoint}, name, networks)


def _scored_by(options: Mapping[str, Any], name: str, networks: Networks) -> list[PreferenceScore]:
    """Builds the judge with the network of the term that has these options, so that both share it."""
    views = {} if options["type"] == "hps_v3" else {"views": "whole"}  # it always sees the whole image
    term = build_term(name, {**options, "weight": 0, "goal": "maximize", **views}, networks)
    assert isinstance(term, Score)
    return [PreferenceScore(term.scorer, options["type"])]
