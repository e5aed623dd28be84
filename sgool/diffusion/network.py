"""The denoising network under classifier-free guidance, and its vector-Jacobian product."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.family import Conditioning, Family, concatenate, tensors_of
from sgool.models.schedule import Step


@dataclass(frozen=True)
class _Pass:
    """One call of the network: its conditioning, and the weight of its result in the guided output.

    If ``both`` is set, the conditioning holds the negative and the positive prompts, in this order as in diffusers,
    and the result is the guided output itself.
    """

    conditioning: Conditioning
    weight: float = 1.0
    both: bool = False


@dataclass(frozen=True)
class Trace:
    """A network call whose activations are kept; ``output`` (B, C, h, w) is detached."""

    output: Tensor
    _parts: tuple[tuple[Tensor, Tensor, float], ...]
    _on_backward: Callable[[], None]

    def pull_back(self, cotangent: Tensor) -> Tensor:
        """Returns the gradient with respect to the latents, and frees the activations."""
        self._on_backward()
        return _weighted([(_gradient(part, leaf, cotangent, weight), 1.0) for leaf, part, weight in self._parts])


class GuidedModel:
    """The denoising network for latents (B, C, h, w) with classifier-free guidance (Ho and Salimans 2022, eq. 6).

    A ``guidance_scale`` of 1 or less switches guidance off, as in diffusers: one pass for the prompt alone, without the
    negative prompt. Above 1, the conditional and the unconditional pass go through the network as one batch. With
    ``split_guidance`` they go one after the other, which halves the activations and is a little slower. The network
    sees latents in its own dtype; the output has that of the latents.

    Args:
        family: Family whose frozen network is called.
        conditioning: Conditioning of B prompts, as ``family.encode_prompts`` returns it.
        negative: Conditioning of B negative prompts; needed if ``guidance_scale`` is above 1, else not used.
        guidance_scale: Weight of the conditional direction.
        split_guidance: Whether the two passes run one after the other.

    Attributes:
        calls: Guided predictions made through this object, recomputation in backward included. Both passes of
            classifier-free guidance count as one.
        backward_calls: Guided predictions whose gradient with respect to the latents was computed.

    Raises:
        SgoolError: The network is not frozen, the conditioning requires gradients or has another dtype, the negative
            one is missing or has another shape, or the guidance scale is not finite.
    """

    def __init__(
        self,
        family: Family,
        conditioning: Conditioning,
        negative: Conditioning | None = None,
        guidance_scale: float = 1.0,
        *,
        split_guidance: bool = False,
    ) -> None:
        _check(family, conditioning, negative, guidance_scale)
        self.family, self.guidance_scale = family, float(guidance_scale)
        self.batch_size = len(next(tensors_of(conditioning)))
        self._passes: Sequence[_Pass] = (_Pass(conditioning),)
        if guides(guidance_scale) and negative is not None:
            if split_guidance:
                self._passes = (_Pass(negative, 1 - guidance_scale), _Pass(conditioning, guidance_scale))
            else:
                self._passes = (_Pass(concatenate(negative, conditioning), both=True),)
        self.calls = 0
        self.backward_calls = 0

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the network's weights."""
        return self.family.dtype

    @property
    def device(self) -> torch.device:
        """Device of the network's weights."""
        return self.family.device

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Networks behind the predictions; their weights and buffers do not count as activations."""
        return tuple(self.family.denoisers.values())

    @property
    def num_passes(self) -> int:
        """Number of passes of the network in a call: 2 with ``split_guidance`` where there is guidance, else 1."""
        return len(self._passes)

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        """Returns the guided output, of the shape and dtype of ``latents`` and differentiable with respect to them."""
        self.calls += 1
        output = _weighted([(self._run(part, latents, step), part.weight) for part in self._passes])
        if output.requires_grad:  # plain autograd makes its backward passes where nobody else would count them
            output.register_hook(lambda gradient: self._count_backward())
        return output

    def probe(self, latents: Tensor, step: Step) -> Tensor:
        """Returns the output of a single pass, with the activations of no more; it is not counted."""
        return self._run(self._passes[-1], latents, step)

    def trace(self, latents: Tensor, step: Step) -> Trace:
        """Returns the guided output together with its activations, which stay in memory until `Trace.pull_back`."""
        self.calls += 1
        kept = []
        for part in self._passes:
            leaf = latents.detach().requires_grad_(True)
            with torch.enable_grad():
                kept.append((leaf, self._run(part, leaf, step), part.weight))
        output = _weighted([(output.detach(), weight) for _, output, weight in kept])
        return Trace(output, tuple(kept), self._count_backward)

    def vjp(
        self,
        latents: Tensor,
        step: Step,
        cotangent: Tensor,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> tuple[Tensor, Tensor]:
        """Returns the guided output and the gradient with respect to the latents (a vector-Jacobian product).

        At no time are the activations of more than one pass in memory.

        Args:
            latents: (B, C, h, w).
            step: The denoising step.
            cotangent: Gradient with respect to the guided output, of the shape of ``latents``.
            context: Makes a context, such as autocast, for the network's forward pass only.
        """
        self.calls += 1
        self._count_backward()
        outputs, gradients = [], []
        for part in self._passes:
            leaf = latents.detach().requires_grad_(True)
            with torch.enable_grad(), context():
                output = self._run(part, leaf, step)
            gradients.append((_gradient(output, leaf, cotangent, part.weight), 1.0))
            outputs.append((output.detach(), part.weight))
            del output
        return _weighted(outputs), _weighted(gradients)

    def _count_backward(self) -> None:
        self.backward_calls += 1

    def check_latents(self, latents: Tensor, name: str, streams: Sequence[int]) -> None:
        """Raises an error that names everything that is wrong with latents, before the network sees them.

        Args:
            latents: Should be (S, B, C, h, w).
            name: Name of the sampler, for the message.
            streams: The numbers S that the sampler can start from.

        Raises:
            SgoolError: The shape, dtype or device is wrong, or numbers are not finite.
        """
        problems = list(self._latent_problems(latents, name, streams))
        if problems:
            raise SgoolError("`latents`: " + "; ".join(problems))

    def _latent_problems(self, latents: Tensor, name: str, streams: Sequence[int]) -> Iterator[str]:
        channels, sides = self.family.num_channels, len(self.family.latent_shape()) - 1
        names = ("h, w", "F, h, w")[sides - 2]
        expected = f"({' or '.join(map(str, streams))}, {self.batch_size}, {channels}, {names})"
        shape = tuple(latents.shape)
        if (
            latents.ndim != 3 + sides
            or shape[0] not in streams
            or shape[1:3] != (self.batch_size, channels)
            or 0 in shape
        ):
            yield f"{name} expects shape {expected}, for one prompt an item and the network's channels, got {shape}"
        if not latents.is_floating_point():
            yield f"expected a floating dtype, got {latents.dtype}"
        if latents.device != self.device:
            yield f"expected the network's device {self.device}, got {latents.device}"
        elif not torch.isfinite(latents.detach()).all():
            yield "expected finite numbers, got NaN or infinity before the first step"

    def _run(self, part: _Pass, latents: Tensor, step: Step) -> Tensor:
        x = latents.to(self.dtype)
        if part.both:
            x = torch.cat([x, x])
        output = self.family.predict(x, step, part.conditioning).to(latents.dtype)
        if not part.both:
            return output
        unconditional, text = output.chunk(2)
        return unconditional + self.guidance_scale * (text - unconditional)


def guides(guidance_scale: float) -> bool:
    """Whether there is classifier-free guidance at this scale: above 1, the rule of diffusers' pipelines."""
    return guidance_scale > 1


