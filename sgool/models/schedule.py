"""The denoising steps of a chain with their noise levels, read from a diffusers scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sgool.errors import SgoolError

#: A weight of the clean latents below which they are pure noise. Stable Diffusion begins at 0.068; with
#: ``rescale_betas_zero_snr`` some schedulers of diffusers have 0 and others 2.4e-4, lest they divide by 0.
_PURE_NOISE = 1e-3
#: What decides on the noise levels and on what the network predicts. Where a file leaves such a key out, the default of
#: the folder's class counts, and not that of the class that is made of it here.
_OWN = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
#: Rule for the timesteps: that of diffusers' DDIMScheduler or of its DPMSolverMultistepScheduler.
Spacing = Literal["ddim", "dpm"]


@dataclass(frozen=True)
class Step:
    """One denoising step: its timestep, and the noise levels before and after it.

    Attributes:
        index: Number of the step, 0 for the noisiest.
        timestep: The network's input for the time, a training timestep ``t``; whole if those of the model are.
        alpha: Weight of the clean latents before the step: latents = alpha clean + sigma noise. In a diffusion model
            it is the square root of ``alphas_cumprod[t]``.
        sigma: Weight of the noise before the step, the square root of ``1 - alphas_cumprod[t]``.
        alpha_prev: The weight of the clean latents after the step.
        sigma_prev: The weight of the noise after the step.
    """

    index: int
    timestep: float
    alpha: float
    sigma: float
    alpha_prev: float
    sigma_prev: float

    @property
    def from_pure_noise(self) -> bool:
        """Whether the step begins where next to nothing is left of the image (zero terminal signal)."""
        return self.alpha <= _PURE_NOISE

    @property
    def has_effect(self) -> bool:
        """Whether the step changes the noise level; a schedule's last step may not."""
        return (self.alpha, self.sigma) != (self.alpha_prev, self.sigma_prev)


@dataclass(frozen=True)
class Schedule:
    """All denoising steps of a chain.

    Attributes:
        steps: The denoising steps, noisiest first.
        prediction_type: What the network predicts: "epsilon", "v_prediction" or "sample".
        first_order_end: Whether a multistep solver makes its last step of first order.
    """

    steps: tuple[Step, ...]
    prediction_type: str = "epsilon"
    first_order_end: bool = True

    def __len__(self) -> int:
        return len(self.steps)


def build_schedule(scheduler: Any, num_inference_steps: int, spacing: Spacing = "ddim") -> Schedule:
    """Reads timesteps and coefficients from a diffusers scheduler's own configuration.

    The timestep after a step is the next entry of the scheduler's list, not a rounded quotient, so that any number of
    steps is consistent. Coefficients are computed in Python floats (float64) from the scheduler's table. The timesteps
    have the scheduler's own spacing ("leading", "trailing" or "linspace"). LCMScheduler and TCDScheduler have a list of
    their own: those of ``original_inference_steps`` timesteps of the distillation that are evenly spaced.

    A single step goes from the last training timestep to no noise, whatever the spacing and the end of the scheduler
    are: "leading" would put it at the first training timestep, where there is nothing to denoise.

    Args:
        scheduler: A diffusers scheduler with ``alphas_cumprod``; it is not changed.
        num_inference_steps: Number of denoising steps, from 1 to ``scheduler.config.num_train_timesteps``.
        spacing: "ddim": timesteps of DDIMScheduler; the last step ends at ``final_alpha_cumprod`` (1 with
            ``set_alpha_to_one`` and for LCMScheduler and TCDScheduler, else the first training alpha). "dpm": timesteps
            and sigmas of DPMSolverMultistepScheduler; the last step ends as its ``final_sigmas_type`` says (default:
            without noise).

    Raises:
        SgoolError: The number of steps is out of range, or the scheduler's schedule is not one of DDPM's or begins in
            pure noise (zero terminal signal) for a network that predicts the noise, which says nothing there.
    """
    config = scheduler.config
    if not hasattr(scheduler, "alphas_cumprod"):
        raise SgoolError(
            "`models.path`: expected a model whose scheduler has `alphas_cumprod` (DDIM, PNDM, Euler, ...), "
            f"got {type(scheduler).__name__}; flow-matching models are not supported yet"
        )
    if config.get("use_flow_sigmas"):
        raise SgoolError(
            "`models.path`: the scheduler has `use_flow_sigmas`; flow-matching models are not supported yet"
        )
    total = int(config.num_train_timesteps)
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, int):
        raise SgoolError(f"`sampler.num_inference_steps`: expected a whole number, got {num_inference_steps!r}")
    if not 1 <= num_inference_steps <= total:
        raise SgoolError(f"`sampler.num_inference_steps`: expected 1 to {total}, got {num_inference_steps}")
    return (_dpm if spacing == "dpm" else _ddim)(scheduler, num_inference_steps)


