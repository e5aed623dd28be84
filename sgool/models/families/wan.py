"""Wan 2.1: videos, and images as videos of one frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.autoencoder import decode_scaled
from sgool.models.families.flow import FlowFamily
from sgool.models.family import Conditioning


class Wan(FlowFamily):
    """The family of ``WanPipeline``: latents (B, C, F, h, w), with a mean and a deviation of each channel.

    ``num_frames`` of ``call`` is the number of frames, a multiple of the autoencoder's factor in time plus 1. Images
    are (B, 3, H, W) for one frame, else (B, 3, frames, H, W).
    """

    tokenizers = {"tokenizer": "max_sequence_length"}  # noqa: RUF012

    def __init__(self, pipeline: Any, *args: Any, **options: Any) -> None:
        second = getattr(pipeline, "transformer_2", None)
        if second is not None or getattr(pipeline.config, "boundary_ratio", None) is not None:
            raise SgoolError(
                "`models.family`: expected a Wan with one transformer, as Wan 2.1 has, got one with two, or with a "
                "`boundary_ratio` (Wan 2.2); use models.family=replay, which runs the pipeline's own call"
            )
        super().__init__(pipeline, *args, **options)

    @property
    def vae_scale_factor(self) -> int:
        """Factor by which a frame's sides are larger than the latents' sides."""
        return int(self.pipeline.vae_scale_factor_spatial)

    @property
    def multiple(self) -> int:
        """Number of pixels that the sides of a frame are a multiple of."""
        return self.vae_scale_factor * int(self.config.patch_size[-1])

    @property
    def num_frames(self) -> int:
        """Number of frames of a video.

        Raises:
            SgoolError: The autoencoder cannot make so many.
        """
        frames, factor = int(self.argument("num_frames")), int(self.pipeline.vae_scale_factor_temporal)
        if frames < 1 or (frames - 1) % factor:
            raise SgoolError(
                f"`models.call.num_frames`: expected a multiple of {factor}, plus 1, got {frames}; "
                f"{max(1, round((frames - 1) / factor) * factor + 1)} would do"
            )
        return frames

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Returns the shape (C, F, h, w) of a video's latents."""
        channels, *sides = super().latent_shape(height, width)
        return (channels, (self.num_frames - 1) // int(self.pipeline.vae_scale_factor_temporal) + 1, *sides)

    def conditioning(
        self, prompts: list[str], negative: list[str] | None, guidance_scale: float, size: tuple[int, int]
    ) -> tuple[Conditioning, Conditioning | None]:
        """Returns embeddings of the tokens."""
        embeds, other = self.pipeline.encode_prompt(
            prompts,
            negative,
            negative is not None,
            device=self.device,
            max_sequence_length=self.argument("max_sequence_length"),
        )
        return {"encoder_hidden_states": embeds}, None if negative is None else {"encoder_hidden_states": other}

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents (B, C, F, h, w) to frames (B, 3, frames, H, W), or to images (B, 3, H, W) if F is 1."""
        frames = decode_scaled(self.vae, self.unscaled(latents.to(self.vae.dtype)))
        return frames[:, :, 0] if frames.shape[2] == 1 else frames

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encodes images (B, 3, H, W) in [0, 1] as latents (B, C, 1, h, w)."""
        return super().encode_images(images[:, :, None] if images.ndim == 4 else images)

    def unscaled(self, latents: Tensor) -> Tensor:
        """Brings latents to the autoencoder's own scale."""
        mean, deviation = self._moments(latents)
        return latents * deviation + mean

    def scaled_latents(self, latents: Tensor) -> Tensor:
        """Brings latents of the autoencoder's own scale to that of the chain."""
        mean, deviation = self._moments(latents)
        return (latents - mean) / deviation

    def _moments(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, deviation = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation
