"""DDIM with eta 0 (Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12)."""

from __future__ import annotations

from torch import Tensor

from sgool.diffusion.moves import Move, State, linear
from sgool.diffusion.ode import drift
from sgool.diffusion.prediction import noise_from, sample_from
from sgool.errors import SgoolError
from sgool.models.flow import FLOW
from sgool.models.schedule import Schedule, Spacing, Step


def ddim_coefficients(step: Step, prediction_type: str) -> tuple[float, float]:
    """Returns the two factors of one DDIM step: that of the latents and that of the drift, which is the noise.

    ================  ==============================
    name here         Song et al. 2021
    ================  ==============================
    ``alpha``         sqrt(alpha_t)
    ``sigma``         sqrt(1 - alpha_t)
    ``alpha_prev``    sqrt(alpha_{t-1})
    ``sigma_prev``    sqrt(1 - alpha_{t-1})
    ================  ==============================

    x' = (alpha_prev / alpha) x + (sigma_prev - (alpha_prev / alpha) sigma) eps

    For a flow the drift is the velocity v, and the step is Euler's: x' = x + (sigma_prev - sigma) v.

    Raises:
        SgoolError: The step begins in pure noise, where these factors are infinite or nearly so.
    """
    if prediction_type == FLOW:
        return 1.0, step.sigma_prev - step.sigma
    if step.from_pure_noise:
        raise SgoolError(
            "`sampler`: the model's schedule begins in pure noise (`rescale_betas_zero_snr`), where this sampler has "
            "no step; use sampler=ddim or sampler=dpm_solver, or set models.timestep_spacing=leading (with more than "
            "one step)"
        )
    scale = step.alpha_prev / step.alpha
    noise = step.sigma_prev - scale * step.sigma
    return scale, noise


class DDIM:
    """DDIM: one stream of latents and one network call a denoising step; its inverse is approximate.

    Args:
        eta: Must be 0. With random noise in each step, the image would be no function of the first latents.

    Raises:
        SgoolError: ``eta`` is not 0.
    """

    name = "ddim"
    num_streams = 1
    accepted_streams: tuple[int, ...] = (1,)
    spacing: Spacing = "ddim"
    invertible = False
    has_inverse = True
    guidable = True

    def __init__(self, eta: float = 0.0) -> None:
        if eta != 0:
            raise SgoolError(
                f"`sampler.eta`: expected 0, got {eta}: random steps have no inverse and no gradient that two runs "
                "share; use eta 0"
            )

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """Returns one move for each denoising step: x' = scale x + noise eps(x)."""
        moves = []
        for step in schedule.steps:
            if step.from_pure_noise and schedule.prediction_type != FLOW:
                moves.append(_out_of_pure_noise(step, schedule.prediction_type))
                continue
            scale, noise = ddim_coefficients(step, schedule.prediction_type)
            eps = drift(step, schedule.prediction_type)
            moves.append(
                linear(((scale,),), step)
                if noise == 0
                else Move(((scale + noise * eps.latents,),), (noise * eps.output,), 0, step)
            )
        return tuple(moves)

    def begin(self, latents: Tensor) -> State:
        """Returns the first latents (1, B, C, h, w) as the sampler's state."""
        return (latents[0],)

    def finish(self, state: State) -> State:
        """Returns the last state, whose one stream is the image's latents."""
        return state


def _out_of_pure_noise(step: Step, prediction_type: str) -> Move:
    """Returns the move of a step from zero signal: x' = alpha_prev x0 + sigma_prev eps.

    It is DDIM's step before it is solved for x and eps, which needs a division by alpha, of which little or nothing is
    left. A network that predicts v or
    the sample gives both x0 and eps without one. One that predicts the noise gives no x0; its schedules are refused.
    """
    clean, noise = sample_from(step, prediction_type), noise_from(step, prediction_type)
    latents = step.alpha_prev * clean.latents + step.sigma_prev * noise.latents
    return Move(((latents,),), (step.alpha_prev * clean.output + step.sigma_prev * noise.output,), 0, step)
