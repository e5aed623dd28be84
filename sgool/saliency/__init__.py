"""Saliency: detectors that find where people look in an image, and the regions of their maps.

The names below are imported from their modules on first use: `sgool.saliency.options` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgool.config.lazy import lazy_exports

if TYPE_CHECKING:
    from sgool.saliency.base import BindableDetector as BindableDetector
    from sgool.saliency.base import SaliencyDetector as SaliencyDetector
    from sgool.saliency.base import normalise_map as normalise_map
    from sgool.saliency.build import build_detector as build_detector
    from sgool.saliency.fixed import CentreSaliency as CentreSaliency
    from sgool.saliency.fixed import FixedSaliency as FixedSaliency
    from sgool.saliency.grad_cam import GradCam as GradCam
    from sgool.saliency.regions import find_regions as find_regions
    from sgool.saliency.spectral_residual import SpectralResidual as SpectralResidual
    from sgool.saliency.transalnet import TransalnetDetector as TransalnetDetector
    from sgool.saliency.transalnet import load_transalnet as load_transalnet

_MODULES = {
    "BindableDetector": "base",
    "CentreSaliency": "fixed",
    "FixedSaliency": "fixed",
    "GradCam": "grad_cam",
    "SaliencyDetector": "base",
    "SpectralResidual": "spectral_residual",
    "TransalnetDetector": "transalnet",
    "build_detector": "build",
    "find_regions": "regions",
    "load_transalnet": "transalnet",
    "normalise_map": "base",
}

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

__getattr__ = lazy_exports(__name__, _MODULES)
