"""Network calls of a chain, known before it runs: what a method may spend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sgool.diffusion.activations import activation_bytes
from sgool.diffusion.engines import Checkpoint, Direct, Engine, Truncated
from sgool.diffusion.moves import Gradients, Move
from sgool.diffusion.network import GuidedModel


def network_calls(moves: Sequence[Move]) -> int:
    """Guided predictions of one forward pass through the moves."""
    return sum(move.calls_network for move in moves)


def recomputed_calls(
    moves: Sequence[Move], num_streams: int, engine: Engine, network: GuidedModel, latents: Tensor
) -> int:
    """Guided predictions that an engine makes again in one backward pass.

    An engine that keeps activations within a budget of memory decides by their size how much it recomputes: they are
    measured as it does, with one call of the network, which is not counted.

    Args:
        moves: Of the whole chain.
        num_streams: How many of the last state's latents are differentiated.
        engine: How gradients are made.
        network: What the moves call.
        latents: (B, C, h, w), to measure with; their values do not matter.
    """
    if isinstance(engine, Truncated):
        moves, engine = engine.split(moves)[1], engine.inner
    if isinstance(engine, Direct):
        return 0
    if not isinstance(engine, Checkpoint):  # running backwards needs every call, whatever its gradient is
        return network_calls(moves)
    differentiated = _differentiated_calls(moves, num_streams)
    kept = _kept_calls(moves, engine, network, latents) if engine.memory_mib else 0
    return sum(differentiated[: len(differentiated) - kept])


def _differentiated_calls(moves: Sequence[Move], num_streams: int) -> list[bool]:
    """For each network call, in order, whether a gradient reaches its output: only then it is made again."""
    state = len(moves[0].matrix) if moves else 0
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
    network.calls -= 1  # a measurement, no part of any image
    return min(len(calls), int(engine.memory_mib * 2**20) // max(counted.total, 1))
