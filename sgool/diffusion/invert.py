"""Inversion: finds first latents that lead to the latents of an image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sgool.diffusion.ddim import DDIM
from sgool.diffusion.moves import Move, State
from sgool.diffusion.network import GuidedModel
from sgool.errors import SgoolError
from sgool.models.schedule import past_pure_noise

if TYPE_CHECKING:
    from sgool.diffusion.chain import Chain

#: Relative rounding error above which an inversion's latents no longer lead to the image.
_RELATIVE_ERROR = 0.01


@dataclass(frozen=True)
class Inversion:
    """First latents that lead to given last ones.

    Attributes:
        latents: (S, B, C, h, w), to be given to a `Chain`. S is 1 for DDIM and 2 for EDICT (x and y). It is 2 for
            two-step samplers as well: their whole first state.
        exact: Whether denoising them gives the last latents back, apart from rounding.
    """

    latents: Tensor
    exact: bool


@torch.no_grad()
def invert_latents(chain: Chain, latents: Tensor, refinements: int = 0) -> Inversion:
    """Runs a chain's sampler backwards; `Chain.invert_latents` describes it."""
    sampler, moves = chain.sampler, chain.moves
    if not getattr(sampler, "has_inverse", False):
        raise SgoolError(
            f"`sampler`: {sampler.name} has no inverse: its steps start from a prediction made before; use edict, "
            "belm or bdia (exact), or ddim (approximate)"
        )
    if not (isinstance(refinements, int) and refinements >= 0):
        raise SgoolError(f"`refinements`: expected a whole number, 0 or more, got {refinements}")
    if any(move.inverse_matrix is None for move in moves):
        raise SgoolError(
            f"`sampler`: the schedule begins in pure noise, and the step of {sampler.name} out of it keeps nothing of "
            f"the latents, so that it cannot be inverted; {past_pure_noise(len(chain.schedule))}"
        )
    # How many latents a whole state has: a sampler with an exact inverse can start from an inverted state.
    size = max(sampler.accepted_streams) if getattr(sampler, "invertible", False) else 1
    chain.network.check_latents(latents, sampler.name, tuple(sorted({1, size})))
    if not getattr(sampler, "invertible", False):
        return Inversion(_approximate(latents[0], moves, chain.network, refinements)[None], exact=False)
    state: State = tuple(latents)
    if len(latents) < size and sampler.num_streams < size:
        state = _with_noisier(latents[0], chain, refinements)
    elif len(latents) < size:
        state = (latents[0],) * size
    _warn_of_rounding(moves, size, latents.dtype)
    for move in reversed(moves):
        output = chain.network(move.source_before(state), move.step) if move.calls_network else None
        state = move.undo(state, output)
    return Inversion(torch.stack(state), exact=True)


def _warn_of_rounding(moves: Sequence[Move], size: int, dtype: torch.dtype) -> None:
    """Warns where the sampler alone, whatever the network does, enlarges rounding errors beyond use."""
    total = torch.eye(size, dtype=torch.float64)
    for move in reversed(moves):
        total = torch.tensor(move.inverse_matrix, dtype=torch.float64) @ total
    error = float(torch.linalg.matrix_norm(total, 2)) * torch.finfo(dtype).eps
    if error > _RELATIVE_ERROR:
        warnings.warn(
            f"inversion in {dtype}: the sampler's way back enlarges rounding errors to about {error:.0e} of the "
            "latents; use float64, fewer steps, belm, or bdia with gamma 1",
            stacklevel=5,  # past torch's wrapper for no_grad and the chain's method, so that it names the caller
        )


def _with_noisier(latents: Tensor, chain: Chain, refinements: int) -> State:
    """Returns the last state of a two-step sampler: the latents, and those before them by one DDIM step backwards."""
    last = [step for step in chain.schedule.steps if step.has_effect][-1:]
    ddim = DDIM().moves(replace(chain.schedule, steps=tuple(last)))
    return latents, _approximate(latents, ddim, chain.network, refinements)


def _approximate(latents: Tensor, moves: Sequence[Move], network: GuidedModel, refinements: int) -> Tensor:
    """Undoes each move with the network's output at a guess of the latents before it."""
    for move in reversed(moves):
        guess = latents
        for _ in range(1 + refinements if move.calls_network else 1):
            output = network(guess, move.step) if move.calls_network else None
            (guess,) = move.undo((latents,), output)
        latents = guess
    return latents
