"""The noise schedule of one run of the chain, read from a diffusers scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sgool.errors import SgoolError


@dataclass(frozen=True)
class Step:
    """One denoising step, noisiest first.

    Attributes:
        index: 0 for the noisiest.
        timestep: Training timestep ``t`` that the network sees.
        alpha_prod_t: Cumulative product of alphas at ``t``, in (0, 1].
        alpha_prod_t_prev: The same after the step.
    """

    index: int
    timestep: int
    alpha_prod_t: float
    alpha_prod_t_prev: float


@dataclass(frozen=True)
class Schedule:
    """All steps of the chain and what the network predicts ("epsilon", "v_prediction" or "sample")."""

    steps: tuple[Step, ...]
    prediction_type: str = "epsilon"

    def __len__(self) -> int:
        return len(self.steps)


def build_schedule(scheduler: Any, num_inference_steps: int) -> Schedule:
    """Reads timesteps and coefficients from a diffusers scheduler's own configuration.

    Previous timesteps are the next entries of the scheduler's list, not a rounded quotient, so that any number of
    steps is consistent; after the last step stands ``final_alpha_cumprod`` (1 with ``set_alpha_to_one``, else the
    first training alpha). Coefficients are computed in Python floats (float64) from the scheduler's table.

    Args:
        scheduler: A diffusers scheduler with ``alphas_cumprod``; it is not changed.
        num_inference_steps: From 1 to ``scheduler.config.num_train_timesteps``.

    Raises:
        SgoolError: The number of steps is out of range, or the scheduler's schedule is not one of DDPM's or ends in
            pure noise (zero terminal signal), where a DDIM step has no finite coefficients.
    """
    from diffusers import DDIMScheduler

    config = scheduler.config
    if not hasattr(scheduler, "alphas_cumprod"):
        raise SgoolError(
            "`models.path`: expected a model whose scheduler has `alphas_cumprod` (DDIM, PNDM, Euler, ...), "
            f"got {type(scheduler).__name__}; flow-matching models are not supported yet"
        )
    total = int(config.num_train_timesteps)
    if not 1 <= num_inference_steps <= total:
        raise SgoolError(f"`sampler.num_inference_steps`: expected 1 to {total}, got {num_inference_steps}")
    ddim = DDIMScheduler.from_config(config)
    ddim.set_timesteps(num_inference_steps)
    timesteps = [min(int(t), total - 1) for t in ddim.timesteps]
    alphas = [float(a) for a in scheduler.alphas_cumprod]
    if min(alphas[t] for t in timesteps) <= 0:
        raise SgoolError(
            "`models.path`: the scheduler's `alphas_cumprod` reaches 0 at these steps (`rescale_betas_zero_snr`), "
            f"where a DDIM step is undefined; set `timestep_spacing` to leading in {type(scheduler).__name__}'s config"
        )
    # Read from the same table, in its precision, rather than from the scheduler made here.
    final = 1.0 if ddim.config.set_alpha_to_one else alphas[0]
    following = [alphas[t] for t in timesteps[1:]] + [final]
    steps = tuple(
        Step(index, t, alphas[t], previous)
        for index, (t, previous) in enumerate(zip(timesteps, following, strict=True))
    )
    return Schedule(steps, str(ddim.config.prediction_type))
