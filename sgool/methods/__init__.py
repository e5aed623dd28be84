"""Methods: how a batch of prompt-seed pairs becomes images."""

from sgool.methods.base import FitSettings, Method, PairResult
from sgool.methods.best_of_n import BestOfN
from sgool.methods.build import build_method
from sgool.methods.clip_guidance import ClipGuidance
from sgool.methods.optimize import LatentOptimization
from sgool.methods.vanilla import Vanilla

__all__ = [
    "BestOfN",
    "ClipGuidance",
    "FitSettings",
    "LatentOptimization",
    "Method",
    "PairResult",
    "Vanilla",
    "build_method",
]
