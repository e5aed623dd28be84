"""FID and KID between two sets of images, by torchmetrics, with any network of features."""

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
from sgool.models.resize import published_images

#: Usual number of images for an FID. With fewer images, or fewer than there are features, its bias is large.
ENOUGH = 2048
_SUBSETS, _LARGEST_SUBSET = 100, 1000


@dataclass(frozen=True)
class Distances:
    """The distances of a set of images from a set of reference images.

    Attributes:
        fid: Fréchet distance of Gaussians fitted to the features; NaN if either set has fewer than 2 images.
        kid: Unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)^3, mean over subsets.
        kid_std: Standard deviation of the KID over the subsets. These overlap, so it is no standard error.
        kid_subset: Number of images in a subset, drawn from each set.
        images: Number of images in the set.
        reference_images: Number of reference images.
    """

    fid: float
    kid: float
    kid_std: float
    kid_subset: int
    images: int
    reference_images: int


class _GivenFeatures(nn.Module):
    """A network that returns its input; torchmetrics needs a network, but the features are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def set_distances(features: Tensor, reference: Tensor, seed: int = 0) -> Distances:
    """Computes FID and KID between features (N, D) and reference features (M, D), in float64.

    KID is the mean over 100 subsets, each half as large as the smaller set and of at most 1000 images.

    Args:
        features: Features of the images to judge.
        reference: Features of the reference images.
        seed: Seed for KID's subsets.
    """
    number = min(len(features), len(reference))
    if number < 2:
        return Distances(math.nan, math.nan, math.nan, 0, len(features), len(reference))
    network = _GivenFeatures(features.shape[1])
    fid = FrechetInceptionDistance(feature=network)
    subset = max(2, min(_LARGEST_SUBSET, number // 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        kid = KernelInceptionDistance(feature=network, subsets=_SUBSETS, subset_size=subset)
    for metric in (fid, kid):
        metric.update(reference.double(), real=True)
        metric.update(features.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchmetrics draws the subsets from the global generator
        mean, deviation = kid.compute()
    return Distances(float(fid.compute()), float(mean), float(deviation), subset, len(features), len(reference))


class ClassifierFeatures(nn.Module):
    """A network that returns the penultimate features (N, D) of a timm classifier.

    Raises:
        SgoolError: The classifier is of another library.
    """

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        network: Any = classifier.network
        if not hasattr(network, "forward_head"):
            raise SgoolError(f"features: {classifier.name} is no classifier of timm, whose last features are known")
        self._classifier = (classifier,)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns the pooled features (N, D) before the linear layer, of images (N, 3, h, w) in [0, 1]."""
        classifier = self._classifier[0]
        network: Any = classifier.network
        pixels = classifier.preprocess.normalise(published_images(classifier, images), classifier.dtype)
        maps = network.forward_features(pixels)
        return network.forward_head(maps, pre_logits=True).flatten(1)


class ClipFeatures(nn.Module):
    """A network that returns the image embeddings (N, D) of a CLIP, with norm √D, so that KID's kernel is (cos + 1)^3.

    With norm 1 the kernel would be (cos / D + 1)^3, which is nearly linear for any D in use. KID would then compare
    only the means of the two sets.
    """

    def __init__(self, clip: ClipTower) -> None:
        super().__init__()
        self._clip = (clip,)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns embeddings (N, D) of images (N, 3, h, w) in [0, 1]."""
        embeds = self._clip[0].encode_image(published_images(self._clip[0], images))
        return embeds * math.sqrt(embeds.shape[1])


class InceptionFeatures(nn.Module):
    """A network that returns InceptionV3's 2048 features, with the weights that published FIDs use.

    The weights are those of torch-fidelity, through torchmetrics. Images are resized as TensorFlow 1 did it, without
    anti-aliasing, as in torch-fidelity and published FIDs.

    Raises:
        SgoolError: torch-fidelity is not installed, or the weights are missing and cannot be fetched.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import torch_fidelity  # noqa: F401 - torchmetrics' network comes from it
        except ImportError as error:
            raise SgoolError(
                "--features inception: needs torch-fidelity, which has the weights that published FIDs use: pip "
                "install 'sgool[fid]'; --features embedded needs nothing"
            ) from error
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).requires_grad_(False)
            # Since torchmetrics 1.8 this network's resize is anti-aliased unless told otherwise. Earlier releases have
            # no such argument, and do not look at the attribute.
            self.network.use_antialias = False
        except (OSError, RuntimeError) as error:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

            raise SgoolError(
                f"--features inception: cannot fetch the weights: {' '.join(str(error).split())[:200]}. Put "
                f"{URL_INCEPTION_V3} into {torch.hub.get_dir()}/checkpoints"
            ) from error

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns features (N, 2048) of images (N, 3, h, w) in [0, 1]; the network itself resizes to 299 pixels."""
        device = next(self.network.parameters()).device
        return self.network((images.to(device).clamp(0, 1) * 255).round().byte())


def features_of(network: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Computes the features (N, D), in float64, of batches of images (B, 3, h, w) in [0, 1], which may differ in size.

    Raises:
        SgoolError: There are no images.
    """
    found = [network(batch).cpu().double() for batch in batches]
    if not found:
        raise SgoolError("features: expected at least one image, found none")
    return torch.cat(found)
