"""Gradient engines decide what of a chain is kept for backward and what is computed again.

All are exact except `Truncated`. With N network calls in a forward pass (both passes of classifier-free guidance count
as one):

=============  ======================  ==========================================================
engine         calls in backward       memory between forward and backward
=============  ======================  ==========================================================
`Direct`       0                       activations of N calls
`Checkpoint`   N - kept                N latents, and the activations of the calls that fit ``memory_mib``
`Reversible`   N                       2 states, and one before each move that is undone with a loss of digits
=============  ======================  ==========================================================

Weights are frozen, so backward computes only the gradients of the network's inputs. For each call this costs about as
much as one more call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from sgool.diffusion.backward import run_chain
from sgool.diffusion.drift import DriftGuard
from sgool.diffusion.moves import Move, State
from sgool.diffusion.network import GuidedModel
from sgool.errors import SgoolError


class Engine(Protocol):
    """Runs the moves of a chain one after the other, and makes their gradients.

    Attributes:
        name: Name of the engine in the configuration.
    """

    name: str

    def check(self, sampler: str, moves: Sequence[Move], dtype: torch.dtype) -> None:
        """Raises a SgoolError, before any network call, where the engine cannot run these moves."""
        ...

    def run(self, state: State, moves: Sequence[Move], model: GuidedModel) -> State:
        """Applies all moves and returns the last state, differentiable with respect to the first one."""
        ...


class Direct:
    """Plain autograd: every activation is stored (gigabytes a step for Stable Diffusion).

    It is the fastest engine where memory suffices, it can be differentiated twice, and the tests compare the others
    with it.
    """

    name = "direct"

    def check(self, sampler: str, moves: Sequence[Move], dtype: torch.dtype) -> None:
        """Accepts every sampler and dtype."""

    def run(self, state: State, moves: Sequence[Move], model: GuidedModel) -> State:
        """Applies all moves and returns the last state."""
        for move in moves:
            output = model(state[move.source], move.step) if move.calls_network else None
            state = move.apply(state, output)
        return state


class Checkpoint:
    """Stores the network's input of each call, and calls the network again in backward, with activations.

    It works with every sampler and dtype, since the recomputation starts from the very same numbers.

    Args:
        memory_mib: Budget in MiB for activations that are kept instead of recomputed: those of as many of the last
            calls as fit. Their size is measured at the first call. 0 keeps none. On a large GPU, free memory can save
            up to a third of the time.

    Raises:
        SgoolError: The budget is negative or not finite.
    """

    name = "checkpoint"

    def __init__(self, memory_mib: float = 0) -> None:
        if not (memory_mib >= 0 and math.isfinite(memory_mib)):
            raise SgoolError(f"`engine.memory_mib`: expected a finite number of MiB, 0 or more, got {memory_mib}")
        self.memory_mib = float(memory_mib)

    def check(self, sampler: str, moves: Sequence[Move], dtype: torch.dtype) -> None:
        """Accepts every sampler and dtype."""

    def run(self, state: State, moves: Sequence[Move], model: GuidedModel) -> State:
        """Applies all moves and returns the last state."""
        return run_chain(state, moves, model, budget=int(self.memory_mib * 2**20))


class Reversible:
    """Stores the last state and runs the sampler backwards, so that memory does not grow with the number of steps.

    One network call gives both the inverse and the vector-Jacobian product, so it costs no more calls than
    `Checkpoint`, and saves one copy of the latents a call. Inversion amplifies rounding. Before a move that is undone
    with a large loss of digits (O-BELM's last step after a large one) the state is stored as well. After each backward
    pass the first latents that it arrived at are compared with the true ones. A network in half precision may round
    its recovered input to another number than the first time, which shows as drift.

    Args:
        warn_drift: Relative error of the first latents (largest difference over their standard deviation) above which
            to warn.
        max_drift: Relative error above which to raise, since the gradient is then that of another point.

    Raises:
        SgoolError: The thresholds are not 0 < warn_drift <= max_drift.
    """

    name = "reversible"

    def __init__(self, warn_drift: float = 1e-3, max_drift: float = 1e-2) -> None:
        if not 0 < warn_drift <= max_drift:
            raise SgoolError(
                "`engine.warn_drift`, `engine.max_drift`: expected 0 < warn_drift <= max_drift, got "
                f"{warn_drift} and {max_drift}"
            )
        self._guard = DriftGuard(warn_drift, max_drift)

    def check(self, sampler: str, moves: Sequence[Move], dtype: torch.dtype) -> None:
        """Refuses samplers without an exact inverse, and latents in half precision."""
        if not all(move.invertible for move in moves):
            raise SgoolError(
                f"`engine`: reversible needs a sampler with an exact inverse (edict, bdia, belm); {sampler} has none: "
                "its steps change the very latents that the network saw; use engine=checkpoint"
            )
        if dtype in (torch.float16, torch.bfloat16):
            raise SgoolError(
                f"`engine`: reversible needs latents in float32 or float64, got {dtype}: rounding would be amplified "
                "beyond use; use engine=checkpoint"
            )

    def run(self, state: State, moves: Sequence[Move], model: GuidedModel) -> State:
        """Applies all moves and returns the last state."""
        return run_chain(state, moves, model, guard=self._guard)


class Truncated:
    """Differentiates only the last denoising steps (DRaFT-K, Clark et al. 2024): cheaper, and **biased**.

    In the steps before them the network's output counts as a constant. The gradient passes through the sampler's own
    coefficients there, but not through the network's Jacobian.

    Args:
        gradient_steps: K, how many of the last steps (of those with a network call) are differentiated in full.
        inner: The engine of those steps.

    Raises:
        SgoolError: K is below 1.
    """

    name = "truncated"

    def __init__(self, gradient_steps: int, inner: Engine) -> None:
        if not (isinstance(gradient_steps, int) and gradient_steps >= 1):
            raise SgoolError(
                f"`engine.gradient_steps`: expected a whole number, 1 or more, or null for all, got {gradient_steps}"
            )
        self.gradient_steps, self.inner = gradient_steps, inner

    def check(self, sampler: str, moves: Sequence[Move], dtype: torch.dtype) -> None:
        """Lets the inner engine check the moves of the last steps."""
        self.inner.check(sampler, self.split(moves)[1], dtype)

    def run(self, state: State, moves: Sequence[Move], model: GuidedModel) -> State:
        """Applies all moves and returns the last state."""
        frozen, differentiated = self.split(moves)
        for move in frozen:
            with torch.no_grad():
                output = model(state[move.source], move.step) if move.calls_network else None
            state = move.apply(state, output)
        return self.inner.run(state, differentiated, model)

    def split(self, moves: Sequence[Move]) -> tuple[Sequence[Move], Sequence[Move]]:
        """Splits the moves into those whose network output counts as a constant and those that are differentiated."""
        indices = sorted({move.step.index for move in moves if move.calls_network})
        first = indices[-self.gradient_steps] if self.gradient_steps <= len(indices) else 0
        frozen = sum(move.step.index < first for move in moves)
        return moves[:frozen], moves[frozen:]
