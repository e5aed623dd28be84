"""The denoising steps of flow matching, read from a diffusers scheduler."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from sgool.errors import SgoolError
from sgool.models.schedule import Schedule, Step

#: diffusers' name for a network that predicts the velocity of the flow, noise minus clean latents.
FLOW = "flow_prediction"


def is_flow(scheduler: Any) -> bool:
    """Whether a diffusers scheduler goes along straight paths from noise to clean latents (Lipman et al. 2023)."""
    config = scheduler.config
    return not hasattr(scheduler, "alphas_cumprod") or bool(config.get("use_flow_sigmas"))


def flow_schedule(scheduler: Any) -> Schedule:
    """Returns the steps of a flow-matching scheduler whose timesteps are set.

    At noise level s latents are (1 - s) clean + s noise, so ``alpha`` is 1 - s and ``sigma`` is s. The first step
    mostly begins at s = 1, where nothing is left of the clean latents.

    Raises:
        SgoolError: The network predicts something else, or the scheduler calls it several times a step.
    """
    kind = type(scheduler).__name__
    prediction_type = scheduler.config.get("prediction_type", FLOW)
    if not hasattr(scheduler, "sigmas") or prediction_type != FLOW:
        raise SgoolError(
            f"`sampler`: this sampler needs the noise levels of a flow, and {kind} (prediction type {prediction_type}) "
            "has others; use sampler=native"
        )
    levels = [float(sigma) for sigma in scheduler.sigmas]
    timesteps = [float(timestep) for timestep in scheduler.timesteps]
    if len(levels) != len(timesteps) + 1 or any(after >= before for before, after in pairwise(levels)):
        raise SgoolError(
            f"`sampler`: this sampler needs one noise level a step, each below the last, and {kind} has "
            f"{len(levels)} for {len(timesteps)} network calls; use sampler=native"
        )
    rows = zip(timesteps, levels[:-1], levels[1:], strict=True)
    steps = tuple(Step(i, t, 1 - before, before, 1 - after, after) for i, (t, before, after) in enumerate(rows))
    return Schedule(steps, FLOW)
