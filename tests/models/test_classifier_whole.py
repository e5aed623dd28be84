"""Whole images in classifiers, against the transforms of timm, torchvision and WS-DAN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import Inception3
from torchvision.transforms import CenterCrop, Compose, Resize

from sgool.errors import SgoolError
from sgool.metrics.distribution import ClassifierFeatures
from sgool.models.classifier import ImageClassifier, load_classifier
from sgool.models.image_settings import timm_preprocess, torchvision_preprocess, torchvision_weights
from sgool.models.networks import Networks
from sgool.objectives import build_term
from sgool.types import PromptSeed
from tests.models import test_wsdan
from tests.photos import as_batch, photo

trunk = test_wsdan.trunk
#: Oblong, odd, smaller than the networks' input, and of its size: a whole image is resized even then.
SHAPES = ((200, 300), (301, 203), (96, 97), (160, 160), (224, 224))


def random_network(seed: int = 0, **options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", pretrained=False, num_classes=6, **options).eval()


def local_folder(folder: Path, **settings: Any) -> tuple[Path, nn.Module]:
    folder.mkdir()
    network = random_network()
    content = {"architecture": "test_resnet", "labels": list("abcdef"), **settings}
    (folder / "config.json").write_text(json.dumps(content))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder, network


def loss(options: dict[str, Any], batch: Tensor) -> float:
    """The loss of a classifier's term that sees the whole image, for class 1."""
    term = {"type": "classifier", "target": 1, "loss": "cross_entropy", "views": "whole", "model": None, "labels": None}
    built = build_term("t", {**term, **options}, Networks({"device": "cpu"}))
    pairs = [PromptSeed("a", 0)]
    with torch.no_grad():
        return float(built(batch, built.targets(pairs)))


