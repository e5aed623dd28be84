"""Counts the network calls that a chain will make, before it runs, so that methods can be given equal budgets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sgool.diffusion.activations import activation_bytes
from sgool.diffusion.engines import Checkpoint, Direct, Engine, Truncated
from sgool.diffusion.moves import Gradients, Move
from sgool.diffusion.network import GuidedModel


def network_calls(moves: Sequence[Move]) -> int:
    """Counts the guided predictions of one forward pass through the moves."""
    return sum(move.calls_network for move in moves)


def recomputed_calls(
    moves: Sequence[Move], num_streams: int, engine: Engine, network: GuidedModel, latents: Tensor | None
) -> int:
    """Counts the guided predictions that an engine makes again in one backward pass.

    An engine with a budget of memory recomputes less where activations are small. Their size is measured here as the
    engine measures it, with one call of the network, which is not counted.

    Args:
        moves: All moves of the chain.
        num_streams: How many of the last state's latents are differentiated.
        engine: The gradient engine.
        network: The guided network that the moves call.
        latents: Latents (B, C, h, w) for the measurement; their values do not matter. None: what is kept does not
            count, so the result is the most that there may be, whatever the batch and the memory.
    """
    if isinstance(engine, Truncated):
        moves, engine = engine.split(moves)[1], engine.inner
    if isinstance(engine, Direct):
        return 0
    if not isinstance(engine, Checkpoint):  # a chain that runs backwards needs every call, also without a gradient
        return network_calls(moves)
    differentiated = _differentiated_calls(moves, num_streams)
    kept = _kept_calls(moves, engine, network, latents) if engine.memory_mib and latents is not None else 0
    return sum(differentiated[: len(differentiated) - kept])


def differentiated_calls(moves: Sequence[Move], num_streams: int, engine: Engine) -> int:
    """Counts the guided predictions whose gradient one backward pass computes: the same for all exact engines.

    Args:
        moves: All moves of the chain.
        num_streams: How many of the last state's latents are differentiated.
        engine: The gradient engine; `Truncated` differentiates the last steps alone.
    """
    if isinstance(engine, Truncated):
        moves = engine.split(moves)[1]
    return sum(_differentiated_calls(moves, num_streams))


def _differentiated_calls(moves: Sequence[Move], num_streams: int) -> list[bool]:
    """Says for each network call, in order, whether a gradient reaches its output; if not, it is not recomputed."""
    state = len(moves[-1].matrix) if moves else 0
    gradients: Gradients = tuple(torch.ones(()) if k < num_streams else None for k in range(state))
    found = []
    for move in reversed(moves):
        cotangent: Tensor | None = None
        if move.calls_network:
            cotangent = move.output_gradient(gradients)
            found.append(cotangent is not None)
        gradients = move.pull_back(gradients, cotangent)
    return found[::-1]


def _kept_calls(moves: Sequence[Move], engine: Checkpoint, network: GuidedModel, latents: Tensor) -> int:
    calls = [move for move in moves if move.calls_network]
    if not calls:
        return 0
    with activation_bytes(network.networks) as counted:
        network.trace(latents.detach().to(network.device), calls[0].step)
    network.calls -= 1  # the measurement is no part of any image
    return min(len(calls), int(engine.memory_mib * 2**20) // max(counted.total, 1))
