"""Salient regions of the images of a batch, found without gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.objectives.settings import SaliencySettings
from sgool.results.checkpoint import eight_bit, pack_image, unpack_image
from sgool.saliency.base import SaliencyDetector, TextDetector, require_finite
from sgool.saliency.regions import find_regions
from sgool.types import Region


@dataclass(frozen=True)
class Detection:
    """Saliency maps (B, 1, H, W), and the regions that were found in each."""

    maps: Tensor
    regions: tuple[tuple[Region, ...], ...]

    def state_dict(self) -> dict[str, Any]:
        """Returns the regions in plain values, and the maps in 8 bits."""
        regions = [[dataclasses.astuple(region) for region in own] for own in self.regions]
        return {"maps": [pack_image(one) for one in eight_bit(self.maps)], "regions": regions}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> Detection:
        """Returns the detection of a `state_dict`, with its maps on a device."""
        maps = torch.stack([unpack_image(one) for one in state["maps"]]).to(device)
        return cls(maps, tuple(tuple(Region(*one) for one in own) for own in state["regions"]))


@dataclass(frozen=True)
class PhraseDetector:
    """A detector that makes a map for each phrase of each image.

    Attributes:
        detector: Looks for one phrase in each of the images that it gets.
        counts: How many phrases each image has.
    """

    detector: SaliencyDetector
    counts: tuple[int, ...]


def phrase_detector(detector: SaliencyDetector, phrases: Sequence[Sequence[str]]) -> PhraseDetector | None:
    """Returns the detector that looks for each image's own phrases; None if it does not look for texts."""
    if not isinstance(detector, TextDetector):
        return None
    bound = detector.for_texts([phrase for own in phrases for phrase in own])
    return None if bound is None else PhraseDetector(bound, tuple(map(len, phrases)))


@torch.no_grad()
def detect(images: Tensor, settings: SaliencySettings, of_phrases: PhraseDetector | None = None) -> Detection:
    """Finds the salient regions of images.

    Args:
        images: (B, 3, H, W), nominally in [0, 1].
        settings: The detector and the rule of regions. An image that is not finite is replaced by a black one for the
            detector, and has no regions.
        of_phrases: Makes a map for each phrase of each image in the detector's place. Regions then belong to a phrase,
            up to ``max_regions`` for each, and an image's map is the maximum over its phrases.

    Raises:
        SgoolError: The detector's maps are not finite, or not of the images' number and size.
    """
    finite = images.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1)
    seen = torch.where(finite, images.detach().clamp(0, 1), 0)
    if of_phrases is None:
        maps = _checked(settings.detector, seen)
        maps = torch.where(finite, maps, 0)
        require_finite(maps)
        return Detection(maps, tuple(_regions(one, settings) for one in maps))
    counts = torch.tensor(of_phrases.counts, device=images.device)
    own = _checked(of_phrases.detector, seen.repeat_interleave(counts, dim=0)).split(list(of_phrases.counts))
    own = [torch.where(fine, one, 0) for fine, one in zip(finite, own, strict=True)]
    maps = torch.stack([each.amax(dim=0) for each in own])
    require_finite(maps)
    return Detection(maps, tuple(_of_phrases(each, settings) for each in own))


def _checked(detector: SaliencyDetector, images: Tensor) -> Tensor:
    """Returns a detector's maps of images, after a look at their shape, which would otherwise broadcast silently."""
    maps = detector(images)
    expected = (len(images), 1, *images.shape[-2:])
    if tuple(maps.shape) != expected:
        raise SgoolError(
            f"the saliency detector {type(detector).__name__}: expected maps of shape {expected}, one of each image "
            f"and of its size, got {tuple(maps.shape)}; keep the channel (`keepdim=True`), resize smaller maps"
        )
    return maps


def _of_phrases(maps: Tensor, settings: SaliencySettings) -> tuple[Region, ...]:
    """Returns the regions of an image's maps (P, 1, H, W), one for each phrase; all masses together sum to 1."""
    found = [_regions(one, settings) for one in maps]
    share = 1 / max(1, sum(map(bool, found)))
    return tuple(
        replace(region, phrase=number, mass=share * region.mass) for number, own in enumerate(found) for region in own
    )


def _regions(saliency_map: Tensor, settings: SaliencySettings) -> tuple[Region, ...]:
    return find_regions(
        saliency_map[0],
        threshold=settings.threshold,
        max_regions=settings.max_regions,
        margin=settings.margin,
        min_side=settings.min_side,
    )
