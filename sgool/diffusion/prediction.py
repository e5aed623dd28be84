"""Noise and clean latents as linear functions of what a network predicts.

Sources: Ho et al. 2020 (epsilon); Salimans and Ho 2022, appendix D (v); Lipman et al. 2023 (flow).
"""

from __future__ import annotations

from dataclasses import dataclass

from sgool.errors import SgoolError
from sgool.models.flow import FLOW
from sgool.models.schedule import Step

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", FLOW)


@dataclass(frozen=True)
class Affine:
    """Weights of the sum ``latents · x + output · model_output``, where x are the latents that the network saw."""

    latents: float
    output: float


def noise_from(step: Step, prediction_type: str) -> Affine:
    """Returns the weights that give the noise from the latents and the network's output.

    ===================  ===========================================
    ``epsilon``          eps = output
    ``v_prediction``     eps = sigma latents + alpha output
    ``sample``           eps = (latents - alpha output) / sigma
    ``flow_prediction``  eps = latents + alpha output
    ===================  ===========================================

    Raises:
        SgoolError: The prediction type is unknown.
    """
    alpha, sigma = step.alpha, step.sigma
    if prediction_type == "epsilon":
        return Affine(0.0, 1.0)
    if prediction_type == "v_prediction":
        return Affine(sigma, alpha)
    if prediction_type == "sample":
        return Affine(1 / sigma, -alpha / sigma)
    if prediction_type == FLOW:
        return Affine(1.0, alpha)
    raise SgoolError(
        f"`prediction_type`: expected {', '.join(PREDICTION_TYPES[:-1])} or {PREDICTION_TYPES[-1]}, got "
        f"{prediction_type!r}; it comes from the model's scheduler config"
    )


def sample_from(step: Step, prediction_type: str) -> Affine:
    """Returns the weights that give the clean latents from the latents and the network's output.

    They are x0 = (latents - sigma eps) / alpha, simplified for each type.

    Raises:
        SgoolError: The prediction type is unknown.
    """
    alpha, sigma = step.alpha, step.sigma
    if prediction_type == "v_prediction":
        return Affine(alpha, -sigma)
    if prediction_type == "sample":
        return Affine(0.0, 1.0)
    if prediction_type == FLOW:
        return Affine(1.0, -sigma)
    noise_from(step, prediction_type)
    return Affine(1 / alpha, -sigma / alpha)
