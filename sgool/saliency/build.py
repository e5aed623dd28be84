"""A saliency detector from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgool.models.networks import Networks
from sgool.saliency.base import SaliencyDetector
from sgool.saliency.options import DETECTORS


def build_detector(options: Mapping[str, Any], networks: Networks) -> SaliencyDetector:
    """The detector of a validated ``saliency.detector``.

    Args:
        options: ``name`` and the detector's own keys; for one of the user's own, ``name`` is "custom".
        networks: Where detectors with weights get their networks.

    Raises:
        ConfigError: An unknown name, or settings that do not fit together.
        SgoolError: Weights, a mask or a layer that are not there; arguments that do not fit.
    """
    settings = dict(options)
    return DETECTORS.build(settings.pop("name"), settings, "saliency.detector", {"networks": networks})
