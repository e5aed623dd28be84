"""The denoising network under classifier-free guidance, and its vector-Jacobian product."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion.schedule import Step
from sgool.errors import SgoolError


@dataclass(frozen=True)
class _Pass:
    """One call of the network: its prompt embeddings and the weight of its result in the guided output.

    ``both``: the embeddings are those of both halves of classifier-free guidance, negative first as in diffusers, and
    the result is the guided output itself.
    """

    embeds: Tensor
    weight: float = 1.0
    both: bool = False


@dataclass(frozen=True)
class Trace:
    """A network evaluation whose activations are kept. ``output`` (B, C, h, w) is detached."""

    output: Tensor
    _parts: tuple[tuple[Tensor, Tensor, float], ...]

    def pull_back(self, cotangent: Tensor) -> Tensor:
        """Gradient with respect to the latents; frees the activations."""
        return _weighted([(_gradient(part, leaf, cotangent, weight), 1.0) for leaf, part, weight in self._parts])


class GuidedModel:
    """What the network predicts for latents (B, C, h, w) under classifier-free guidance (Ho and Salimans 2022, eq. 6).

    ``guidance_scale`` 1 is one pass without the negative prompt. Otherwise the conditional and the unconditional pass
    go through the network as one batch, or one after the other with ``split_guidance``: half the activations, a little
    slower. The network sees latents in its own dtype; the output comes back in that of the latents.

    Args:
        unet: A frozen ``UNet2DConditionModel``.
        prompt_embeds: (B, L, D).
        negative_prompt_embeds: (B, L, D); needed unless ``guidance_scale`` is 1.
        guidance_scale: Weight of the conditional direction.
        split_guidance: One pass after the other.

    Attributes:
        calls: Guided predictions made through this object, recomputation in backward included. Both passes of
            classifier-free guidance count as one.

    Raises:
        SgoolError: The network is not frozen, or the embeddings want gradients or are of another dtype, the negative
            ones are missing or of another shape, or the guidance scale is not finite.
    """

    def __init__(
        self,
        unet: Any,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        guidance_scale: float = 1.0,
        *,
        split_guidance: bool = False,
    ) -> None:
        _check(unet, prompt_embeds, negative_prompt_embeds, guidance_scale)
        self.unet, self.guidance_scale = unet, float(guidance_scale)
        self.batch_size = len(prompt_embeds)
        self._passes: Sequence[_Pass] = (_Pass(prompt_embeds),)
        if guidance_scale != 1 and negative_prompt_embeds is not None:
            if split_guidance:
                self._passes = (_Pass(negative_prompt_embeds, 1 - guidance_scale), _Pass(prompt_embeds, guidance_scale))
            else:
                self._passes = (_Pass(torch.cat([negative_prompt_embeds, prompt_embeds]), both=True),)
        self._timesteps: dict[int, Tensor] = {}
        self.calls = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's weights."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Of the network's weights."""
        return torch.device(self.unet.device)

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        """The guided output, of the shape and dtype of ``latents`` and differentiable with respect to them."""
        self.calls += 1
        parts = [(self._run(part, latents, step), part.weight) for part in self._passes]
        return _weighted(parts)

    def trace(self, latents: Tensor, step: Step) -> Trace:
        """The guided output with its activations, which stay until `Trace.pull_back`."""
        self.calls += 1
        kept = []
        for part in self._passes:
            leaf = latents.detach().requires_grad_(True)
            with torch.enable_grad():
                kept.append((leaf, self._run(part, leaf, step), part.weight))
        return Trace(_weighted([(output.detach(), weight) for _, output, weight in kept]), tuple(kept))

    def vjp(
        self,
        latents: Tensor,
        step: Step,
        cotangent: Tensor,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> tuple[Tensor, Tensor]:
        """(guided output, gradient with respect to the latents), never with more than one pass's activations.

        ``context`` is entered around the network (autocast), not around its backward.
        """
        self.calls += 1
        outputs, gradients = [], []
        for part in self._passes:
            leaf = latents.detach().requires_grad_(True)
            with torch.enable_grad(), context():
                output = self._run(part, leaf, step)
            gradients.append((_gradient(output, leaf, cotangent, part.weight), 1.0))
            outputs.append((output.detach(), part.weight))
            del output
        return _weighted(outputs), _weighted(gradients)

    def _timestep(self, step: Step) -> Tensor:
        """As a tensor, made once: a number would be copied to the GPU at every call, and compiled for every value."""
        if step.timestep not in self._timesteps:
            self._timesteps[step.timestep] = torch.tensor(step.timestep, device=self.device)
        return self._timesteps[step.timestep]

    def _run(self, part: _Pass, latents: Tensor, step: Step) -> Tensor:
        x = latents.to(self.dtype)
        if part.both:
            x = torch.cat([x, x])
        output = self.unet(x, self._timestep(step), encoder_hidden_states=part.embeds, return_dict=False)[0]
        output = output.to(latents.dtype)
        if not part.both:
            return output
        unconditional, text = output.chunk(2)
        return unconditional + self.guidance_scale * (text - unconditional)


def _gradient(output: Tensor, leaf: Tensor, cotangent: Tensor, weight: float) -> Tensor:
    """Of ``weight · output``. Weighted before backward, as plain autograd does: in bfloat16 the order shows."""
    (gradient,) = torch.autograd.grad(output, leaf, cotangent if weight == 1 else cotangent * weight)
    return gradient


def _weighted(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    total, weight = parts[0]
    total = total if weight == 1 else total * weight
    for tensor, weight in parts[1:]:
        total = total + tensor * weight
    return total


def _check(unet: Any, prompt_embeds: Tensor, negative: Tensor | None, guidance_scale: float) -> None:
    trained = sum(parameter.requires_grad for parameter in unet.parameters())
    embeds = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative}
    wanting = [name for name, tensor in embeds.items() if tensor is not None and tensor.requires_grad]
    if trained or wanting:
        what = f"{trained} weights" if trained else f"`{wanting[0]}`"
        raise SgoolError(
            f"`unet`: expected a frozen network, got {what} with requires_grad; gradients go to the latents alone: "
            "call `requires_grad_(False)` first"
        )
    if not math.isfinite(guidance_scale):
        raise SgoolError(f"`guidance_scale`: expected a finite number, got {guidance_scale}")
    for name, tensor in embeds.items():
        if tensor is not None and tensor.dtype != unet.dtype and not torch.is_autocast_enabled(tensor.device.type):
            raise SgoolError(f"`{name}`: expected the network's dtype {unet.dtype}, got {tensor.dtype}")
    if guidance_scale != 1 and negative is None:
        raise SgoolError(f"`guidance_scale` {guidance_scale} needs `negative_prompt_embeds`, got None")
    if guidance_scale != 1 and negative is not None and negative.shape != prompt_embeds.shape:
        raise SgoolError(
            f"`negative_prompt_embeds`: expected the shape of `prompt_embeds`, {tuple(prompt_embeds.shape)}, got "
            f"{tuple(negative.shape)}"
        )