def _ddim(scheduler: Any, num_inference_steps: int) -> Schedule:
    from diffusers import DDIMScheduler

    config, distilled = scheduler.config, is_distilled(scheduler)
    named = ("timestep_spacing", "steps_offset", "set_alpha_to_one")
    ddim = _remade(DDIMScheduler, scheduler, **{key: config[key] for key in named if config.get(key) is not None})
    prediction_type = str(ddim.config.prediction_type)
    last = int(config.num_train_timesteps) - 1
    if distilled:
        timesteps = _distilled_timesteps(scheduler, num_inference_steps)
    elif num_inference_steps == 1:
        timesteps = [last]
    else:
        ddim.set_timesteps(num_inference_steps)
        # "trailing" has a rounding error for some numbers of steps: one timestep too many, -1.
        timesteps = [min(int(t), last) for t in ddim.timesteps][:num_inference_steps]
    alphas = [float(a) for a in scheduler.alphas_cumprod]
    # The final alpha is read from the same table, in its precision, and not from the scheduler made here.
    final = 1.0 if distilled or num_inference_steps == 1 or ddim.config.set_alpha_to_one else alphas[0]
    return Schedule(_steps(timesteps, [*(alphas[t] for t in timesteps), final], prediction_type), prediction_type)


def _dpm(scheduler: Any, num_inference_steps: int) -> Schedule:
    from diffusers import DPMSolverMultistepScheduler

    options = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "thresholding": False}
    single = {"timestep_spacing": "linspace", "final_sigmas_type": "zero"} if num_inference_steps == 1 else {}
    dpm = _remade(DPMSolverMultistepScheduler, scheduler, **options, **single)
    dpm.set_timesteps(num_inference_steps)
    if num_inference_steps > 1 and dpm.timesteps[0] == dpm.timesteps[-1]:
        # "leading" divides by one step more: with nearly as many steps as in training, all timesteps are 0.
        dpm = _remade(DPMSolverMultistepScheduler, scheduler, **options, timestep_spacing="linspace")
        dpm.set_timesteps(num_inference_steps)
    if is_distilled(scheduler):
        dpm.set_timesteps(timesteps=_distilled_timesteps(scheduler, num_inference_steps))
    elif len(dpm.timesteps) > num_inference_steps:  # as in `_ddim`
        dpm.set_timesteps(timesteps=dpm.timesteps[:num_inference_steps].tolist())
    # diffusers' sigmas belong to x = x0 + sigma eps, so alpha_prod = 1 / (1 + sigma^2).
    alphas = [1 / (1 + float(sigma) ** 2) for sigma in dpm.sigmas]
    config = dpm.config
    first_order_end = bool(config.euler_at_final or (config.lower_order_final and num_inference_steps < 15))
    prediction_type = str(config.prediction_type)
    return Schedule(_steps([int(t) for t in dpm.timesteps], alphas, prediction_type), prediction_type, first_order_end)


def _remade(kind: Any, scheduler: Any, **changes: Any) -> Any:
    """Returns a scheduler of another class with the same noise; the file's other keys are read as diffusers does."""
    own = {key: scheduler.config[key] for key in _OWN if scheduler.config.get(key) is not None}
    return kind.from_config(scheduler.config, **{**own, **changes})


def is_distilled(scheduler: Any) -> bool:
    """Whether a diffusers scheduler has a list of timesteps of its own, that of a consistency distillation."""
    return any(kind.__name__ in ("LCMScheduler", "TCDScheduler") for kind in type(scheduler).__mro__)


