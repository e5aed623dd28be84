"""Objectives for the latents: named, weighted terms on crops and salient regions of the images.

The names below are imported from their modules on first use: `sgool.objectives.options` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgool.config.lazy import lazy_exports

if TYPE_CHECKING:
    from sgool.objectives.alignment import ImageAlignment as ImageAlignment
    from sgool.objectives.alignment import TextAlignment as TextAlignment
    from sgool.objectives.black_box import BlackBox as BlackBox
    from sgool.objectives.build import build_objective as build_objective
    from sgool.objectives.build import build_term as build_term
    from sgool.objectives.crops import crop_resize as crop_resize
    from sgool.objectives.crops import random_boxes as random_boxes
    from sgool.objectives.function import FunctionTerm as FunctionTerm
    from sgool.objectives.objective import BoundObjective as BoundObjective
    from sgool.objectives.objective import CropSettings as CropSettings
    from sgool.objectives.objective import Objective as Objective
    from sgool.objectives.objective import SaliencySettings as SaliencySettings
    from sgool.objectives.pixels import Color as Color
    from sgool.objectives.pixels import Sharpness as Sharpness
    from sgool.objectives.pixels import Symmetry as Symmetry
    from sgool.objectives.scores import Classification as Classification
    from sgool.objectives.scores import Score as Score
    from sgool.objectives.spherical import spherical_distance as spherical_distance
    from sgool.objectives.terms import SeededTerm as SeededTerm
    from sgool.objectives.terms import Term as Term

_MODULES = {
    "BlackBox": "black_box",
    "BoundObjective": "objective",
    "Classification": "scores",
    "Color": "pixels",
    "CropSettings": "objective",
    "FunctionTerm": "function",
    "ImageAlignment": "alignment",
    "Objective": "objective",
    "SaliencySettings": "objective",
    "Score": "scores",
    "SeededTerm": "terms",
    "Sharpness": "pixels",
    "Symmetry": "pixels",
    "Term": "terms",
    "TextAlignment": "alignment",
    "build_objective": "build",
    "build_term": "build",
    "crop_resize": "crops",
    "random_boxes": "crops",
    "spherical_distance": "spherical",
}

__all__ = [
    "BlackBox",
    "BoundObjective",
    "Classification",
    "Color",
    "CropSettings",
    "FunctionTerm",
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

__getattr__ = lazy_exports(__name__, _MODULES)
