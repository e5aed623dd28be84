"""What happens around the gradient step, in DOODL's order (Wallace et al. 2023, algorithm 1).

Before the step: add the penalties' gradients, stop pairs, tie the gradients, mask, scale, clip. After it: perturb, tie
the latents, renormalise, keep what was seen. Each works on every pair of the batch by itself. Each has its place in
that order (`PairCallback.order`), wherever it stands in a Trainer's list.
"""

from sgool.callbacks.base import PairCallback, UpdateCallback
from sgool.callbacks.batch_checkpoint import BatchCheckpoint
from sgool.callbacks.build import default_callbacks
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
from sgool.callbacks.run_writer import RunWriter
from sgool.callbacks.stopping import EarlyStop
from sgool.callbacks.trajectory import Trajectory

__all__ = [
    "BatchCheckpoint",
    "ClipGradient",
    "ClipGradientNorm",
    "EarlyStop",
    "Gaussianity",
    "MaskGradient",
    "NonFiniteGuard",
    "NormRegularizer",
    "NormalizeGradient",
    "PairCallback",
    "Perturb",
    "Renormalize",
    "RunWriter",
    "TieGradients",
    "TieLatents",
    "Trajectory",
    "UpdateCallback",
    "default_callbacks",
    "gaussianity",
    "norm_regularizer",
]
