"""Metrics of how much an optimisation changed: from a pair's first image to its final one, and of the latents.

None of them has a ``higher_is_better``, since a large change may be a repaired image or a lost one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from sgool.errors import SgoolError
from sgool.metrics.base import ChangeScore, MeanScore
from sgool.models.classifier import ImageClassifier, load_classifier
from sgool.models.fingerprint import fingerprints
from sgool.models.networks import Networks

#: Function from images (N, 3, H, W) in [0, 1] to feature maps (N, C, h, w), one per stage.
FeatureMaps = Callable[[Tensor], Sequence[Tensor]]


class PerceptualDistance(ChangeScore):
    """Mean distance in the feature maps of a network, in [0, 4]; in [0, 2] if its features are at least 0 (ReLU).

    This is LPIPS's formula (Zhang et al. 2018) without its learned weights. The features at each position of each stage
    are brought to norm 1. The squared distance is averaged over the positions, then over the stages.

    Args:
        features: Function from images to feature maps.
    """

    key, title, place = "perceptual_distance", "perceptual distance to the first image", 71
    digits = 3

    def __init__(self, features: FeatureMaps, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._features = (features,)

    @torch.no_grad()
    def score(self, images: Tensor, first: Tensor) -> Tensor:
        """Returns distances (B,) of images from first images, each (B, 3, H, W)."""
        stages = zip(*(self._features[0](batch.clamp(0, 1)) for batch in (images, first)), strict=True)
        distances = []
        for after, before in stages:
            difference = F.normalize(after, dim=1) - F.normalize(before, dim=1)
            distances.append(difference.square().sum(dim=1).mean(dim=(1, 2)))
        return torch.stack(distances).mean(dim=0)


class Lpips(ChangeScore):
    """Mean LPIPS (Zhang et al. 2018), by torchmetrics: 0 for equal images, rarely above 1.

    Args:
        network: Function from two batches of images in [-1, 1] to distances (B, 1, 1, 1); see `load_lpips`.
    """

    key, title, place = "lpips", "LPIPS to the first image", 60
    digits = 3

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._network = (network,)

    @torch.no_grad()
    def score(self, images: Tensor, first: Tensor) -> Tensor:
        """Returns distances (B,) of images from first images, each (B, 3, H, W)."""
        return self._network[0](images.clamp(0, 1) * 2 - 1, first.clamp(0, 1) * 2 - 1).flatten()

    def fingerprints(self) -> frozenset[str]:
        """Returns the fingerprints of LPIPS and of the torchvision network in it, which a classifier may share."""
        below = getattr(self._network[0], "net", None)
        return fingerprints([self._network, below])


class Psnr(ChangeScore):
    """Mean peak signal-to-noise ratio in dB; an image that did not change is infinite and does not count."""

    key, title, place = "psnr", "PSNR to the first image", 80
    digits = 1

    @torch.no_grad()
    def score(self, images: Tensor, first: Tensor) -> Tensor:
        """Returns ratios (B,) in dB of images to first images, each (B, 3, H, W)."""
        return peak_signal_noise_ratio(
            images.clamp(0, 1), first.clamp(0, 1), data_range=1.0, reduction="none", dim=(1, 2, 3)
        )


class Ssim(ChangeScore):
    """Mean structural similarity (Wang et al. 2004; Gaussian window of sigma 1.5), 1 for equal images."""

    key, title, place = "ssim", "SSIM to the first image", 90
    digits = 3

    @torch.no_grad()
    def score(self, images: Tensor, first: Tensor) -> Tensor:
        """Returns similarities (B,) in [-1, 1] of images to first images, each (B, 3, H, W)."""
        similarity = structural_similarity_index_measure(
            images.clamp(0, 1), first.clamp(0, 1), data_range=1.0, reduction="none"
        )
        assert isinstance(similarity, Tensor)
        return similarity.flatten()


class LatentNorm(MeanScore):
    """Mean ratio of the final latents' norm to that of the first latents; 1 with `optimization.renormalize`."""

    key, title, place = "latent_norm", "latent norm against the first", 100

    def score(self, kept: Sequence[Tensor], first: Sequence[Tensor]) -> Tensor:
        """Returns ratios (B,) for the kept and first latents of B pairs; a pair's streams have one norm together."""
        both = zip(kept, first, strict=True)
        return torch.stack([after.cpu().double().norm() / before.cpu().double().norm() for after, before in both])


def classifier_maps(classifier: ImageClassifier) -> FeatureMaps:
    """Returns a function that gives the feature maps of all stages of a timm classifier.

    Raises:
        SgoolError: The classifier's network does not give feature maps.
    """
    network: Any = classifier.network
    if not hasattr(network, "forward_intermediates"):
        raise SgoolError(f"perceptual distance: {classifier.name} shows no feature maps; give a classifier of timm")

    def maps(images: Tensor) -> Sequence[Tensor]:
        return network.forward_intermediates(classifier.preprocess(images, classifier.dtype), intermediates_only=True)

    return maps


def load_lpips(network: str, key: str) -> nn.Module:
    """Loads torchmetrics' LPIPS: its own learned weights on a torchvision network, whose weights torch fetches once.

    Args:
        network: "alex", "vgg" or "squeeze".
        key: Dotted key of the configuration, for the message.

    Raises:
        SgoolError: The network's weights are missing and cannot be fetched.
    """
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import get_model_weights

    try:
        return LearnedPerceptualImagePatchSimilarity(network).net  # type: ignore[arg-type]
    except (OSError, RuntimeError) as error:
        name = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}[network]
        url = get_model_weights(name).DEFAULT.url
        raise SgoolError(
            f"`{key}.network`: cannot fetch the weights of {network} that LPIPS needs: "
            f"{' '.join(str(error).split())[:200]}. Put {url} into {torch.hub.get_dir()}/checkpoints, or use "
            "network=local with a classifier's folder"
        ) from error


def build_perceptual_judge(network: str, checkpoint: str | None, name: str, networks: Networks) -> list[ChangeScore]:
    """Builds the judge of a validated configuration from its options, those of `PerceptualJudgeOptions`."""
    if network == "local":
        assert checkpoint is not None
        return [PerceptualDistance(classifier_maps(local_classifier(checkpoint, networks)))]
    key = f"models.judges.{name}"
    return [Lpips(networks.shared(("lpips", network), lambda: load_lpips(network, key).to(networks.device)))]


def build_pixels_judge() -> list[ChangeScore]:
    """Builds the judge of PSNR and SSIM, which has no options."""
    return [Psnr(), Ssim()]


def build_latents_judge() -> list[LatentNorm]:
    """Builds the judge of the latents' norm, which has no options."""
    return [LatentNorm()]


def local_classifier(folder: str, networks: Networks) -> ImageClassifier:
    """Returns the classifier in a folder, shared with terms of the same settings."""
    return networks.shared(
        ("classifier", "local", None, folder, None),
        lambda: load_classifier("local", checkpoint=folder, device=networks.device),
    )
