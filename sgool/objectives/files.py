"""Checks, before anything loads, that the files of networks and images which terms and judges need are there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.paths import file_problems

_HPS = "HPS_v2.1_compressed.pt or HPS_v2_compressed.pt, published at https://huggingface.co/xswu/HPSv2"
_IMAGE_REWARD = "ImageReward.pt, published at https://huggingface.co/THUDM/ImageReward"
_MED_CONFIG = "med_config.json, published at https://huggingface.co/THUDM/ImageReward"
_AESTHETIC = (
    "sac+logos+ava1-l14-linearMSE.pth, published at "
    "https://github.com/christophschuhmann/improved-aesthetic-predictor, or "
    "sa_0_4_vit_{b_32,b_16,l_14}_linear.pth, published at https://github.com/LAION-AI/aesthetic-predictor"
)
_WSDAN = (
    "a WS-DAN checkpoint such as bird.pth.tar, published by https://github.com/wvinzh/WS_DAN_PyTorch and "
    "https://github.com/GuYuc/WS-DAN.PyTorch"
)
_TORCHVISION = "the model's weights file, listed at https://pytorch.org/vision/stable/models.html"
#: Source of a classifier -> what its keys should hold; None: the key is not used and must be null.
CLASSIFIERS: dict[str, dict[str, str | None]] = {
    "timm": {"model": "a name of timm such as resnet50.a1_in1k"},
    "torchvision": {"model": "a name of torchvision such as resnet50", "checkpoint": _TORCHVISION},
    "wsdan": {"model": None, "checkpoint": _WSDAN},
    "local": {"model": None, "checkpoint": "a folder with config.json and model.safetensors"},
}


def image_problems(images: str | list[str], key: str) -> Iterator[str]:
    """Yields a problem for each reference image that is missing."""
    for path in [images] if isinstance(images, str) else images:
        yield from file_problems(path, "a reference image (PNG, JPEG or WebP)", key)


def hps_problems(clip: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yields a problem if HPS's weights are given as a file that is missing.

    A tag of open_clip is no file: it has neither a suffix nor a slash.
    """
    weights = clip["pretrained"]
    if weights is not None and (os.sep in weights or Path(weights).suffix in (".pt", ".pth", ".bin", ".safetensors")):
        yield from file_problems(weights, _HPS, f"{where}.clip.pretrained")


def aesthetic_problems(checkpoint: str, where: str) -> Iterator[str]:
    """Yields a problem if the file of the aesthetic head is missing."""
    yield from file_problems(checkpoint, _AESTHETIC, f"{where}.checkpoint")


def image_reward_problems(checkpoint: str, med_config: str | None, where: str) -> Iterator[str]:
    """Yields a problem for each of ImageReward's files that is missing."""
    yield from file_problems(checkpoint, _IMAGE_REWARD, f"{where}.checkpoint")
    if med_config is not None:
        yield from file_problems(med_config, _MED_CONFIG, f"{where}.med_config")


def reference_files(images: str | list[str] | None, terms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the files that a judge of type ``image`` compares with: its own, or else those of the objective."""
    given = [images] if images else []
    given = given or [term["images"] for term in terms.values() if term.get("type") == "image_alignment"]
    files = [[entry] if isinstance(entry, str) else entry for entry in given]
    return list(dict.fromkeys(path for paths in files for path in paths))
