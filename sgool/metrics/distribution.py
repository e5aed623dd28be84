"""FID and KID between two sets of images, by torchmetrics, over any feature network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from sgool.errors import SgoolError
from sgool.models.classifier import ImageClassifier
from sgool.models.clip import ClipTower

#: Images from which on FID is usually reported; below, and below as many as there are features, its bias is large.
ENOUGH = 2048
_SUBSETS, _LARGEST_SUBSET = 100, 1000


@dataclass(frozen=True)
class Distances:
    """How far a set of images is from a reference.

    Attributes:
        fid: Fréchet distance of Gaussians fitted to the features; NaN with fewer than 2 images on a side.
        kid: Unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)^3, mean over subsets.
        kid_std: Its standard deviation over the subsets, which overlap: no standard error.
        kid_subset: Images of a subset, drawn from each side.
        images: Of the set.
        reference_images: Of the reference.
    """

    fid: float
    kid: float
    kid_std: float
    kid_subset: int
    images: int
    reference_images: int


class _Given(nn.Module):
    """Features that are there already; torchmetrics asks for a network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def set_distances(features: Tensor, reference: Tensor, seed: int = 0) -> Distances:
    """FID and KID of features (N, D) to those of a reference (M, D), in float64.

    KID's subsets are half of the smaller side, at most 1000 images, 100 times.

    Args:
        features: Of the images to judge.
        reference: Of the images they should be like.
        seed: Of KID's subsets.
    """
    number = min(len(features), len(reference))
    if number < 2:
        return Distances(math.nan, math.nan, math.nan, 0, len(features), len(reference))
    given = _Given(features.shape[1])
    fid = FrechetInceptionDistance(feature=given)
    subset = max(2, min(_LARGEST_SUBSET, number // 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        kid = KernelInceptionDistance(feature=given, subsets=_SUBSETS, subset_size=subset)
    for metric in (fid, kid):
        metric.update(reference.double(), real=True)
        metric.update(features.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchmetrics draws the subsets from the global generator
        mean, deviation = kid.compute()
    return Distances(float(fid.compute()), float(mean), float(deviation), subset, len(features), len(reference))


class ClassifierFeatures(nn.Module):
    """The penultimate features of a classifier of timm: images (N, 3, h, w) in [0, 1] to (N, D).

    Raises:
        SgoolError: A network of another library.
    """

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        network: Any = classifier.network
        if not hasattr(network, "forward_head"):
            raise SgoolError(f"features: {classifier.name} is no classifier of timm, whose last features are known")
        self._classifier = (classifier,)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Before the linear layer, pooled."""
        classifier = self._classifier[0]
        network: Any = classifier.network
        maps = network.forward_features(classifier.preprocess(images, classifier.dtype))
        return network.forward_head(maps, pre_logits=True).flatten(1)


class ClipFeatures(nn.Module):
    """Image embeddings of a CLIP, of norm √D: KID's kernel is then (cosine + 1)^3.

    Embeddings of norm 1 would make it (cosine / D + 1)^3, which is a straight line for any D in use: KID would compare
    the means of the two sets and nothing else.
    """

    def __init__(self, clip: ClipTower) -> None:
        super().__init__()
        self._clip = (clip,)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Of images (N, 3, h, w) in [0, 1]."""
        embeds = self._clip[0].encode_image(images)
        return embeds * math.sqrt(embeds.shape[1])


class InceptionFeatures(nn.Module):
    """InceptionV3's 2048 features with the weights that published FIDs use (torch-fidelity's, through torchmetrics).

    Raises:
        SgoolError: torch-fidelity is not installed, or the weights are not there and cannot be fetched.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import torch_fidelity  # noqa: F401 - torchmetrics' network is its
        except ImportError as error:
            raise SgoolError(
                "--features inception: needs torch-fidelity, which has the weights that published FIDs use: pip "
                "install 'sgool[fid]'; --features embedded needs nothing"
            ) from error
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).requires_grad_(False)
        except (OSError, RuntimeError) as error:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

            raise SgoolError(
                f"--features inception: cannot fetch the weights: {' '.join(str(error).split())[:200]}. Put "
                f"{URL_INCEPTION_V3} into {torch.hub.get_dir()}/checkpoints"
            ) from error

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Of images (N, 3, h, w) in [0, 1]; the network takes 8 bits and resizes to 299 pixels itself."""
        device = next(self.network.parameters()).device
        return self.network((images.to(device) * 255).round().byte())


def features_of(network: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """(N, D) in float64 of batches of images (B, 3, h, w) in [0, 1]; each may have another size.

    Raises:
        SgoolError: No images.
    """
    found = [network(batch).double().cpu() for batch in batches]
    if not found:
        raise SgoolError("features: expected at least one image, found none")
    return torch.cat(found)
