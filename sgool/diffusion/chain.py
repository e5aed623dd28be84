"""The denoising loop: a sampler's steps run by a gradient engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from sgool.diffusion.ddim import DDIM, Predict
from sgool.diffusion.edict import EDICT
from sgool.diffusion.engines import CheckpointEngine, DirectEngine, Engine
from sgool.diffusion.schedule import Schedule, Step
from sgool.errors import SgoolError


class Sampler(Protocol):
    """A pure, differentiable step over ``num_streams`` latents."""

    name: str
    num_streams: int

    def step(self, latents: Tensor, step: Step, predict: Predict) -> Tensor:
        """Latents (num_streams, B, C, h, w) after one step."""
        ...

    def network_calls(self, steps: tuple[Step, ...]) -> int:
        """Network calls of one forward pass through these steps."""
        ...


_SAMPLERS: dict[str, Callable[..., Sampler]] = {"ddim": DDIM, "edict": EDICT}
_ENGINES: dict[str, Callable[[], Engine]] = {"direct": DirectEngine, "checkpoint": CheckpointEngine}


def build_sampler(name: str, **options: Any) -> Sampler:
    """A sampler by name ("ddim", "edict") with its own options.

    Raises:
        SgoolError: Unknown name or option.
    """
    if name not in _SAMPLERS:
        raise SgoolError(f"`sampler.name`: expected one of {', '.join(_SAMPLERS)}, got {name!r}")
    try:
        return _SAMPLERS[name](**options)
    except TypeError as error:
        raise SgoolError(f"`sampler`: {name} does not take {sorted(options)}: {error}") from error


def build_engine(name: str) -> Engine:
    """A gradient engine by name ("direct", "checkpoint").

    Raises:
        SgoolError: Unknown name.
    """
    if name not in _ENGINES:
        raise SgoolError(f"`sampler.engine`: expected one of {', '.join(_ENGINES)}, got {name!r}")
    return _ENGINES[name]()


def denoise(latents: Tensor, schedule: Schedule, sampler: Sampler, predict: Predict, engine: Engine) -> Tensor:
    """Runs the chain from the first latents to the last.

    Args:
        latents: (num_streams, B, C, h, w), unit variance.
        schedule: The steps, noisiest first.
        sampler: How one step is made.
        predict: ``noise_pred`` from latents (B, C, h, w) and a step.
        engine: How gradients are made.

    Returns:
        Latents of the same shape, at the end of the schedule.

    Raises:
        SgoolError: Wrong number of streams or dimensions, or latents that are not finite.
    """
    if latents.ndim != 5 or latents.shape[0] != sampler.num_streams:
        raise SgoolError(
            f"`latents`: {sampler.name} expects shape ({sampler.num_streams}, B, C, h, w), got {tuple(latents.shape)}"
        )
    if not torch.isfinite(latents.detach()).all():
        raise SgoolError("`latents`: expected finite numbers, got NaN or infinity before the first step")
    return engine.run(latents, [partial(sampler.step, step=step, predict=predict) for step in schedule.steps])
