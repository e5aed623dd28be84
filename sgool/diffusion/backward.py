"""The whole chain as one autograd function: forward without a graph, backward call by call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sgool.diffusion.activations import activation_bytes
from sgool.diffusion.drift import DriftGuard
from sgool.diffusion.moves import Gradients, Move, State
from sgool.diffusion.network import GuidedModel, Trace

#: An inverse that enlarges errors more than this costs float32 too many digits.
_LOSS_OF_DIGITS = 10.0


def run_chain(
    state: State, moves: Sequence[Move], model: GuidedModel, *, budget: int = 0, guard: DriftGuard | None = None
) -> State:
    """Applies all moves to a state and returns the last state; backward recomputes each network call once.

    Args:
        state: K tensors (B, C, h, w).
        moves: The moves, in order.
        model: The guided network that the moves call.
        budget: Bytes of activations that may be kept instead of recomputed; ignored with a guard.
        guard: With None, the network's input of each call is stored. With a guard, only the last state is stored;
            backward undoes the moves, all of which must be invertible, and the guard compares the first state that it
            arrives at with the true one.
    """
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in state):
        for move in moves:
            state = move.apply(state, model(state[move.source], move.step) if move.calls_network else None)
        return state
    plan = _Plan(tuple(moves), model, budget if guard is None else 0, guard, _autocast(state[0].device.type))
    return tuple(_Chain.apply(plan, *state))


def _autocast(device: str) -> dict[str, Any]:
    """Returns the caller's autocast settings, since backward runs after the caller has left its autocast block."""
    if not torch.amp.is_autocast_available(device):
        return {}
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
        "cache_enabled": torch.is_autocast_cache_enabled(),
    }


@dataclass
class _Plan:
    moves: tuple[Move, ...]
    model: GuidedModel
    budget: int
    guard: DriftGuard | None
    autocast: dict[str, Any]
    #: Index of a move -> the activations of its network call that are kept.
    traces: dict[int, Trace] = field(default_factory=dict)

    @property
    def restarts(self) -> list[int]:
        """Indices of the moves that backward does not undo; the state before each of them is stored instead."""
        return [index for index, move in enumerate(self.moves) if move.amplification > _LOSS_OF_DIGITS]

    def forward(self, state: State) -> tuple[State, list[Tensor]]:
        """Returns the last state and the stored tensors: the network's inputs, or the states to restart from."""
        seen: list[Tensor] = []
        states: list[Tensor] = []
        restarts = self.restarts if self.guard is not None else []
        kept: range | None = None if self.budget else range(0)
        for index, move in enumerate(self.moves):
            output = None
            if index in restarts:
                states += state
            if move.calls_network:
                source = state[move.source]
                seen.append(source)
                if kept is None:
                    output, kept = self._measure(index, source)
                elif index in kept:
                    self.traces[index] = self.model.trace(source, move.step)
                    output = self.traces[index].output
                else:
                    output = self.model(source, move.step)
            state = move.apply(state, output)
        return state, seen if self.guard is None else states

    def _measure(self, index: int, source: Tensor) -> tuple[Tensor, range]:
        """Makes the first network call and returns its output and the range of moves whose activations are kept."""
        with activation_bytes(self.model.networks) as counted:
            trace = self.model.trace(source, self.moves[index].step)
        calls = [at for at, move in enumerate(self.moves) if move.calls_network]
        fitting = min(len(calls), self.budget // max(counted.total, 1))
        if fitting == len(calls):
            self.traces[index] = trace
        return trace.output, range(calls[-fitting] if fitting else len(self.moves), len(self.moves))

    def recompute(self) -> AbstractContextManager[Any]:
        """Returns the caller's autocast as a context, for network calls in backward."""
        return torch.autocast(**self.autocast) if self.autocast else nullcontext()

    def backward_stored(self, gradients: Gradients, seen: Sequence[Tensor]) -> Gradients:
        """Returns the gradients of the first state, from the network's stored inputs."""
        remaining = list(seen)
        for index, move in reversed(list(enumerate(self.moves))):
            source_gradient = None
            if move.calls_network:
                source, trace = remaining.pop(), self.traces.pop(index, None)
                cotangent = move.output_gradient(gradients)
                if cotangent is not None:
                    if trace is not None:
                        source_gradient = trace.pull_back(cotangent)
                    else:
                        source_gradient = self.model.vjp(source, move.step, cotangent, self.recompute)[1]
            gradients = move.pull_back(gradients, source_gradient)
        return gradients

    def backward_inverted(self, gradients: Gradients, first: State, last: State, stored: Sequence[Tensor]) -> Gradients:
        """Returns the gradients of the first state; each earlier state is found by undoing a move, or is stored."""
        state, remaining, restarts = last, list(stored), set(self.restarts)
        for index, move in reversed(list(enumerate(self.moves))):
            output = source_gradient = before = None
            if index in restarts:
                before = tuple(remaining[-len(state) :])
                del remaining[-len(state) :]
            if move.calls_network:
                source = move.source_before(state) if before is None else before[move.source]
                cotangent = move.output_gradient(gradients)
                if cotangent is not None:
                    output, source_gradient = self.model.vjp(source, move.step, cotangent, self.recompute)
                elif before is None:
                    with self.recompute():
                        output = self.model(source, move.step)
            state = move.undo(state, output) if before is None else before
            gradients = move.pull_back(gradients, source_gradient)
        assert self.guard is not None
        # A pair whose chain ended in no numbers says nothing of the inversion; its gradient is none either, and it
        # fails alone (`sgool.callbacks`).
        fine = torch.stack([tensor.isfinite().flatten(1).all(dim=1) for tensor in last]).all(dim=0)
        self.guard.check([tensor[fine] for tensor in state], [tensor[fine] for tensor in first])
        return gradients


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, *state: Tensor) -> State:
        ctx.plan, ctx.streams = plan, len(state)
        ctx.set_materialize_grads(False)
        final, stored = plan.forward(state)
        # A move may hand a latent on as it is; an output that is an input needs its own tensor.
        final = tuple(tensor.clone() if any(tensor is given for given in state) else tensor for tensor in final)
        ctx.save_for_backward(*(stored if plan.guard is None else (*state, *final, *stored)))
        return final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        plan, streams, saved = ctx.plan, ctx.streams, ctx.saved_tensors
        if plan.guard is None:
            return None, *plan.backward_stored(gradients, saved)
        first, last, stored = saved[:streams], saved[streams : 2 * streams], saved[2 * streams :]
        return None, *plan.backward_inverted(gradients, first, last, stored)
