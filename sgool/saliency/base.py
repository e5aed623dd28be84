"""The interface of a saliency detector, and the scale of its maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.types import PromptSeed


@runtime_checkable
class SaliencyDetector(Protocol):
    """A detector: anything that makes saliency maps of images, each image independently of the others."""

    def __call__(self, images: Tensor) -> Tensor:
        """Makes the saliency maps of images.

        Args:
            images: (B, 3, H, W), floating point, in [0, 1].

        Returns:
            (B, 1, H, W) in [0, 1], maximum 1 per image; all zeros for an image in which nothing stands out.
        """
        ...


@runtime_checkable
class BindableDetector(SaliencyDetector, Protocol):
    """A detector whose maps also depend on the pairs, for example on their prompts."""

    def bind(self, pairs: Sequence[PromptSeed]) -> SaliencyDetector:
        """Returns the detector for these pairs, which takes one image per pair, in their order."""
        ...


@runtime_checkable
class TextDetector(SaliencyDetector, Protocol):
    """A detector that can look for any text, and so for each phrase of a prompt by itself."""

    def for_texts(self, texts: Sequence[str]) -> SaliencyDetector | None:
        """Returns the detector for these texts, one image each; None if it has to look for something else."""
        ...


def check_images(images: Tensor) -> None:
    """Raises a ValueError unless images have the shape (B, 3, H, W)."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(images.shape)}")


def normalise_map(saliency: Tensor) -> Tensor:
    """Stretches each map to [0, 1], like ``mat2gray`` in Hou & Zhang's published code.

    Args:
        saliency: Maps (B, 1, H, W) of any finite scale.

    Returns:
        (B, 1, H, W), minimum 0 and maximum 1 per image; zeros if a map is flat.

    Raises:
        SgoolError: A map is not finite.
    """
    if saliency.ndim != 4 or saliency.shape[1] != 1:
        raise ValueError(f"expected saliency maps of shape (B, 1, H, W), got {tuple(saliency.shape)}")
    require_finite(saliency)
    low, high = saliency.amin((2, 3), keepdim=True), saliency.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, (saliency - low) / torch.where(span > 0, span, 1), 0)


def require_finite(saliency: Tensor) -> None:
    """Raises a SgoolError that names the maps (by first dimension) with NaN or infinite values, if there are any."""
    bad = (~saliency.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise SgoolError(
            f"The saliency map of image {', '.join(map(str, bad))} of {len(saliency)} holds NaN or infinite values; "
            "expected finite numbers. Check the detector's weights and that the images given to it are finite."
        )
