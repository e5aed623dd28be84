"""The interface of a model family: what a chain has to know of a kind of model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from sgool.models.native import NativeSteps, StepOptions
from sgool.models.schedule import Schedule, Spacing, Step

#: A network's input for the prompts: a tensor with one row a prompt, or such tensors by name, nested as needed.
Conditioning: TypeAlias = Tensor | Mapping[str, "Conditioning"]


@dataclass(frozen=True)
class Defaults:
    """What a model's pipeline does if its user says nothing.

    Attributes:
        num_inference_steps: Number of denoising steps.
        guidance_scale: Weight of classifier-free guidance, or the scale that the network is told.
    """

    num_inference_steps: int
    guidance_scale: float


class Family(Protocol):
    """The frozen networks of one kind of model, with the same interface for all kinds.

    `sgool.config.families` lists those that come with sgool. Latents are (B, C, h, w), of videos (B, C, F, h, w);
    images (B, 3, H, W). A size of None is the model's own.
    """

    @property
    def name(self) -> str:
        """Path or id that the networks were loaded from."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the denoising network's weights."""
        ...

    @property
    def vae_dtype(self) -> torch.dtype:
        """Data type of the autoencoder's weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the denoising network's weights."""
        ...

    @property
    def denoisers(self) -> Mapping[str, nn.Module]:
        """Networks that `predict` calls, by diffusers' names for them."""
        ...

    @property
    def num_channels(self) -> int:
        """Number of channels C of the latents."""
        ...

    @property
    def vae_scale_factor(self) -> int:
        """Factor by which an image's sides are larger than the latents' sides."""
        ...

    @property
    def defaults(self) -> Defaults:
        """What the model's pipeline does by default."""
        ...

    def cfg_scale(self, guidance_scale: float) -> float:
        """Returns the weight of classifier-free guidance at a ``guidance_scale``.

        It is the scale itself, but for a network that is told the scale, which has no such guidance: 1. At 1 or less
        there is none, and negative prompts are not read.

        Raises:
            SgoolError: The model has no guidance at all, and this scale asks for it.
        """
        ...

    def schedule(
        self, num_inference_steps: int, spacing: Spacing, height: int | None = None, width: int | None = None
    ) -> Schedule:
        """Returns the denoising steps, noisiest first, and the type of the network's predictions.

        Raises:
            SgoolError: The number of steps is out of range, or the model's schedule is not supported.
        """
        ...

    def native_steps(
        self, num_inference_steps: int, options: StepOptions, height: int | None = None, width: int | None = None
    ) -> NativeSteps:
        """Returns the steps of the model's own scheduler as coefficients.

        Raises:
            SgoolError: The scheduler is not linear, or does not take the options.
        """
        ...

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Returns the shape (C, h, w) of the latents of an image of this size; by default the model's own size.

        Raises:
            SgoolError: The model cannot make an image of that size.
        """
        ...

    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None,
        guidance_scale: float,
        height: int | None = None,
        width: int | None = None,
    ) -> tuple[Conditioning, Conditioning | None]:
        """Encodes prompts as the network's conditioning, one row each, without gradients.

        Args:
            prompts: The B prompts.
            negative_prompts: As many texts of the unconditional pass, "" for none; None: there is no such pass.
            guidance_scale: Scale of guidance, which some networks are told.
            height: Height of the images, which some networks are told.
            width: Their width.

        Returns:
            The prompts' conditioning and that of the negative prompts. The latter is None without such a pass.
        """
        ...

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Returns for each prompt the text that the model does not read; empty where it reads everything."""
        ...

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """Returns the network's output at a denoising step, differentiable with respect to ``x``.

        Args:
            x: Latents (B, C, h, w) in the network's dtype, already scaled as the network expects them.
            step: The denoising step that starts from ``x``.
            conditioning: Conditioning of B prompts, one row each.

        Returns:
            (B, C, h, w); the schedule's ``prediction_type`` says what it is.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents (B, C, h, w) of any floating dtype to images (B, 3, H, W), nominally in [0, 1], unclamped."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """Encodes images (B, 3, H, W) in [0, 1] as latents (B, C, h, w), without gradients.

        Raises:
            SgoolError: The model has no encoder.
        """
        ...


def tensors_of(conditioning: Conditioning) -> Iterator[Tensor]:
    """Yields all tensors of a conditioning."""
    if isinstance(conditioning, Tensor):
        yield conditioning
    else:
        for part in conditioning.values():
            yield from tensors_of(part)


def concatenate(first: Conditioning, second: Conditioning) -> Conditioning:
    """Concatenates the rows of two conditionings that have the same names and shapes."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    assert isinstance(first, Mapping) and isinstance(second, Mapping)
    return {name: concatenate(part, second[name]) for name, part in first.items()}


def as_dtype(conditioning: Conditioning, dtype: torch.dtype) -> Conditioning:
    """Casts the floating tensors of a conditioning; masks stay as they are."""
    if isinstance(conditioning, Tensor):
        return conditioning.to(dtype) if conditioning.is_floating_point() else conditioning
    return {name: as_dtype(part, dtype) for name, part in conditioning.items()}
