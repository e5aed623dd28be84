"""Where an image draws the eye: detectors, and the regions that a map holds."""

from __future__ import annotations

from sgool.saliency.base import BindableDetector, SaliencyDetector, normalise_map
from sgool.saliency.build import build_detector
from sgool.saliency.fixed import CentreSaliency, FixedSaliency
from sgool.saliency.grad_cam import GradCam
from sgool.saliency.regions import find_regions
from sgool.saliency.spectral_residual import SpectralResidual
from sgool.saliency.transalnet import TransalnetDetector, load_transalnet

__all__ = [
    "BindableDetector",
    "CentreSaliency",
    "FixedSaliency",
    "GradCam",
    "SaliencyDetector",
    "SpectralResidual",
    "TransalnetDetector",
    "build_detector",
    "find_regions",
    "load_transalnet",
    "normalise_map",
]
