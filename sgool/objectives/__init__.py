"""What the latents are optimised for: named, weighted terms on crops and salient regions of the images."""

from __future__ import annotations

from sgool.objectives.alignment import ImageAlignment, TextAlignment
from sgool.objectives.black_box import BlackBox
from sgool.objectives.build import build_objective, build_term
from sgool.objectives.crops import crop_resize, random_boxes
from sgool.objectives.objective import BoundObjective, CropSettings, Objective, SaliencySettings
from sgool.objectives.pixels import Color, Sharpness, Symmetry
from sgool.objectives.scores import Classification, Score
from sgool.objectives.spherical import spherical_distance
from sgool.objectives.terms import SeededTerm, Term

__all__ = [
    "BlackBox",
    "BoundObjective",
    "Classification",
    "Color",
    "CropSettings",
    "ImageAlignment",
    "Objective",
    "SaliencySettings",
    "Score",
    "SeededTerm",
    "Sharpness",
    "Symmetry",
    "Term",
    "TextAlignment",
    "build_objective",
    "build_term",
    "crop_resize",
    "random_boxes",
    "spherical_distance",
]