def cross_entropy(logits: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor([1])))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0, 1.15])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_mode_of_timm(crop_mode: str, crop_pct: float, interpolation: str) -> None:
    network = random_network()
    settings = {"input_size": (3, 32, 32), "crop_mode": crop_mode, "crop_pct": crop_pct, "interpolation": interpolation}
    data = {**timm.data.resolve_model_data_config(network), "mean": (0.2, 0.5, 0.7), **settings}
    theirs = timm.data.create_transform(**data, is_training=False)
    preprocess = timm_preprocess(network, "n", {**settings, "mean": (0.2, 0.5, 0.7)})
    for shape in ((48, 80), (80, 48), (37, 53), (20, 31), (33, 32), (32, 32)):
        got = preprocess.normalise(preprocess.resize.as_published(as_batch(photo(*shape))), torch.float32)[0]
        # The same 8-bit pixels.
        torch.testing.assert_close(got, theirs(photo(*shape)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_term_of_timm_s_classifier(tmp_path: Path, shape: tuple[int, int]) -> None:
    """A float image through timm's own transform, which torchvision resizes as a tensor."""
    network = random_network()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    batch = as_batch(photo(*shape))
    with torch.no_grad():
        expected = cross_entropy(network(transform(batch[0])[None]))
    found = loss({"source": "timm", "model": "test_resnet", "checkpoint": str(tmp_path / "own.pth")}, batch)
    # The same operations on the same weights; dropping timm's crop of 95 % moves it in the second decimal.
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_term_of_torchvision_s_classifier(tmp_path: Path, shape: tuple[int, int]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.get_model("squeezenet1_1", num_classes=4).eval()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    transform = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    batch = as_batch(photo(*shape))
    with torch.no_grad():
        expected = cross_entropy(network(transform(batch)))
    found = loss({"source": "torchvision", "model": "squeezenet1_1", "checkpoint": str(tmp_path / "own.pth")}, batch)
    assert found == pytest.approx(expected, abs=1e-5)


def test_torchvision_s_weights_bring_their_own_preprocessing() -> None:
    """torchvision's two ResNet-50 differ in it: 256 or 232 pixels before the crop."""
    first = torchvision_weights("resnet50", "weights/resnet50-0676ba61.pth")
    assert first is torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    assert torchvision_weights("resnet50", "own.pth") is torchvision.models.ResNet50_Weights.DEFAULT
    for name in ("resnet50", "inception_v3", "efficientnet_b0", "swin_t", "mobilenet_v3_small", "vit_b_16"):
        for weights in torchvision.models.get_model_weights(name):
            preprocess = torchvision_preprocess(weights, name)
            shown = preprocess.resize.as_published(as_batch(photo(97, 61)))
            expected = weights.transforms()(photo(97, 61))
            torch.testing.assert_close(preprocess.normalise(shown, torch.float32)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", ["features", "torchvision"])
def test_a_term_of_wsdan_squashes_and_crops(trunk: Inception3, tmp_path: Path, layout: str) -> None:
    """GuYuc's ``get_transform`` and wvinzh's ``transform_test``: Resize((512, 512)), CenterCrop(448)."""
    state = test_wsdan._state(trunk, layout, True)
    torch.save(state, tmp_path / "bird.pth")
    transform = Compose([Resize((512, 512), antialias=True), CenterCrop(448)])
    constants: tuple[Any, Any] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if layout == "torchvision":
        constants = ((0.5,) * 3, (0.5,) * 3)  # what transform_input makes of ImageNet's
    for shape in ((300, 401), (512, 512)):
        batch = as_batch(photo(*shape))
        with torch.no_grad():
            expected = cross_entropy(test_wsdan._reference(trunk, state, transform(batch), *constants))
        found = loss({"source": "wsdan", "checkpoint": str(tmp_path / "bird.pth")}, batch)
        # float32 through 14 blocks; the pooling sums in another order.
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    "settings", [{}, {"crop_pct": 0.8, "crop_mode": "border"}, {"pretrained_cfg": {"crop_pct": 1}}]
)
def test_a_local_folder_says_its_crop_or_has_timm_s(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder, network = local_folder(tmp_path / "own", input_size=[3, 32, 32], **settings)
    given = settings.get("pretrained_cfg", settings)
    data = {**timm.data.resolve_model_data_config(network), "input_size": (3, 32, 32), **given}
    transform = timm.data.create_transform(**data, is_training=False)
    classifier = load_classifier("local", checkpoint=str(folder))
    features = ClassifierFeatures(classifier)
    for shape in ((48, 80), (32, 32), (20, 31)):
        with torch.no_grad():
            shown = transform(photo(*shape))[None]
            expected = network.forward_head(network.forward_features(shown), pre_logits=True)  # type: ignore[operator]
        # FID's and KID's features are a judge's: 8-bit pixels, and the same float32 network.
        torch.testing.assert_close(features(as_batch(photo(*shape))), expected, rtol=1e-5, atol=1e-5)


def test_views_are_only_normalised(tmp_path: Path) -> None:
    """Crops come in the network's size, and lose nothing."""
    folder, network = local_folder(tmp_path / "own", input_size=32, mean=[0.5] * 3, std=[0.25] * 3, crop_pct=0.5)
    classifier = load_classifier("local", checkpoint=str(folder))
    batch = as_batch(photo(32, 32))
    with torch.no_grad():
        torch.testing.assert_close(classifier(batch), network((batch - 0.5) / 0.25))
        assert not torch.allclose(classifier.whole(batch), classifier(batch), atol=1e-3)
        assert torch.equal(classifier.whole(batch[..., :20]), classifier(batch[..., :20]))


def test_the_embedded_classifier_sees_all_of_an_image() -> None:
    classifier = load_classifier("local", checkpoint="emoji_world/classifier")
    assert isinstance(classifier, ImageClassifier) and classifier.preprocess.resize.resize_size == 64
    batch = as_batch(photo(64, 64))
    assert torch.equal(classifier.whole(batch), classifier(batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_size": [3, 64, 32]}, "own takes 64x32 images; expected one with a square input"),
        ({"interpolation": "lanczos"}, "own resizes images with interpolation 'lanczos'; expected bilinear or bicubic"),
        ({"crop_mode": "corner"}, "own has crop_mode 'corner'; expected center, squash, border"),
    ],
)
def test_settings_that_are_not_known(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder, _ = local_folder(tmp_path / "own", **settings)
    with pytest.raises(SgoolError, match=message):
        load_classifier("local", checkpoint=str(folder))
