"""From an image's latents back to the first ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sgool.diffusion.chain import Sampler, check_latents
from sgool.diffusion.ddim import DDIM
from sgool.diffusion.edict import EDICT
from sgool.diffusion.moves import Move, State
from sgool.diffusion.network import GuidedModel
from sgool.diffusion.schedule import Schedule
from sgool.diffusion.two_step import TwoStep
from sgool.errors import SgoolError

#: Above this the latents that an inversion finds are not those of the image.
_RELATIVE_ERROR = 0.01


@dataclass(frozen=True)
class Inversion:
    """First latents that lead to given last ones.

    Attributes:
        latents: (S, B, C, h, w), for `sgool.diffusion.denoise`. S is 1 for DDIM, 2 for EDICT (x and y) and for
            two-step samplers: the second are the first latents, and with those the first step starts from the first.
        exact: Whether denoising them gives the last latents back but for rounding.
    """

    latents: Tensor
    exact: bool


@torch.no_grad()
def invert(
    latents: Tensor, schedule: Schedule, sampler: Sampler, model: GuidedModel, *, refinements: int = 0
) -> Inversion:
    """Runs a sampler backwards from the latents of an image.

    Exact for EDICT, BDIA and O-BELM. For DDIM approximate: its step is not solvable for what the network saw, so the
    network is asked at the latents after the step instead (Song et al. 2021, section 4.3); ``refinements`` repeats
    that with the better guess, a fixed-point iteration (Pan et al. 2023, "Effective Real Image Editing with
    Accelerated Iterative Diffusion Inversion"), one more network call each, towards the exact inverse. Two-step
    samplers need the latents of one step before the last as well; they come from such an approximate step, which
    changes where the inversion leads, not that denoising leads back.

    Args:
        latents: (1, B, C, h, w), as `sgool.diffusion.encode_images` gives them, or a whole last state (2, B, C, h, w)
            of EDICT or a two-step sampler.
        schedule: That of the chain.
        sampler: That of the chain.
        model: The network; ``guidance_scale`` 1 is usual here, since guidance above 1 amplifies errors.
        refinements: Fixed-point iterations per approximate step.

    Raises:
        SgoolError: DPM-Solver++, which has no inverse; wrong latents; negative refinements.
    """
    if not isinstance(sampler, (DDIM, EDICT, TwoStep)):
        raise SgoolError(
            f"`sampler`: {sampler.name} has no inverse: its steps start from a prediction made before; use edict, "
            "belm or bdia (exact), or ddim (approximate)"
        )
    if not (isinstance(refinements, int) and refinements >= 0):
        raise SgoolError(f"`refinements`: expected a whole number, 0 or more, got {refinements}")
    single = isinstance(sampler, DDIM)
    check_latents(latents, sampler.name, (1,) if single else (1, 2), model)
    moves = sampler.moves(schedule)
    if single:
        return Inversion(_approximate(latents[0], moves, model, refinements)[None], exact=False)
    state: State = (latents[0], latents[-1])
    if isinstance(sampler, TwoStep) and len(latents) == 1:
        state = _with_noisier(latents[0], schedule, model, refinements)
    _warn_of_rounding(moves, latents.dtype)
    for move in reversed(moves):
        output = model(move.source_before(state), move.step) if move.calls_network else None
        state = move.undo(state, output)
    return Inversion(torch.stack(state), exact=True)


def _warn_of_rounding(moves: Sequence[Move], dtype: torch.dtype) -> None:
    """Says so where the sampler alone, whatever the network does, enlarges rounding errors beyond use."""
    total = torch.eye(2, dtype=torch.float64)
    for move in reversed(moves):
        total = torch.tensor(move.inverse_matrix, dtype=torch.float64) @ total
    error = float(torch.linalg.matrix_norm(total, 2)) * torch.finfo(dtype).eps
    if error > _RELATIVE_ERROR:
        warnings.warn(
            f"inversion in {dtype}: the sampler's way back enlarges rounding errors to about {error:.0e} of the "
            "latents; use float64, fewer steps, belm, or bdia with gamma 1",
            stacklevel=3,
        )


def _with_noisier(latents: Tensor, schedule: Schedule, model: GuidedModel, refinements: int) -> State:
    """The last state of a two-step sampler: the latents and those before them, by one DDIM step backwards."""
    last = [step for step in schedule.steps if step.alpha_prod_t != step.alpha_prod_t_prev][-1:]
    ddim = DDIM().moves(replace(schedule, steps=tuple(last)))
    return latents, _approximate(latents, ddim, model, refinements)


def _approximate(latents: Tensor, moves: Sequence[Move], model: GuidedModel, refinements: int) -> Tensor:
    for move in reversed(moves):
        guess = latents
        for _ in range(1 + refinements if move.calls_network else 1):
            output = model(guess, move.step) if move.calls_network else None
            (guess,) = move.undo((latents,), output)
        latents = guess
    return latents
