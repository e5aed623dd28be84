"""The denoising loop: a sampler's moves run by a gradient engine, and its way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sgool.diffusion.engines import Engine
from sgool.diffusion.moves import Move, State
from sgool.diffusion.network import GuidedModel
from sgool.diffusion.schedule import Schedule, Spacing
from sgool.errors import SgoolError


class Sampler(Protocol):
    """A rule that turns a schedule into moves of a state.

    Attributes:
        name: In the configuration.
        num_streams: S, how many latents a chain starts from and ends with (2: EDICT's x and y).
        accepted_streams: The numbers of latents it can start from: S, and for two-step samplers an inverted pair.
        spacing: Whose rules space the timesteps, an argument of `build_schedule`.
    """

    name: str
    num_streams: int
    accepted_streams: tuple[int, ...]
    spacing: Spacing

    def moves(self, schedule: Schedule) -> tuple[Move, ...]:
        """All moves, in order."""
        ...

    def begin(self, latents: Tensor) -> State:
        """The state that latents (S, B, C, h, w) start from."""
        ...

    def finish(self, state: State) -> State:
        """The latents of images, of a last state."""
        ...


def network_calls(sampler: Sampler, schedule: Schedule) -> int:
    """Guided predictions of one forward pass through the chain."""
    return sum(move.calls_network for move in sampler.moves(schedule))


def denoise(latents: Tensor, schedule: Schedule, sampler: Sampler, model: GuidedModel, engine: Engine) -> Tensor:
    """Runs the chain from the first latents to the last.

    Args:
        latents: (S, B, C, h, w), unit variance; or the result of `sgool.diffusion.invert`.
        schedule: The steps, noisiest first.
        sampler: How one step is made.
        model: The network, with prompts for each of the B items.
        engine: How gradients are made.

    Returns:
        Latents at the end of the schedule: (S, B, C, h, w), S = ``sampler.num_streams``.

    Raises:
        SgoolError: Before any network call: wrong shape, dtype or device, latents that are not finite, a sampler that
            the engine cannot run, an unknown prediction type.
    """
    return torch.stack(sampler.finish(run_state(latents, schedule, sampler, model, engine)))


def run_state(latents: Tensor, schedule: Schedule, sampler: Sampler, model: GuidedModel, engine: Engine) -> State:
    """`denoise`, but for the sampler's whole last state, from which an exact inverse leads back."""
    moves = sampler.moves(schedule)
    check_latents(latents, sampler.name, sampler.accepted_streams, model)
    engine.check(sampler.name, moves, latents.dtype)
    return engine.run(sampler.begin(latents), moves, model)


def check_latents(latents: Tensor, name: str, streams: Sequence[int], model: GuidedModel) -> None:
    """Everything that can be wrong with latents, before the network sees them.

    Raises:
        SgoolError: Wrong shape, dtype or device, or numbers that are not finite.
    """
    problems = list(_latent_problems(latents, name, streams, model))
    if problems:
        raise SgoolError("`latents`: " + "; ".join(problems))


def _latent_problems(latents: Tensor, name: str, streams: Sequence[int], model: GuidedModel) -> Iterator[str]:
    channels = model.unet.config.in_channels
    expected = f"({' or '.join(map(str, streams))}, {model.batch_size}, {channels}, h, w)"
    shape = tuple(latents.shape)
    if latents.ndim != 5 or shape[0] not in streams or shape[1:3] != (model.batch_size, channels) or 0 in shape:
        yield f"{name} expects shape {expected}, for one prompt an item and the network's channels, got {shape}"
    if not latents.is_floating_point():
        yield f"expected a floating dtype, got {latents.dtype}"
    if latents.device != model.device:
        yield f"expected the network's device {model.device}, got {latents.device}"
    elif not torch.isfinite(latents.detach()).all():
        yield "expected finite numbers, got NaN or infinity before the first step"
