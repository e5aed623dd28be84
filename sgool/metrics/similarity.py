"""Metrics that compare images in a CLIP's space: similarity to references, diversity over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.metrics.base import ImageScore, MeanScore
from sgool.models.clip import ClipTower
from sgool.models.images import open_photo, to_tensor
from sgool.models.networks import Networks
from sgool.models.resize import published_images
from sgool.objectives.files import reference_files


class ImageSimilarity(ImageScore):
    """Mean of 100 · the mean cosine of an image with each of the references, in [-100, 100] (CLIP-I).

    DreamBooth (Ruiz et al. 2023) reports the same number without the factor.

    Args:
        clip: The CLIP in whose space images are compared.
        references: Reference images (3, h, w) in [0, 1], of any sizes.

    Raises:
        SgoolError: There are no references.
    """

    key, title, place = "image_similarity", "image similarity", 51
    higher_is_better = True

    def __init__(self, clip: ClipTower, references: Sequence[Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not references:
            raise SgoolError("image similarity: expected at least one reference image, got none")
        self._clip = (clip,)
        with torch.no_grad():
            # A cosine is linear in the reference of norm 1, so the mean of the cosines is that with their mean.
            embeds = [clip.encode_image(published_images(clip, image[None])) for image in references]
            self._mean = (torch.cat(embeds).mean(dim=0),)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Returns scores (B,) of images (B, 3, H, W) in [0, 1]."""
        return 100 * self._clip[0].encode_image(published_images(self._clip[0], images)) @ self._mean[0]


class Diversity(MeanScore):
    """Mean over prompts of the mean of 1 - cos over every two images of a prompt, in [0, 2]; 0 if all are equal.

    ``update`` takes the images (N, 3, H, W) of one prompt over seeds. Prompts with one image are not counted.

    Args:
        clip: The CLIP in whose space images are compared.
    """

    key, title = "diversity", "diversity over seeds"

    def __init__(self, clip: ClipTower, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clip = (clip,)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Returns the diversity of one prompt's images as (1,), or an empty tensor if there is only one image."""
        number = len(images)
        if number < 2:
            return images.new_zeros(0)
        features = self._clip[0].encode_image(published_images(self._clip[0], images)).cpu().double()
        cosines = features @ features.T
        # The matrix has every two images twice, and each image with itself on its diagonal.
        between = (cosines.sum() - cosines.diagonal().sum()) / (number * (number - 1))
        return (1 - between)[None]


def build_image_judge(
    clip: Mapping[str, Any],
    images: str | list[str] | None,
    name: str,
    networks: Networks,
    terms: Mapping[str, Mapping[str, Any]],
) -> list[ImageSimilarity]:
    """Builds the judge of a validated configuration from its options, those of `ImageJudgeOptions`.

    Raises:
        SgoolError: An image cannot be read.
    """
    # Images are read before the network is loaded, so that an unreadable one is reported at once.
    key = f"`models.judges.{name}.images`"
    references = [to_tensor(open_photo(path, key, smallest_side=1)) for path in reference_files(images, terms)]
    return [ImageSimilarity(networks.clip(**clip), references)]