def unread_negative_prompts(guidance_scale: float) -> str:
    """Says why negative prompts that were given are not read."""
    if guides(guidance_scale):
        return (
            f"negative prompts are not read: the model is told `sampler.guidance_scale` ({guidance_scale:g}) and makes "
            "one pass, for the prompt alone"
        )
    return (
        f"negative prompts are not read: `sampler.guidance_scale` is {guidance_scale:g}, and at 1 or less there is no "
        "classifier-free guidance (as in diffusers)"
    )


def _gradient(output: Tensor, leaf: Tensor, cotangent: Tensor, weight: float) -> Tensor:
    """Returns the gradient of ``weight · output`` with respect to ``leaf``.

    The weight is applied before backward, as plain autograd does: in bfloat16 the order changes the result.
    """
    (gradient,) = torch.autograd.grad(output, leaf, cotangent if weight == 1 else cotangent * weight)
    return gradient


def _weighted(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    total, weight = parts[0]
    total = total if weight == 1 else total * weight
    for tensor, weight in parts[1:]:
        total = total + tensor * weight
    return total


def _check(family: Family, conditioning: Conditioning, negative: Conditioning | None, guidance_scale: float) -> None:
    for name, network in family.denoisers.items():
        trained = sum(parameter.requires_grad for parameter in network.parameters())
        if trained:
            _refuse_trained(name, f"{trained} weights")
    if not math.isfinite(guidance_scale):
        raise SgoolError(f"`guidance_scale`: expected a finite number, got {guidance_scale}")
    for name, given in (("prompt_embeds", conditioning), ("negative_prompt_embeds", negative)):
        for tensor in () if given is None else tensors_of(given):
            if tensor.requires_grad:
                _refuse_trained(next(iter(family.denoisers), "network"), f"`{name}`")
            autocast = torch.is_autocast_enabled(tensor.device.type)
            if tensor.is_floating_point() and tensor.dtype != family.dtype and not autocast:
                raise SgoolError(f"`{name}`: expected the network's dtype {family.dtype}, got {tensor.dtype}")
    if guides(guidance_scale) and negative is None:
        raise SgoolError(f"`guidance_scale` {guidance_scale} needs `negative_prompt_embeds`, got None")
    if guides(guidance_scale) and negative is not None:
        for tensor, other in zip(tensors_of(conditioning), tensors_of(negative), strict=True):
            if tensor.shape != other.shape:
                raise SgoolError(
                    f"`negative_prompt_embeds`: expected the shape of `prompt_embeds`, {tuple(tensor.shape)}, got "
                    f"{tuple(other.shape)}"
                )


def _refuse_trained(network: str, what: str) -> NoReturn:
    raise SgoolError(
        f"`{network}`: expected a frozen network, got {what} with requires_grad; gradients go to the latents alone: "
        "call `requires_grad_(False)` first"
    )
