"""The differential equation that the deterministic samplers integrate, one step of it.

They go along dz = drift dtau, where z is the latents over a scale, x = scale z:

=====================  ===========  ===============  ==========================================
model                  scale        tau              drift
=====================  ===========  ===============  ==========================================
diffusion              alpha        sigma / alpha    the noise (Song et al. 2021, eq. 14)
flow matching          1            sigma            the velocity, noise - clean latents
=====================  ===========  ===============  ==========================================

A flow starts where alpha is 0. Its own coordinates need no division by alpha, so the first step is one as any other.
"""

from __future__ import annotations

from sgool.diffusion.prediction import Affine, noise_from
from sgool.models.flow import FLOW
from sgool.models.schedule import Step


def scales(step: Step, prediction_type: str) -> tuple[float, float]:
    """Returns the scales of the latents before and after a step."""
    return (1.0, 1.0) if prediction_type == FLOW else (step.alpha, step.alpha_prev)


def length(step: Step, prediction_type: str) -> float:
    """Returns by how much tau falls in a step."""
    if prediction_type == FLOW:
        return step.sigma - step.sigma_prev
    return step.sigma / step.alpha - step.sigma_prev / step.alpha_prev


def drift(step: Step, prediction_type: str) -> Affine:
    """Returns the weights that give the drift from the latents and the network's output.

    Raises:
        SgoolError: The prediction type is unknown.
    """
    return Affine(0.0, 1.0) if prediction_type == FLOW else noise_from(step, prediction_type)
