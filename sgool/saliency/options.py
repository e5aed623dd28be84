"""Options of saliency detectors, and the files that they need.

Nothing here imports torch, so that a configuration can be checked before a network loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.config.kinds import Kind
from sgool.config.options import Config, CustomOptions, Options, option, required
from sgool.config.paths import asset_path
from sgool.config.rules import Rule, Schema, choice, flag, integer, list_of, number, optional, text
from sgool.models.options import clip_option

#: Backbone of TranSalNet -> its published weights.
PUBLISHED = {"resnet50": "TranSalNet_Res.pth", "densenet161": "TranSalNet_Dense.pth"}


def _is_box(value: Any) -> bool:
    fraction = number(least=0, most=1)
    if not (isinstance(value, list) and len(value) == 4 and all(map(fraction.accepts, value))):
        return False
    top, left, height, width = value
    # 0.7 + 0.3 may exceed 1 in the last bit.
    return min(height, width) > 0 and top + height <= 1 + 1e-6 and left + width <= 1 + 1e-6


_BOX = Rule("a box [top, left, height, width] in fractions of the image, inside it", _is_box)


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(Options):
    """Base class of the detectors' options; it adds none."""


@dataclass(frozen=True, kw_only=True)
class SpectralResidualOptions(DetectorOptions):
    """Options of the spectral residual."""

    builder = "sgool.saliency.spectral_residual.SpectralResidual"

    scales: list[int] = option([64, 32], list_of(integer(8)))
    blur_sigma: float = option(0.05, number(above=0))


@dataclass(frozen=True, kw_only=True)
class TranSalNetOptions(DetectorOptions):
    """Options of TranSalNet."""

    builder = "sgool.saliency.transalnet.build_transalnet"

    weights: str = required(text())
    backbone: str = option("resnet50", choice("resnet50", "densenet161", "densenet_small"))
    channel_order: str = option("bgr", choice("bgr", "rgb"))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem if the weights are missing."""
        yield from weights_problems(self.weights, self.backbone)


@dataclass(frozen=True, kw_only=True)
class GradCamOptions(DetectorOptions):
    """Options of Grad-CAM with a CLIP."""

    builder = "sgool.saliency.grad_cam.build_grad_cam"

    clip: Mapping[str, Any] = clip_option()
    layer: str | None = option(None, optional(text()))
    query: str | None = option(None, optional(text()))


@dataclass(frozen=True, kw_only=True)
class GradCamPlusPlusOptions(GradCamOptions):
    """Options of Grad-CAM++ with a CLIP."""

    builder = "sgool.saliency.grad_cam.build_grad_cam_pp"


@dataclass(frozen=True, kw_only=True)
class FixedOptions(DetectorOptions):
    """Options of the detector with the same mask or boxes for every image."""

    builder = "sgool.saliency.fixed.build_fixed"

    mask: str | None = option(None, optional(text()))
    boxes: list[list[float]] | None = option(None, optional(list_of(_BOX)))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem if neither or both of mask and boxes are given, or if the mask is missing."""
        if (self.mask is None) == (self.boxes is None):
            given = "neither" if self.mask is None else "both"
            yield f"`{where}`: expected either mask or boxes, got {given}; set the other one to null"
        elif self.mask is not None and not Path(self.mask).expanduser().is_file():
            yield (
                f"`{where}.mask`: there is no file {self.mask!r} (relative paths start at {Path.cwd()}); expected an "
                "image, white where the image is salient"
            )


@dataclass(frozen=True, kw_only=True)
class CenterOptions(DetectorOptions):
    """Options of the detector with a Gaussian around the centre."""

    builder = "sgool.saliency.fixed.CentreSaliency"

    sigma: float = option(0.25, number(above=0))


@dataclass(frozen=True, kw_only=True)
class CustomDetectorOptions(CustomOptions, DetectorOptions):
    """Options of a user's own detector."""


DETECTORS: Kind[DetectorOptions] = Kind(
    word="a detector",
    key="name",
    components={
        "spectral_residual": SpectralResidualOptions,
        "transalnet": TranSalNetOptions,
        "grad_cam": GradCamOptions,
        "grad_cam_pp": GradCamPlusPlusOptions,
        "fixed": FixedOptions,
        "center": CenterOptions,
    },
    custom=CustomDetectorOptions,
    parts=("__call__",),
    docs="docs/saliency.md",
)

#: Rules of the configuration's ``saliency``.
SALIENCY: dict[str, Schema] = {
    "detector": DETECTORS.schema,
    "threshold": number(above=0, most=1),
    "max_regions": integer(0),
    "margin": number(least=0),
    "min_side": number(least=0, most=1),
    "every_n_steps": integer(1),
    "w_global": number(least=0),
    "w_salient": number(least=0),
    "match": choice("prompt", "phrases"),
    "assign": choice("softmin", "hungarian"),
    "match_temperature": number(above=0),
    "match_masses": flag(),
}

#: What keys are where a file of the user's own leaves them out; those of configs/match/prompt.yaml.
SALIENCY_DEFAULTS: dict[str, Any] = {
    "match": "prompt",
    "assign": "softmin",
    "match_temperature": 0.02,
    "match_masses": False,
}


def weights_problems(weights: str, backbone: str) -> Iterator[str]:
    """Yields a problem if the weights are missing: which file is expected, and where it is published."""
    if Path(asset_path(weights)).expanduser().is_file():
        return
    files = " and ".join(f"{name} (backbone {key})" for key, name in PUBLISHED.items())
    yield (
        f"`saliency.detector.weights`: there is no file {weights!r} for backbone {backbone} (relative paths start at "
        f"{Path.cwd()}). Expected weights of TranSalNet: {files}, published by the authors (LJOVO/TranSalNet, links in "
        "its README); fetch one and give its path"
    )
