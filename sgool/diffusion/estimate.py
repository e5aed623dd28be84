"""Estimates the memory of one update before any weights are loaded, by computing with shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgool.diffusion.activations import activation_bytes
from sgool.diffusion.budget import differentiated_calls
from sgool.diffusion.chain import Chain
from sgool.diffusion.engines import Checkpoint, Direct, Engine, Truncated
from sgool.diffusion.network import GuidedModel
from sgool.models.live import LiveBytes


@dataclass(frozen=True)
class Memory:
    """Bytes of one part of a chain, a network call or a decoding, for all pairs of a batch.

    Attributes:
        kept: Activations that autograd keeps between forward and backward.
        peak: The most that is in memory at once in forward and backward, activations included and weights not.
    """

    kept: int
    peak: int


@dataclass(frozen=True)
class Estimate:
    """The memory of one update, without objectives, judges and what the device's driver takes.

    Attributes:
        weights: Bytes of each network's weights on the device.
        call: One guided network call.
        calls: Number of network calls whose gradient is computed.
        decoder: The decoding of one stream's latents.
        stored: Bytes that the engine keeps for the network calls while backward begins.
        total: The peak of the update, weights included.
    """

    weights: Mapping[str, int]
    call: Memory
    calls: int
    decoder: Memory
    stored: int
    total: int


def estimate(
    chain: Chain,
    pairs: int,
    weights: Mapping[str, int],
    computing: AbstractContextManager[Any],
    *,
    in_turns: bool = False,
) -> Estimate:
    """Estimates the memory of one update of a chain whose networks have no weights.

    Args:
        chain: The chain, over a pipeline of `sgool.models.outline.outline`.
        pairs: Number of pairs of a batch.
        weights: Bytes of each network's weights on the device.
        computing: The context in which its networks compute shapes.
        in_turns: Whether one network at a time is on the device (`sgool.models.offload.Turns`).
    """
    # Text encoders return real zeros, so prompts are encoded outside of the context.
    prompted = chain.with_prompts([""] * pairs)
    shape, step = (pairs, *chain.latent_shape()), next(move.step for move in chain.moves if move.calls_network)
    with computing:
        call = _call(prompted.network, shape, step)
        decoder = _decoding(chain, shape)
    latent = 4 * torch.Size(shape).numel()
    calls = differentiated_calls(chain.moves, chain.num_streams, chain.engine)
    stored, running = _engine(chain.engine, call, calls, latent * chain.num_streams)
    decoding = decoder.peak + (chain.num_decoded - 1) * decoder.kept
    working = {name: weight + (decoding if name == "vae" else running) for name, weight in weights.items()}
    at_once = max(working.values()) if in_turns else sum(weights.values()) + max(running, decoding)
    total = stored + at_once
    return Estimate(weights, call, calls, decoder, stored, total)


def _engine(engine: Engine, call: Memory, calls: int, latents: int) -> tuple[int, int]:
    """Returns what an engine stores for all calls, and what the backward pass of one call takes beside it."""
    if isinstance(engine, Truncated):
        engine = engine.inner
    if isinstance(engine, Direct):
        return calls * call.kept, call.peak - call.kept
    if isinstance(engine, Checkpoint):
        fitting = min(calls, int(engine.memory_mib * 2**20) // max(call.kept, 1))
        # Backward begins with the calls that are kept, and has freed them before it computes one again.
        return calls * latents + fitting * call.kept, call.peak - (call.kept if fitting else 0)
    return 2 * latents, call.peak


def _call(model: GuidedModel, shape: tuple[int, ...], step: Any) -> Memory:
    latents = torch.empty(shape)
    with LiveBytes(_own(model.networks)) as live, activation_bytes(model.networks) as counted:
        model.vjp(latents, step, latents)
    kept = counted.total
    if model.num_passes > 1:  # one after the other: the second may have been counted in the place of the first
        with torch.enable_grad(), activation_bytes(model.networks) as counted:
            model.probe(latents.requires_grad_(True), step)
        kept = counted.total * model.num_passes
    return Memory(kept, live.peak)


def _decoding(chain: Chain, shape: tuple[int, ...]) -> Memory:
    leaf = torch.empty(shape, requires_grad=True)
    vae: Any = getattr(chain.family, "vae", None)
    with LiveBytes(_own([vae] if isinstance(vae, nn.Module) else [])) as live:
        images = chain.decode(leaf)
        kept = live.now
        torch.autograd.grad(images, leaf, torch.empty_like(images))
    return Memory(kept, live.peak)


def _own(networks: Iterable[nn.Module]) -> list[Tensor]:
    return [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
