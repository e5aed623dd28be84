"""Every detector of the configuration, built by the code that a run uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sgool.config.paths import config_folder
from sgool.config.rules import check
from sgool.errors import ConfigError
from sgool.models.networks import Networks
from sgool.run.config import load_config, to_plain
from sgool.saliency import BindableDetector, GradCam, TransalnetDetector, build_detector
from sgool.saliency.options import DETECTORS, PUBLISHED, SALIENCY
from sgool.saliency.transalnet_network import ARCHITECTURES, TranSalNet
from sgool.types import PromptSeed

CHOICES = sorted(path.stem for path in (config_folder() / "saliency").glob("*.yaml"))
PAIRS = (PromptSeed("a red cat"), PromptSeed("two green trees"))


def options(*overrides: str) -> dict:
    return to_plain(load_config([*overrides, "methods=[vanilla]"]))


def networks() -> Networks:
    return Networks(options("models.device=cpu")["models"])


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "transalnet"])
def test_every_shipped_detector_gives_maps(choice: str) -> None:
    detector = build_detector(options(f"saliency={choice}")["saliency"]["detector"], networks())
    bound = detector.bind(PAIRS) if isinstance(detector, BindableDetector) else detector
    with torch.no_grad():
        maps = bound(images())
    assert maps.shape == (2, 1, 64, 64) and maps.isfinite().all()
    assert maps.min() >= 0 and all(float(top) in (0, 1) for top in maps.amax((1, 2, 3)))


def test_the_choices_are_tested_one_by_one() -> None:
    shipped = ["center", "fixed", "grad_cam", "grad_cam_pp", "model", "spectral_residual", "transalnet"]
    shipped += ["transalnet_emoji"]
    assert shipped == CHOICES


def test_weights_of_the_users_own_load_and_are_shared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "own.safetensors"
    save_file(TranSalNet(ARCHITECTURES["densenet_small"]).state_dict(), file)
    detector = options(
        "saliency=transalnet", f"saliency.detector.weights={file}", "saliency.detector.backbone=densenet_small"
    )["saliency"]["detector"]
    shared = networks()
    first = build_detector(detector, shared)
    assert isinstance(first, TransalnetDetector) and first.channel_order == "bgr"
    assert build_detector(detector, shared) is first
    assert build_detector({**detector, "channel_order": "rgb"}, shared) is not first


def test_grad_cam_shares_the_guide() -> None:
    shared, described = networks(), options("saliency=grad_cam_pp")
    detector = build_detector(described["saliency"]["detector"], shared)
    assert isinstance(detector, GradCam) and detector.plus_plus
    assert detector.tower is shared.clip(**described["models"]["guide"])


def test_a_mask_from_a_file(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    described = options("saliency=fixed", f"saliency.detector.mask={tmp_path}/mask.png", "saliency.detector.boxes=null")
    assert torch.equal(
        build_detector(described["saliency"]["detector"], networks())(images()), torch.ones(2, 1, 64, 64)
    )


def test_an_unknown_detector() -> None:
    with pytest.raises(ConfigError, match=r"saliency.detector.name.*expected one of spectral_residual.*got 'gaze'"):
        build_detector({"name": "gaze"}, networks())


# What can be known before anything is loaded


def problems(detector: dict) -> list[str]:
    return list(DETECTORS.problems(detector, "saliency.detector", {}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["saliency=fixed", "saliency.detector.boxes=[[0,0,2,1]]"], "a box .top, left, height, width."),
        (["saliency=fixed", "saliency.detector.boxes=[[0.5,0,0.6,1]]"], "in fractions of the image, inside it"),
        (["saliency=fixed", "saliency.detector.boxes=[]"], "a list that is not empty"),
        (["saliency=center", "saliency.detector.sigma=0"], "a number above 0"),
        (["saliency=transalnet_emoji", "saliency.detector.backbone=vgg"], "resnet50, densenet161 or densenet_small"),
        (["saliency=transalnet_emoji", "saliency.detector.channel_order=gbr"], "bgr or rgb"),
        (["saliency=grad_cam", "saliency.detector.query=' '"], "a text that is not empty, or null"),
        (["saliency=grad_cam", "saliency.detector.querry=cat"], "querry"),
    ],
)
def test_wrong_values_are_found_in_the_configuration(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides)


def test_a_box_may_touch_the_edges() -> None:
    saliency = options("saliency=fixed", "saliency.detector.boxes=[[0.7,0.1,0.3,0.9]]")["saliency"]
    assert check(saliency, SALIENCY, "saliency") == []


def test_files_that_are_missing_are_known_before_anything_loads(tmp_path: Path) -> None:
    transalnet = {"name": "transalnet", "weights": "none.pth", "backbone": "resnet50", "channel_order": "bgr"}
    (problem,) = problems(transalnet)
    assert "`saliency.detector.weights`: there is no file 'none.pth'" in problem
    assert all(name in problem for name in PUBLISHED.values()) and "LJOVO/TranSalNet" in problem
    (tmp_path / "w.pth").touch()
    assert problems({**transalnet, "weights": str(tmp_path / "w.pth")}) == []
    embedded = {**transalnet, "weights": "emoji_world/saliency/transalnet.safetensors"}
    assert problems(embedded) == []
    fixed = {"name": "fixed", "mask": None, "boxes": None}
    assert ["neither" in problem for problem in problems(fixed)] == [True]
    assert ["both" in problem for problem in problems({**fixed, "mask": "m.png", "boxes": [[0, 0, 1, 1]]})] == [True]
    assert ["no file 'm.png'" in problem for problem in problems({**fixed, "mask": "m.png"})] == [True]
    assert problems({"name": "center", "sigma": 0.2}) == []
