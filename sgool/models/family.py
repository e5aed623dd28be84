"""What a chain has to know of a model: the one place where networks of another kind are fitted in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from sgool.models.schedule import Schedule, Spacing, Step

#: What a network is told of the prompts: a tensor with one row a prompt, or such tensors by name, nested as needed.
Conditioning: TypeAlias = Tensor | Mapping[str, "Conditioning"]


class Family(Protocol):
    """Frozen networks of one kind, behind what all kinds have in common.

    `sgool.models.stable_diffusion.StableDiffusion` is the one that comes with sgool. B, C, h and w are those of the
    latents; H and W those of the images.
    """

    @property
    def name(self) -> str:
        """What the networks were loaded from."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the denoising network's weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the denoising network's weights."""
        ...

    @property
    def denoisers(self) -> Mapping[str, nn.Module]:
        """The networks that `predict` calls, by the names that diffusers gives them."""
        ...

    @property
    def num_channels(self) -> int:
        """C of the latents."""
        ...

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent, on each side."""
        ...

    def schedule(self, num_inference_steps: int, spacing: Spacing) -> Schedule:
        """The denoising steps, noisiest first, and what the network predicts in them.

        Raises:
            SgoolError: The number of steps is out of range, or the model's schedule is not supported.
        """
        ...

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """(C, h, w) of the latents of an image of so many pixels; by default of the model's own size.

        Raises:
            SgoolError: The model cannot make an image of that size.
        """
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told of the prompts, one row each, without gradients."""
        ...

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Per prompt, the text that the model does not read (empty: it reads all)."""
        ...

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        """The network's output at a step, differentiable with respect to ``x``.

        Args:
            x: (B, C, h, w) in the network's dtype.
            step: The denoising step that starts from ``x``.
            conditioning: B rows.

        Returns:
            (B, C, h, w); what it means is the schedule's ``prediction_type``.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), nominally in [0, 1] and not clamped, of latents (B, C, h, w) of any floating dtype."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of images (B, 3, H, W) in [0, 1], without gradients."""
        ...


def tensors_of(conditioning: Conditioning) -> Iterator[Tensor]:
    """All tensors in it."""
    if isinstance(conditioning, Tensor):
        yield conditioning
    else:
        for part in conditioning.values():
            yield from tensors_of(part)


def concatenate(first: Conditioning, second: Conditioning) -> Conditioning:
    """The rows of the first, then those of the second; both have the same names and shapes."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    assert isinstance(first, Mapping) and isinstance(second, Mapping)
    return {name: concatenate(part, second[name]) for name, part in first.items()}
