"""What a saliency detector needs besides sound values: files on the disk, and keys that go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.paths import asset_path

#: Backbone of TranSalNet -> its published weights.
PUBLISHED = {"resnet50": "TranSalNet_Res.pth", "densenet161": "TranSalNet_Dense.pth"}


def detector_problems(detector: Mapping[str, Any]) -> Iterator[str]:
    """What is missing for a detector whose single values are sound.

    Args:
        detector: The configuration's ``saliency.detector``.
    """
    if detector["name"] == "transalnet":
        yield from weights_problems(detector["weights"], detector["backbone"])
    elif detector["name"] == "fixed":
        yield from _fixed(detector["mask"], detector["boxes"])


def weights_problems(weights: str, backbone: str) -> Iterator[str]:
    """One sentence if there is no such file: what belongs there, where it is published, and the key."""
    if Path(asset_path(weights)).expanduser().is_file():
        return
    files = " and ".join(f"{name} (backbone {key})" for key, name in PUBLISHED.items())
    yield (
        f"`saliency.detector.weights`: there is no file {weights!r} for backbone {backbone} (relative paths start at "
        f"{Path.cwd()}). Expected weights of TranSalNet: {files}, published by the authors (LJOVO/TranSalNet, links in "
        "its README); fetch one and give its path"
    )


def _fixed(mask: str | None, boxes: list[Any] | None) -> Iterator[str]:
    if (mask is None) == (boxes is None):
        given = "neither" if mask is None else "both"
        yield f"`saliency.detector`: expected either mask or boxes, got {given}; set the other one to null"
    elif mask is not None and not Path(mask).expanduser().is_file():
        yield (
            f"`saliency.detector.mask`: there is no file {mask!r} (relative paths start at {Path.cwd()}); expected an "
            "image, white where the image is salient"
        )
