"""Classifiers of timm, torchvision and local folders; classes by number and name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.classifier import ImageClassifier, load_classifier
from sgool.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

TIMM = "test_resnet"


@pytest.fixture(scope="module")
def timm_network() -> nn.Module:
    """timm's own tiny network for tests, with 6 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(TIMM, pretrained=False, num_classes=6).eval()


def images(size: int = 40) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_timm_from_a_file_is_what_timm_computes(timm_network: nn.Module, tmp_path: Path) -> None:
    torch.save(timm_network.state_dict(), tmp_path / "own.pth")
    classifier = load_classifier("timm", TIMM, str(tmp_path / "own.pth"))
    config = timm.data.resolve_model_data_config(timm_network)
    assert (classifier.num_classes, classifier.labels) == (6, ())
    assert classifier.input_size == config["input_size"][-1]
    batch = images(classifier.input_size)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        # The same operations on the same weights.
        torch.testing.assert_close(classifier(batch), timm_network((batch - mean) / std))


def test_a_head_of_imagenet_s_size_brings_imagenet_s_names(tmp_path: Path) -> None:
    network = timm.create_model(TIMM, pretrained=False)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    classifier = load_classifier("timm", TIMM, str(tmp_path / "own.safetensors"))
    assert classifier.class_index("Golden Retriever") == 207
    with pytest.raises(SgoolError, match=r"no class named 'golden retreiver'. Close names: golden retriever"):
        classifier.class_index("golden retreiver")


def test_torchvision_from_a_file(tmp_path: Path) -> None:
    network = torchvision.models.get_model("squeezenet1_1", num_classes=4).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "own.pth")
    classifier = load_classifier("torchvision", "squeezenet1_1", str(tmp_path / "own.pth"))
    assert (classifier.num_classes, classifier.input_size, classifier.labels) == (4, 224, ())
    batch = images(224)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        torch.testing.assert_close(classifier(batch), network((batch - mean) / std))


def test_torchvision_with_imagenet_s_classes_knows_their_names(tmp_path: Path) -> None:
    network = torchvision.models.get_model("squeezenet1_1", num_classes=1000)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    classifier = load_classifier("torchvision", "squeezenet1_1", str(tmp_path / "own.pth"))
    assert classifier.class_index("tench") == 0


def test_inception_expects_what_its_public_weights_expect(tmp_path: Path) -> None:
    network = torchvision.models.inception_v3(num_classes=3, init_weights=False, transform_input=True).eval()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    classifier = load_classifier("torchvision", "inception_v3", str(tmp_path / "own.pth"))
    batch = images(299)[:1]
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        torch.testing.assert_close(classifier(batch), network((batch - mean) / std))


def local_folder(folder: Path, network: nn.Module, **config: object) -> Path:
    folder.mkdir()
    content = {"architecture": TIMM, "labels": ["cat", "dog", "car", "tree", "house", "heart"], **config}
    (folder / "config.json").write_text(json.dumps(content))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def test_local_folder(timm_network: nn.Module, tmp_path: Path) -> None:
    folder = local_folder(tmp_path / "own", timm_network, input_size=32, mean=[0.5] * 3, std=[0.25] * 3)
    classifier = load_classifier("local", checkpoint=str(folder))
    assert (classifier.name, classifier.input_size, classifier.class_index("tree")) == ("own", 32, 3)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images(32)), timm_network((images(32) - 0.5) / 0.25))


def test_labels_from_a_file(timm_network: nn.Module, tmp_path: Path) -> None:
    folder = local_folder(tmp_path / "own", timm_network)
    (tmp_path / "names.txt").write_text("a\nb\nc\n\nd\ne\nf\n")
    classifier = load_classifier("local", checkpoint=str(folder), labels=str(tmp_path / "names.txt"))
    assert classifier.labels == ("a", "b", "c", "d", "e", "f")
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(SgoolError, match="own has 6 classes, but 2 labels were given"):
        load_classifier("local", checkpoint=str(folder), labels=str(tmp_path / "names.txt"))


def test_gradients_reach_pixels_and_stay_out_of_weights(timm_network: nn.Module, tmp_path: Path) -> None:
    classifier = load_classifier("local", checkpoint=str(local_folder(tmp_path / "own", timm_network)))
    classifier.train()
    batch = images().requires_grad_()
    logits = classifier(batch)
    logits.sum().backward()
    assert batch.grad is not None and (batch.grad.flatten(1).abs().sum(dim=1) > 0).all()
    assert all(p.grad is None for p in classifier.parameters())
    with torch.no_grad():
        alone = torch.cat([classifier(image[None]) for image in images()])
    torch.testing.assert_close(logits.detach(), alone, rtol=1e-4, atol=1e-5)  # batch statistics would show


class Rows(nn.Module):
    """Three classes: the means of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.mean(dim=(2, 3))


def test_classes_out_of_range_and_without_names() -> None:
    classifier = ImageClassifier(Rows(), Preprocess(4, [0.0] * 3, [1.0] * 3), "rows")
    assert classifier.class_index(2) == 2
    for index in (3, -1):
        with pytest.raises(SgoolError, match=rf"`a.target`: expected a class from 0 to 2 of rows, got {index}"):
            classifier.class_index(index, "a.target")
    with pytest.raises(SgoolError, match="rows comes without class names, got 'cat'; give a class's number, 0 to 2"):
        classifier.class_index("cat")


def test_names_that_two_classes_share() -> None:
    classifier = ImageClassifier(Rows(), Preprocess(4, [0.0] * 3, [1.0] * 3), "rows", ["crane", "heron", "Crane"])
    assert classifier.class_index(" Heron ") == 1
    with pytest.raises(SgoolError, match=r"rows has 2 classes named 'crane': \[0, 2\]; give a number"):
        classifier.class_index("crane")


@pytest.mark.parametrize(
    ("source", "model", "state", "message"),
    [
        ("timm", "test_resnett", {"a": torch.ones(1)}, "Unknown timm model 'test_resnett'. Close names: .*test_resnet"),
        ("torchvision", "resnet51", {"a": torch.ones(1)}, "Unknown torchvision model 'resnet51'. Close names: resnet"),
        ("timm", TIMM, {"a": torch.ones(1)}, "expected fc.weight among its tensors, got a"),
        ("timm", TIMM, {"fc.weight": torch.ones(6, 96)}, r"missing: conv1.0.weight, .* and \d+ more"),
        ("torchvision", "resnet18", None, "resnet18 needs a `checkpoint`"),
        ("wsdan", None, None, "source wsdan needs a `checkpoint`"),
    ],
)
def test_wrong_names_and_layouts(
    tmp_path: Path, source: str, model: str | None, state: dict[str, Tensor] | None, message: str
) -> None:
    if state is not None:
        torch.save(state, tmp_path / "own.pth")
    with pytest.raises(SgoolError, match=message):
        load_classifier(source, model, str(tmp_path / "own.pth") if state else None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json as JSON"),
        (lambda folder: (folder / "config.json").write_text('{"labels": ["a"]}'), "must hold 'architecture'"),
        (
            lambda folder: (folder / "config.json").write_text('{"labels": ["a"], "architecture": "no"}'),
            "a name that timm knows",
        ),
    ],
)
def test_damaged_local_folders(timm_network: nn.Module, tmp_path: Path, damage: object, message: str) -> None:
    folder = local_folder(tmp_path / "own", timm_network)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(SgoolError, match=message):
        load_classifier("local", checkpoint=str(folder))
