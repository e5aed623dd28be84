"""Where an image draws the eye: detectors, and the regions that a map holds."""

from __future__ import annotations

from sgool.saliency.base import SaliencyDetector, normalise_map
from sgool.saliency.regions import find_regions
from sgool.saliency.spectral_residual import SpectralResidual

__all__ = ["SaliencyDetector", "SpectralResidual", "find_regions", "normalise_map"]
