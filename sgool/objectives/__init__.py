"""What the latents are optimised for: named, weighted terms on crops and salient regions of the images."""

from __future__ import annotations

from sgool.objectives.crops import crop_resize, random_boxes
from sgool.objectives.objective import BoundObjective, CropSettings, Objective, SaliencySettings
from sgool.objectives.spherical import spherical_distance
from sgool.objectives.terms import Term, TextAlignment

__all__ = [
    "BoundObjective",
    "CropSettings",
    "Objective",
    "SaliencySettings",
    "Term",
    "TextAlignment",
    "crop_resize",
    "random_boxes",
    "spherical_distance",
]
