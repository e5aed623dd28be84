"""FID and KID against the formulas in float64, and the networks whose features they compare."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import timm
import torch
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.metrics import set_distances
from sgool.metrics.distribution import ClassifierFeatures, ClipFeatures, InceptionFeatures, features_of
from sgool.models.classifier import ImageClassifier, load_classifier
from sgool.models.clip import load_clip
from sgool.models.preprocess import Preprocess
from tests.photos import as_batch, photo


def features(number: int, width: int = 6, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(number, width, generator=generator, dtype=torch.float64) @ mixed + shift


def test_fid_is_the_frechet_distance_of_two_gaussians() -> None:
    ours, reference = features(40, seed=1, shift=0.3), features(50, seed=2)
    x, y = ours.numpy(), reference.numpy()
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root.real)
    found = set_distances(ours, reference)
    # float64; a matrix root by Schur's form here, by eigenvalues there.
    assert found.fid == pytest.approx(float(expected), rel=1e-8)
    assert (found.images, found.reference_images) == (40, 50)


def test_fid_with_fewer_images_than_features() -> None:
    """Singular covariances: tr (A B)^(1/2) is the sum of the singular values of B^(1/2) A^(1/2)."""
    ours, reference = features(5, 8, seed=1), features(6, 8, seed=2)
    x, y = ours.numpy(), reference.numpy()
    a, b = ((v - v.mean(0)) / math.sqrt(len(v) - 1) for v in (x, y))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross
    # Eigenvalues that are 0 come out near 1e-15 of the largest, and their roots near 3e-8 of it.
    assert set_distances(ours, reference).fid == pytest.approx(float(expected), rel=1e-5)


def test_fid_of_a_set_with_itself_is_zero() -> None:
    ours = features(40)
    assert set_distances(ours, ours).fid == pytest.approx(0, abs=1e-6)  # roots of eigenvalues, as above


def test_kid_is_the_unbiased_estimate_in_plain_loops() -> None:
    """Two images a subset: few enough to list every one of them."""
    ours, reference = features(4, seed=1, shift=0.5), features(5, seed=2)
    found = set_distances(ours, reference)
    assert found.kid_subset == 2
    estimates = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(100):  # the subsets that torchmetrics draws
            y = reference[torch.randperm(5)[:2]]
            x = ours[torch.randperm(4)[:2]]
            estimates.append(_mmd(x.tolist(), y.tolist()))
    assert found.kid == pytest.approx(float(np.mean(estimates)), rel=1e-10)  # float64 sums
    assert found.kid_std == pytest.approx(float(np.std(estimates)), rel=1e-10)


#: The three subsets of two of three images.
_PAIRS = torch.tensor([[0, 1], [0, 2], [1, 2]])


def _mmd(x: list[list[float]], y: list[list[float]]) -> float:
    """Binkowski et al. 2018, eq. 4: no term of an image with itself."""

    def kernel(u: list[float], v: list[float]) -> float:
        return (sum(a * b for a, b in zip(u, v, strict=True)) / len(u) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(u, v) for u in x for v in y) / (n * m)


def test_kid_s_subsets_are_reproducible_and_leave_the_global_generator_alone() -> None:
    ours, reference = features(30, seed=1), features(30, seed=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = set_distances(ours, reference)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert set_distances(ours, reference) == first
    assert set_distances(ours, reference, seed=1).kid != first.kid
    # Half of the images: with all of them every subset would be the same, and the deviation 0.
    assert first.kid_subset == 15 and first.kid_std > 0


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_images_have_no_distance(number: int) -> None:
    found = set_distances(features(number), features(20))
    assert math.isnan(found.fid) and math.isnan(found.kid) and math.isnan(found.kid_std)
    assert (found.images, found.reference_images) == (number, 20)


def test_features_of_the_embedded_classifier_are_those_before_its_last_layer() -> None:
    classifier = load_classifier("local", checkpoint="emoji_world/classifier")
    levels = [torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side)) for side in (64, 96)]
    batches = [(level * 255).round() / 255 for level in levels]
    found = features_of(ClassifierFeatures(classifier), batches)
    assert found.dtype == torch.float64 and found.shape == (4, 128)
    last = classifier.network.fc
    assert isinstance(last, nn.Linear)
    logits = torch.cat([classifier(classifier.as_published(batch)) for batch in batches])
    # float32 network.
    torch.testing.assert_close(last(found.float()), logits, rtol=1e-4, atol=1e-4)


def test_kid_of_a_clip_s_features_has_the_kernel_of_their_cosines(clip_folder: Path) -> None:
    """All images in each of the subsets, which are then one: the estimate of the two sets, in numpy."""
    tower = load_clip(str(clip_folder), dtype=torch.float64)
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images = (images * 255).round() / 255
    found = features_of(ClipFeatures(tower), [images[:2], images[2:]])
    unit = torch.nn.functional.normalize(found, dim=1)
    torch.testing.assert_close(unit, tower.encode_image(images), rtol=1e-10, atol=1e-10)  # float64 sums
    assert found.shape[1] > 1
    x, y = (part.numpy() for part in unit.split(3))
    within = [((v @ v.T + 1) ** 3)[~np.eye(3, dtype=bool)].mean() for v in (x, y)]
    expected = sum(within) - 2 * ((x @ y.T + 1) ** 3).mean()
    # Three images make subsets of two: the mean over all subsets is the estimate, that over 100 of them is near it.
    pairs = [_mmd(found[i].tolist(), found[j].tolist()) for i in _PAIRS for j in (_PAIRS + 3)]
    assert float(np.mean(pairs)) == pytest.approx(float(expected), rel=1e-10)
    measured = set_distances(found[:3], found[3:])
    assert abs(measured.kid - expected) < 4 * measured.kid_std / math.sqrt(100) + 1e-12


def test_networks_without_known_features() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    classifier = ImageClassifier(network, Preprocess(8, (0.5,) * 3, (0.5,) * 3), "mine")
    with pytest.raises(SgoolError, match="mine is no classifier of timm"):
        ClassifierFeatures(classifier)
    with pytest.raises(SgoolError, match="expected at least one image, found none"):
        features_of(nn.Identity(), [])
    assert hasattr(timm.create_model("test_resnet"), "forward_head")


class _Inception(nn.Module):
    """As torchmetrics' network before 1.8: one resize, without anti-aliasing; its features are some pixels."""

    use_antialias: bool

    def __init__(self, name: str, features_list: list[str]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def resized(self, images: Tensor, antialias: bool) -> Tensor:
        assert images.dtype == torch.uint8
        size = (9, 9)
        return nn.functional.interpolate(images.float(), size, mode="bilinear", antialias=antialias).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.resized(images, antialias=False)


class _InceptionSince18(_Inception):
    """As torchmetrics' network since 1.8."""

    def __init__(self, name: str, features_list: list[str], antialias: bool = True) -> None:
        super().__init__(name, features_list)
        self.use_antialias = antialias

    def forward(self, images: Tensor) -> Tensor:
        return self.resized(images, self.use_antialias)


def test_inception_s_resize_does_not_depend_on_torchmetrics_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    batch = as_batch(photo(30, 41))
    found = []
    for network in (_Inception, _InceptionSince18):
        monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", network)
        found.append(InceptionFeatures()(batch))
    assert torch.equal(found[0], found[1])


def test_inception_is_torch_fidelity_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The published extractor with random weights, which lie where torch keeps what it has fetched."""
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = _random_inception(extractor)
    file = tmp_path / "hub" / "checkpoints" / Path(extractor.URL_INCEPTION_V3).name
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    ours = InceptionFeatures()
    theirs = extractor.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval()
    for size in ((64, 64), (97, 130), (400, 310)):
        batch = as_batch(photo(*size))
        (expected,) = theirs((batch * 255).round().byte())
        # The same resize and the same float32 network.
        torch.testing.assert_close(ours(batch), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def _random_inception(extractor: Any) -> dict[str, Tensor]:
    """Weights that keep the size of the activations through the network's layers."""
    made: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(extractor, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda self, *_, **__: made.append(self))
        extractor.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        for part in made[0].modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
    return made[0].state_dict()


def test_inception_needs_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(SgoolError, match=r"--features inception: needs torch-fidelity, .*pip install 'sgool\[fid\]'"):
        InceptionFeatures()
