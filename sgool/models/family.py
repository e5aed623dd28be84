"""The interface of a model family: what a chain has to know of a kind of model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from sgool.models.schedule import Schedule, Spacing, Step

#: A network's input for the prompts: a tensor with one row a prompt, or such tensors by name, nested as needed.
Conditioning: TypeAlias = Tensor | Mapping[str, "Conditioning"]


class Family(Protocol):
    """The frozen networks of one kind of model, with the same interface for all kinds.

    `sgool.models.stable_diffusion.StableDiffusion` is the family that comes with sgool. Latents are (B, C, h, w),
    images (B, 3, H, W).
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

    def schedule(self, num_inference_steps: int, spacing: Spacing) -> Schedule:
        """Returns the denoising steps, noisiest first, and the type of the network's predictions.

        Raises:
            SgoolError: The number of steps is out of range, or the model's schedule is not supported.
        """
        ...

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Returns the shape (C, h, w) of the latents of an image of this size; by default the model's own size.

        Raises:
            SgoolError: The model cannot make an image of that size.
        """
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encodes prompts as the network's conditioning, one row each, without gradients."""
        ...

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Returns for each prompt the text that the model does not read; empty where it reads everything."""
        ...

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """Returns the network's output at a denoising step, differentiable with respect to ``x``.

        Args:
            x: Latents (B, C, h, w) in the network's dtype.
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
        """Encodes images (B, 3, H, W) in [0, 1] as latents (B, C, h, w), without gradients."""
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
