"""Builds a saliency detector from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgool.models.networks import Networks
from sgool.saliency.base import SaliencyDetector
from sgool.saliency.options import DETECTORS


def build_detector(options: Mapping[str, Any], networks: Networks) -> SaliencyDetector:
    """Builds the detector of a validated ``saliency.detector``.

    Args:
        options: ``name`` and the detector's own keys; for one of the user's own, ``name`` is "custom".
        networks: The run's networks, from which detectors get theirs.

    Raises:
        ConfigError: The name is unknown, or settings do not fit together.
        SgoolError: Weights, a mask or a layer are missing, or arguments do not fit.
    """
    settings = dict(options)
    return DETECTORS.build(settings.pop("name"), settings, "saliency.detector", {"networks": networks})
