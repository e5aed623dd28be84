"""Methods: how a batch of prompt-seed pairs becomes images."""

from sgool.methods.base import FitSettings, Method, PairResult
from sgool.methods.optimize import LatentOptimization
from sgool.methods.vanilla import Vanilla

__all__ = ["FitSettings", "LatentOptimization", "Method", "PairResult", "Vanilla"]
