"""What happens around the gradient step, in DOODL's order (Wallace et al. 2023, algorithm 1).

Before the step: add the penalties' gradients, stop pairs, tie the gradients, mask, whiten, scale, clip, set the
learning rate. After it: perturb, tie the latents, whiten, renormalise, keep what was seen. Each works on every pair of
the batch by itself. Each has its place in that order (`PairCallback.order`), wherever it stands in a Trainer's list.
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
from sgool.callbacks.penalties import (
    Gaussianity,
    NormRegularizer,
    PowerSpectrum,
    gaussianity,
    norm_regularizer,
    power_spectrum,
)
from sgool.callbacks.run_writer import RunWriter
from sgool.callbacks.schedule import ScheduleLearningRate
from sgool.callbacks.stopping import EarlyStop
from sgool.callbacks.trajectory import Trajectory
from sgool.callbacks.whiten import WhitenGradient, WhitenLatents, whitened

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
    "PowerSpectrum",
    "Renormalize",
    "RunWriter",
    "ScheduleLearningRate",
    "TieGradients",
    "TieLatents",
    "Trajectory",
    "UpdateCallback",
    "WhitenGradient",
    "WhitenLatents",
    "default_callbacks",
    "gaussianity",
    "norm_regularizer",
    "power_spectrum",
    "whitened",
]
