"""Gradient engines: how the chain keeps, or recomputes, what backward needs. All give the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

StepFunction = Callable[[Tensor], Tensor]


class Engine(Protocol):
    """Runs the steps of a chain one after the other."""

    name: str
    #: Network calls of forward and backward together, as a multiple of those of forward.
    calls_factor: int

    def run(self, latents: Tensor, steps: Sequence[StepFunction]) -> Tensor:
        """The latents after all steps, differentiable with respect to the first ones."""
        ...


class DirectEngine:
    """Plain autograd: fastest and exact, but stores every activation (gigabytes a step for Stable Diffusion).

    Use it as the oracle in tests and for a few steps of a small network.
    """

    name = "direct"
    calls_factor = 1

    def run(self, latents: Tensor, steps: Sequence[StepFunction]) -> Tensor:
        """The latents after all steps."""
        for step in steps:
            latents = step(latents)
        return latents


class CheckpointEngine:
    """Stores the latents of each step and recomputes the network, with graph, in backward.

    Memory: that of one step's activations, plus one copy of the latents a step. Time: one more forward pass of the
    chain. Works with every sampler and dtype. The chain has no randomness, so no RNG state is kept.
    """

    name = "checkpoint"
    calls_factor = 2

    def run(self, latents: Tensor, steps: Sequence[StepFunction]) -> Tensor:
        """The latents after all steps."""
        if not torch.is_grad_enabled() or not latents.requires_grad:
            return DirectEngine().run(latents, steps)
        for step in steps:
            latents = checkpoint(step, latents, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
        return latents
