"""Network calls of an optimisation, known before it runs: what `best_of_n` may spend."""

from __future__ import annotations

import torch
from torch import Tensor

from sgool.diffusion.activations import activation_bytes
from sgool.diffusion.engines import Checkpoint, Direct, Engine, Truncated
from sgool.diffusion.moves import Gradients, Move
from sgool.methods.latent_pairs import LatentPairModule


def optimization_calls(module: LatentPairModule, num_optimization_steps: int) -> int:
    """What an optimisation with this module's sampler and engine is recorded to use.

    Each update is a forward pass and what the engine recomputes in backward; the latents after the last one are
    evaluated without gradients. An engine that keeps activations within a budget of memory decides by their size how
    much it recomputes: they are measured as it does, with one call of the network.

    Args:
        module: Holds the pairs, the sampler, the engine and the network.
        num_optimization_steps: Updates.
    """
    forward = sampling_calls(module)
    return num_optimization_steps * (forward + _recomputed(module)) + forward


def sampling_calls(module: LatentPairModule) -> int:
    """Network calls of one image."""
    return sum(move.calls_network for move in module.sampler.moves(module.schedule))


def _recomputed(module: LatentPairModule) -> int:
    """Network calls in one backward pass."""
    moves: list[Move] = list(module.sampler.moves(module.schedule))
    engine: Engine = module.engine
    if isinstance(engine, Truncated):
        moves, engine = list(engine.split(moves)[1]), engine.inner
    if isinstance(engine, Direct):
        return 0
    if not isinstance(engine, Checkpoint):  # running backwards needs every call, whatever its gradient is
        return sum(move.calls_network for move in moves)
    differentiated = _differentiated_calls(moves, module.sampler.num_streams)
    kept = _kept_calls(module, engine, moves) if engine.memory_mib else 0
    return sum(differentiated[: len(differentiated) - kept])


def _differentiated_calls(moves: list[Move], num_streams: int) -> list[bool]:
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


def _kept_calls(module: LatentPairModule, engine: Checkpoint, moves: list[Move]) -> int:
    calls = [move for move in moves if move.calls_network]
    latents = module.latents[0].detach().to(module.guided_model.device)
    with activation_bytes(module.guided_model.unet) as counted:
        module.guided_model.trace(latents, calls[0].step)
    module.guided_model.calls -= 1  # a measurement, no part of any image
    return min(len(calls), int(engine.memory_mib * 2**20) // max(counted.total, 1))
