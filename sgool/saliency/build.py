"""A saliency detector from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sgool.errors import ConfigError
from sgool.models.networks import Networks
from sgool.saliency.base import SaliencyDetector
from sgool.saliency.fixed import CentreSaliency, FixedSaliency, read_mask
from sgool.saliency.grad_cam import GradCam
from sgool.saliency.spectral_residual import SpectralResidual
from sgool.saliency.transalnet import TransalnetDetector, load_transalnet


def build_detector(options: Mapping[str, Any], networks: Networks) -> SaliencyDetector:
    """The detector of a validated ``saliency.detector``.

    Args:
        options: ``name`` and the detector's own keys.
        networks: Where detectors with weights get their networks.

    Raises:
        ConfigError: Settings that do not fit together.
        SgoolError: Weights, a mask or a layer that are not there.
    """
    settings = dict(options)
    name = settings.pop("name")
    if name not in _BUILDERS:
        raise ConfigError([f"`saliency.detector.name`: expected {', '.join(_BUILDERS)}, got {name!r}"])
    return _BUILDERS[name](settings, networks)


def _spectral_residual(settings: dict[str, Any], networks: Networks) -> SaliencyDetector:
    return SpectralResidual(**settings)


def _transalnet(settings: dict[str, Any], networks: Networks) -> TransalnetDetector:
    key = ("transalnet", *sorted(settings.items()))
    return networks.shared(key, lambda: load_transalnet(**settings, device=networks.device))


def _grad_cam(settings: dict[str, Any], networks: Networks) -> GradCam:
    return GradCam(networks.clip(**settings.pop("clip")), **settings)


def _grad_cam_pp(settings: dict[str, Any], networks: Networks) -> GradCam:
    return GradCam(networks.clip(**settings.pop("clip")), plus_plus=True, **settings)


def _fixed(settings: dict[str, Any], networks: Networks) -> FixedSaliency:
    mask, boxes = settings["mask"], settings["boxes"]
    return FixedSaliency(None if mask is None else read_mask(mask), boxes)


def _center(settings: dict[str, Any], networks: Networks) -> CentreSaliency:
    return CentreSaliency(**settings)


_BUILDERS: dict[str, Callable[[dict[str, Any], Networks], SaliencyDetector]] = {
    "spectral_residual": _spectral_residual,
    "transalnet": _transalnet,
    "grad_cam": _grad_cam,
    "grad_cam_pp": _grad_cam_pp,
    "fixed": _fixed,
    "center": _center,
}
