"""EDICT as the public DOODL reference runs it: a memcnn-style wrapper around each step.

Forward runs a step without a graph and keeps its inputs; backward runs the step again with one and differentiates it
with respect to its inputs *and the network's weights*, which require gradients there. Both passes of classifier-free
guidance go through the network one after the other. Nothing here comes from sgool but the schedule's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sgool.models.schedule import Schedule, Step

Pair = tuple[Tensor, Tensor]


class _Wrapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Callable[[Tensor, Tensor], Pair], x: Tensor, y: Tensor, *weights: Tensor) -> Pair:
        ctx.step, ctx.weights = step, weights
        ctx.save_for_backward(x, y)
        with torch.no_grad():
            return step(x, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs = [tensor.detach().requires_grad_(True) for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = ctx.step(*inputs)
        found = torch.autograd.grad(outputs, (*inputs, *ctx.weights), gradients, allow_unused=True)
        return None, *found


class BaselineEDICT:
    """The chain of (x, y) with the network's weights in the graph.

    Attributes:
        passes: Calls of the network, each of one half of the guidance.
    """

    def __init__(
        self, unet: Any, embeds: Tensor, negative: Tensor, guidance_scale: float, mixing_coeff: float = 0.93
    ) -> None:
        self.unet, self.embeds, self.negative, self.scale = unet, embeds, negative, guidance_scale
        self.p = mixing_coeff
        self.passes = 0

    def __call__(self, latents: Tensor, schedule: Schedule) -> Tensor:
        """Last latents (2, B, C, h, w) of first ones of that shape."""
        x, y = latents
        weights = tuple(self.unet.parameters())
        for step in schedule.steps:
            x, y = _Wrapped.apply(lambda x, y, step=step: self._step(x, y, step), x, y, *weights)
        return torch.stack((x, y))

    def _step(self, x: Tensor, y: Tensor, step: Step) -> Pair:
        scale = step.alpha_prev / step.alpha
        noise = step.sigma_prev - scale * step.sigma
        if step.index % 2 == 0:
            x = scale * x + noise * self._eps(y, step)
            y = scale * y + noise * self._eps(x, step)
        else:
            y = scale * y + noise * self._eps(x, step)
            x = scale * x + noise * self._eps(y, step)
        x = self.p * x + (1 - self.p) * y
        return x, self.p * y + (1 - self.p) * x

    def _eps(self, latents: Tensor, step: Step) -> Tensor:
        unconditional, text = (
            self.unet(latents, step.timestep, encoder_hidden_states=embeds).sample
            for embeds in (self.negative, self.embeds)
        )
        self.passes += 2
        return unconditional + self.scale * (text - unconditional)
