"""What happens around the gradient step, in DOODL's order (Wallace et al. 2023, algorithm 1).

Before the step: add the penalties' gradients, stop pairs, tie the gradients, mask, scale, clip. After it: perturb, tie
the latents, renormalise. Each works on every pair of the batch by itself. A checkpoint comes last.
"""

from sgool.callbacks.build import default_callbacks
from sgool.callbacks.checkpoint import FitCheckpoint
from sgool.callbacks.gradient import (
    ClipGradient,
    ClipGradientNorm,
    MaskGradient,
    NormalizeGradient,
    TieGradients,
)
from sgool.callbacks.guard import NonFiniteGuard
from sgool.callbacks.latents import Perturb, Renormalize, TieLatents
from sgool.callbacks.penalties import Gaussianity, NormRegularizer, gaussianity, norm_regularizer
from sgool.callbacks.stopping import EarlyStop
from sgool.callbacks.trajectory import Trajectory

__all__ = [
    "ClipGradient",
    "ClipGradientNorm",
    "EarlyStop",
    "FitCheckpoint",
    "Gaussianity",
    "MaskGradient",
    "NonFiniteGuard",
    "NormRegularizer",
    "NormalizeGradient",
    "Perturb",
    "Renormalize",
    "TieGradients",
    "TieLatents",
    "Trajectory",
    "default_callbacks",
    "gaussianity",
    "norm_regularizer",
]