def _distilled_timesteps(scheduler: Any, num_inference_steps: int) -> list[int]:
    """Returns the timesteps that a scheduler of a distilled model takes for so many steps."""
    most = int(scheduler.config.original_inference_steps)
    if num_inference_steps > most:
        raise SgoolError(
            f"`sampler.num_inference_steps`: expected 1 to {most}, the `original_inference_steps` of the model's "
            f"{type(scheduler).__name__}, got {num_inference_steps}; models.timestep_spacing=trailing takes more"
        )
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(num_inference_steps)
    return [int(t) for t in own.timesteps]


def respaced(scheduler: Any, steps_offset: int | None = None, timestep_spacing: str | None = None) -> Any:
    """Returns a diffusers scheduler with another offset or spacing of its timesteps; None leaves each as it is.

    Args:
        scheduler: A diffusers scheduler; it is not changed.
        steps_offset: Added to the timesteps of "leading" spacing: 1 for Stable Diffusion, 0 in DOODL's code. A
            scheduler that has no offset, such as those of flow matching, takes 0.
        timestep_spacing: "leading", "trailing" or "linspace". A scheduler of a distilled model, whose timesteps have no
            such spacing (and no offset), is then replaced by a DDIMScheduler of the same noise.

    Raises:
        SgoolError: The scheduler knows no such key.
    """
    given = {"steps_offset": steps_offset, "timestep_spacing": timestep_spacing}
    if steps_offset == 0 and "steps_offset" not in scheduler.config:
        given["steps_offset"] = None  # none is what it has; so `optimization=doodl`, which asks for 0, suits it
    changes = {key: value for key, value in given.items() if value is not None}
    distilled = is_distilled(scheduler)
    if not changes or (distilled and timestep_spacing is None):
        return scheduler
    for key in changes:
        if key not in scheduler.config:
            raise SgoolError(f"`models.{key}`: expected null, since {type(scheduler).__name__} has no {key}")
    from diffusers import DDIMScheduler

    return _remade(DDIMScheduler if distilled else type(scheduler), scheduler, **changes)


def other_scheduler(scheduler: Any, changes: Mapping[str, Any]) -> Any:
    """Returns another scheduler made of a pipeline's own, as ``SchedulerClass.from_config(scheduler.config)`` is.

    Settings that the own scheduler's file leaves out are the defaults of the other class, as in diffusers.

    Args:
        scheduler: The pipeline's own; it is not changed.
        changes: ``class``, the name of the other class (by default the own one), and settings that differ.

    Raises:
        SgoolError: diffusers has no such class, or the class no such setting.
    """
    import diffusers

    settings = dict(changes)
    name = settings.pop("class", None)
    kind = type(scheduler) if name is None else getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise SgoolError(
            f"`models.scheduler.class`: expected a scheduler of diffusers, such as LCMScheduler, got {name!r}"
        )
    known = list(inspect.signature(kind.__init__).parameters)[1:]
    if unknown := [key for key in settings if key not in known]:
        raise SgoolError(
            f"`models.scheduler`: {kind.__name__} has no {', '.join(unknown)}; its settings: {', '.join(known)}"
        )
    try:
        return kind.from_config(scheduler.config, **settings)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise SgoolError(f"`models.scheduler`: {kind.__name__} refuses its settings: {error}") from error


def _steps(timesteps: list[int], alphas_cumprod: list[float], prediction_type: str) -> tuple[Step, ...]:
    """Makes steps from their timesteps and the cumulative products of alphas before each step and after the last.

    Raises:
        SgoolError: A step begins in pure noise, and the network predicts the noise.
    """
    scales = [(alpha_prod**0.5, (1 - alpha_prod) ** 0.5) for alpha_prod in alphas_cumprod]
    rows = zip(timesteps, scales[:-1], scales[1:], strict=True)
    steps = tuple(Step(index, t, *before, *after) for index, (t, before, after) in enumerate(rows))
    if prediction_type == "epsilon" and any(step.from_pure_noise for step in steps):
        raise SgoolError(
            "`models.path`: the schedule begins in pure noise (the scheduler's `rescale_betas_zero_snr`), where the "
            f"noise that the network predicts says nothing of the image; {past_pure_noise(len(steps))}"
        )
    return steps


def past_pure_noise(num_inference_steps: int) -> str:
    """Returns what keeps a schedule out of pure noise, for messages."""
    spacing = "set models.timestep_spacing=leading"
    return spacing if num_inference_steps > 1 else f"{spacing} and take more sampler.num_inference_steps than 1"
