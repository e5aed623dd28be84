"""Terms in a CLIP's space: the distance to the prompt, or to reference images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.clip import ClipTower
from sgool.models.images import open_photo, to_tensor
from sgool.models.networks import Networks
from sgool.models.resize import Resize
from sgool.objectives.spherical import spherical_distance
from sgool.objectives.terms import view_size
from sgool.types import PromptSeed

ReferenceInterpolation = Literal["own", "bilinear", "bilinear_antialiased"]


class TextAlignment:
    """A term: spherical distance of a view to the prompt in a CLIP's space (the loss of DOODL and SGOOL).

    Args:
        clip: The CLIP.
        name: Name in logs; several such terms in one objective need different names.
        views: What the term sees: "crops" (crops and regions) or the "whole" image.

    Examples:
        >>> import torch
        >>> from sgool import PromptSeed, TextAlignment, load_clip
        >>> term = TextAlignment(load_clip("emoji_world/guide"))
        >>> views = torch.rand(2, 3, term.input_size, term.input_size)
        >>> targets = term.targets([PromptSeed("a red cat"), PromptSeed("a blue house")])
        >>> tuple(term(views, targets).shape)
        (2,)
    """

    def __init__(self, clip: ClipTower, name: str = "text", views: Literal["crops", "whole"] = "crops") -> None:
        self.clip = clip
        self.name = name
        self.input_size = view_size(views, clip.input_size)

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Embeds the pairs' prompts to (B, D), each by itself, so that rounding is the same in every batch."""
        return torch.cat([self.clip.encode_text([pair.prompt]) for pair in pairs])

    def phrase_targets(self, phrases: Sequence[str]) -> Tensor:
        """Embeds phrases to (P, D), each by itself."""
        return torch.cat([self.clip.encode_text([phrase]) for phrase in phrases])

    def problems(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns no problem: any text can be read."""
        return []

    def truncated(self, prompts: Sequence[str]) -> list[str | None]:
        """Returns for each prompt the text that the CLIP does not read, or None."""
        return self.clip.truncated(prompts)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (N,) in [0, pi^2 / 2] of views (N, 3, s, s) for targets (N, D)."""
        return spherical_distance(self.clip.encode_image(views), targets)

    def paired(self, views: Tensor, index: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (M,) of views[index] for targets (M, D); each of the views (N, 3, s, s) is embedded once."""
        return spherical_distance(self.clip.encode_image(views)[index], targets)


class ImageAlignment:
    """A term: spherical distance of a view to the mean of reference images in a CLIP's space.

    This is DOODL's personalisation.

    Args:
        clip: The CLIP.
        images: Reference images (3, h, w) in [0, 1], of any sizes.
        name: Name in logs.
        views: What the term sees: "crops" (crops and regions) or the "whole" image.
        reference_interpolation: How references are resized: "own" as the CLIP's other images; "bilinear" as DOODL's
            code does in its environment (torchvision 0.12, which does not anti-alias tensors): the shortest side, then
            a centre crop; "bilinear_antialiased" as the same code does with torchvision 0.17 or newer.

    Raises:
        SgoolError: There are no images, or their embeddings cancel each other out.
    """

    def __init__(
        self,
        clip: ClipTower,
        images: Sequence[Tensor],
        name: str = "image",
        views: Literal["crops", "whole"] = "crops",
        reference_interpolation: ReferenceInterpolation = "own",
    ) -> None:
        if not images:
            raise SgoolError("image_alignment: expected at least one reference image, got none")
        self.clip = clip
        self.name = name
        self.input_size = view_size(views, clip.input_size)
        with torch.no_grad():
            resized = [_resize_reference(image[None], clip.input_size, reference_interpolation) for image in images]
            mean = torch.cat([clip.encode_image(image) for image in resized]).mean(dim=0)
        if not float(mean.norm()) > 1e-6:
            raise SgoolError("image_alignment: the mean of the reference images' embeddings is 0; give similar images")
        self._target = F.normalize(mean, dim=0)
        self.images = tuple(images)  # they tell terms apart (`sgool.callbacks.described`); embeddings round differently

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """Returns the mean embedding of the references as (B, D), the same row for every pair."""
        return self._target.expand(len(pairs), -1)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        """Returns losses (N,) in [0, pi^2 / 2] of views (N, 3, s, s) for targets (N, D)."""
        return spherical_distance(self.clip.encode_image(views), targets)


def build_text_alignment(
    clip: Mapping[str, Any], views: Literal["crops", "whole"], name: str, networks: Networks
) -> TextAlignment:
    """Builds the term of a validated configuration from its options, those of `TextAlignmentOptions`."""
    return TextAlignment(networks.clip(**clip), name, views)


def build_image_alignment(
    clip: Mapping[str, Any],
    images: str | Sequence[str],
    views: Literal["crops", "whole"],
    reference_interpolation: ReferenceInterpolation,
    name: str,
    networks: Networks,
) -> ImageAlignment:
    """Builds the term of a validated configuration from its options, those of `ImageAlignmentOptions`.

    Raises:
        SgoolError: An image cannot be read.
    """
    paths = [images] if isinstance(images, str) else images
    # Images are read before the network is loaded, so that an unreadable one is reported at once. They may have any
    # size, since the CLIP resizes them.
    key = f"`objective.terms.{name}.images`"
    references = [to_tensor(open_photo(path, key, smallest_side=1)) for path in paths]
    return ImageAlignment(networks.clip(**clip), references, name, views, reference_interpolation)


def _resize_reference(image: Tensor, size: int, interpolation: ReferenceInterpolation) -> Tensor:
    """Resizes a reference image (1, 3, h, w) to (1, 3, size, size), or leaves it to the CLIP."""
    if interpolation == "own":
        return image
    return Resize(size=size, interpolation="bilinear", antialias=interpolation == "bilinear_antialiased")(image)
