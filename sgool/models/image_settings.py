"""Preprocessing of whole images from the settings that timm, torchvision and transformers keep for a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sgool.errors import SgoolError
from sgool.models.preprocess import Preprocess
from sgool.models.resize import Interpolation, Resize, ResizeMode

#: timm's ways to make whole images square -> ours.
_CROP_MODES: dict[str, ResizeMode] = {"center": "shortest", "squash": "squash", "border": "longest"}
#: Names of interpolations, and Pillow's numbers of them -> ours.
_INTERPOLATIONS: dict[str, Interpolation] = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "2": "bilinear",
    "3": "bicubic",
}


def timm_preprocess(network: nn.Module, name: str, settings: Mapping[str, Any] | None = None) -> Preprocess:
    """Returns the preprocessing that timm's ``create_transform`` makes for evaluation.

    Args:
        network: A network of timm, which has settings of its own.
        name: Name of the network, for messages.
        settings: ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct`` and ``crop_mode`` that replace the
            network's.

    Raises:
        SgoolError: The input is not square, or the interpolation or crop mode is another than timm's usual ones.
    """
    from timm.data import resolve_model_data_config

    data = {**resolve_model_data_config(network), **(settings or {})}
    given = data["input_size"]
    height, width = (given, given) if isinstance(given, int) else given[-2:]
    if height != width:
        raise SgoolError(f"The network {name} takes {height}x{width} images; expected one with a square input.")
    mode = data["crop_mode"]
    if mode not in _CROP_MODES:
        raise SgoolError(f"The network {name} has crop_mode {mode!r}; expected {', '.join(_CROP_MODES)}.")
    red, green, blue = (round(255 * level) / 255 if mode == "border" else 0.0 for level in data["mean"])
    resize = Resize(
        size=int(height),
        interpolation=_interpolation(data["interpolation"], name),
        resize_size=math.floor(int(height) / float(data["crop_pct"])),
        mode=_CROP_MODES[mode],
        fill=(red, green, blue),
    )
    return Preprocess(resize.size, data["mean"], data["std"], resize=resize)


def torchvision_weights(model: str, checkpoint: str) -> Any:
    """Returns torchvision's published weights of a model, each of which has its own preprocessing and labels.

    Those are taken whose file has the checkpoint's name, or else the model's default ones.
    """
    from torchvision.models import get_model_weights

    published: Any = get_model_weights(model)
    named = [weights for weights in published if Path(weights.url).name == Path(checkpoint).name]
    return named[0] if named else published.DEFAULT


def torchvision_preprocess(weights: Any, name: str) -> Preprocess:
    """Returns the preprocessing of torchvision's published weights."""
    transforms = weights.transforms()
    resize = Resize(
        size=transforms.crop_size[0],
        interpolation=_interpolation(transforms.interpolation.value, name),
        resize_size=transforms.resize_size[0],
    )
    return Preprocess(resize.size, transforms.mean, transforms.std, resize=resize)


def transformers_preprocess(processor: Any, source: str) -> Preprocess:
    """Returns the preprocessing of a CLIP image processor of transformers, whose crop rounds down.

    transformers 5 resizes with torchvision where it is installed, earlier ones with Pillow, as PickScore's authors did;
    `Resize.as_published` does it as they did, whatever release is installed.

    Args:
        processor: The image processor.
        source: Where it comes from, for messages.

    Raises:
        SgoolError: The interpolation is neither bilinear nor bicubic, or there is no crop.
    """
    size, shortest = _side(processor.crop_size, "height"), _side(processor.size, "shortest_edge")
    if size is None:
        raise SgoolError(f"The image settings of {source!r} have no `crop_size`; expected those of a CLIP.")
    resize = Resize(
        size=size,
        interpolation=_interpolation(int(processor.resample), source),
        resize_size=shortest or _side(processor.size, "height"),
        mode="shortest" if shortest else "squash",
        round_crop=False,
    )
    return Preprocess(size, list(processor.image_mean), list(processor.image_std), resize=resize)


def _side(size: Any, name: str) -> int | None:
    """Returns an entry of a processor's size, which is a mapping, an object, or in old files a whole number."""
    if isinstance(size, int):
        return size
    value = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return None if value is None else int(value)


def _interpolation(name: str | int, source: str) -> Interpolation:
    if str(name) not in _INTERPOLATIONS:
        raise SgoolError(f"{source} resizes images with interpolation {name!r}; expected bilinear or bicubic.")
    return _INTERPOLATIONS[str(name)]
