"""Files that the terms of an objective need: looked for before anything loads, and named with where they come from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.paths import asset_path

_HPS = "HPS_v2.1_compressed.pt or HPS_v2_compressed.pt, published at https://huggingface.co/xswu/HPSv2"
_IMAGE_REWARD = "ImageReward.pt, published at https://huggingface.co/THUDM/ImageReward"
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
#: Type of a term -> key -> the file that belongs there and where it is published.
_FILES: dict[str, dict[str, str]] = {
    "image_reward": {
        "checkpoint": _IMAGE_REWARD,
        "med_config": "med_config.json, published at https://huggingface.co/THUDM/ImageReward",
    },
    "aesthetic": {"checkpoint": _AESTHETIC},
}
#: Source of a classifier -> what belongs into its keys; None: the key is not used and must be null.
_CLASSIFIERS: dict[str, dict[str, str | None]] = {
    "timm": {"model": "a name of timm such as resnet50.a1_in1k"},
    "torchvision": {"model": "a name of torchvision such as resnet50", "checkpoint": _TORCHVISION},
    "wsdan": {"model": None, "checkpoint": _WSDAN},
    "local": {"model": None, "checkpoint": "a folder with config.json and model.safetensors"},
}


def term_problems(terms: Mapping[str, Mapping[str, Any]], where: str = "objective.terms") -> Iterator[str]:
    """What is missing on the disk, or for the source of a classifier, in terms whose single values are sound.

    Args:
        terms: The configuration's ``objective.terms``, or what needs the same files.
        where: The dotted key of ``terms``, for messages.
    """
    for name, term in terms.items():
        key, kind = f"{where}.{name}", str(term["type"])
        if kind == "image_alignment":
            yield from _images(term["images"], f"{key}.images")
        elif kind == "hps":
            yield from _tuned_clip(term["clip"], f"{key}.clip.pretrained")
        elif kind == "classifier":
            yield from _classifier(term, key)
        for entry, what in _FILES.get(kind, {}).items():
            if term[entry] is not None:
                yield from file_problems(term[entry], what, f"{key}.{entry}")


def file_problems(path: str, what: str, key: str) -> Iterator[str]:
    """One sentence if there is no such file: its name, what belongs there, where it is published, and the key."""
    if not Path(asset_path(path)).expanduser().is_file():
        yield (
            f"`{key}`: there is no file {path!r} (relative paths start at {Path.cwd()}). Expected {what}; fetch it and "
            f"give its path with {key}=PATH"
        )


def _images(images: str | list[str], key: str) -> Iterator[str]:
    for path in [images] if isinstance(images, str) else images:
        yield from file_problems(path, "a reference image (PNG, JPEG or WebP)", key)


def _tuned_clip(clip: Mapping[str, Any], key: str) -> Iterator[str]:
    """A tag of open_clip has neither a suffix nor a slash."""
    weights = clip["pretrained"]
    if weights is not None and (os.sep in weights or Path(weights).suffix in (".pt", ".pth", ".bin", ".safetensors")):
        yield from file_problems(weights, _HPS, key)


def _classifier(term: Mapping[str, Any], key: str) -> Iterator[str]:
    source = term["source"]
    for entry, what in _CLASSIFIERS[source].items():
        value = term[entry]
        if what is None and value is not None:
            yield f"`{key}.{entry}`: expected null with source={source}, got {value!r}"
        elif what is not None and value is None:
            yield f"`{key}.{entry}`: source={source} needs one: {what}"
    checkpoint = term["checkpoint"]
    if checkpoint is not None and source == "local":
        if not Path(asset_path(checkpoint)).expanduser().is_dir():
            yield f"`{key}.checkpoint`: expected a folder with config.json and model.safetensors, got {checkpoint!r}"
    elif checkpoint is not None:
        what = _CLASSIFIERS[source].get("checkpoint") or "weights in that model's layout"
        yield from file_problems(checkpoint, what, f"{key}.checkpoint")
    if term["labels"] is not None:
        yield from file_problems(term["labels"], "a text file with one class name a line", f"{key}.labels")
