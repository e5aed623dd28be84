"""Decodes latents to images and encodes images as latents, with a diffusers ``AutoencoderKL``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sgool.models.memory import checkpoints_blocks, recomputed


def decode_latents(vae: Any, latents: Tensor, *, use_checkpoint: bool = True) -> Tensor:
    """Decodes latents (B, C, h, w) into images (B, 3, H, W), nominally in [0, 1], not clamped.

    Args:
        vae: A frozen ``AutoencoderKL``; its ``scaling_factor`` and, where it has one, ``shift_factor`` are used.
        latents: Latents (B, C, h, w) at the end of the chain.
        use_checkpoint: Recompute the decoder in backward instead of storing its activations: part by part if the
            autoencoder decodes in tiles or slices, block by block if its blocks are checkpointed, else as a whole.
    """
    return decode_scaled(vae, latents / vae.config.scaling_factor + _shift(vae), use_checkpoint=use_checkpoint)


def overflows_in_float16(vae: Any) -> bool:
    """Whether an autoencoder is in float16, where its numbers overflow, as ``vae.config.force_upcast`` says of it."""
    return vae is not None and vae.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))


def decode_scaled(vae: Any, scaled: Tensor, *, use_checkpoint: bool = True) -> Tensor:
    """Decodes latents (B, C, h, w) in the autoencoder's own scale into images; otherwise as `decode_latents`."""

    def run(x: Tensor) -> Tensor:
        return vae.decode(x, return_dict=False)[0]

    if not (use_checkpoint and torch.is_grad_enabled() and scaled.requires_grad):
        decoded = run(scaled)
    elif decodes_in_parts(vae):
        with _recomputed_parts(vae.decoder):
            decoded = run(scaled)
    elif checkpoints_blocks(vae):
        decoded = run(scaled)
    else:
        decoded = recomputed(run, scaled)
    return decoded.float() / 2 + 0.5 if decoded.dtype in (torch.float16, torch.bfloat16) else decoded / 2 + 0.5


def decodes_in_parts(vae: Any) -> bool:
    """Whether a decoder is called once for each tile or image, so that each call can be computed again by itself.

    A decoder of videos that hands its features on from call to call cannot be.
    """
    parts = getattr(vae, "use_tiling", False) or getattr(vae, "use_slicing", False)
    return bool(parts) and not hasattr(vae, "clear_cache")


@contextmanager
def _recomputed_parts(decoder: Any) -> Iterator[None]:
    """Lets each call of the decoder be computed again by itself in backward, as long as the block runs."""
    once = decoder.forward
    decoder.forward = lambda part: recomputed(once, part)
    try:
        yield
    finally:
        del decoder.forward


def in_unit_range(images: Tensor) -> Tensor:
    """Clamps images to [0, 1]; what is not finite becomes NaN, so that an infinite pixel is not taken for white."""
    return torch.where(images.isfinite(), images.clamp(0, 1), torch.nan)


@torch.no_grad()
def encode_images(vae: Any, images: Tensor) -> Tensor:
    """Encodes images as latents (B, C, h, w), the scaled mean of the encoder's distribution.

    Args:
        vae: A frozen ``AutoencoderKL`` or ``AutoencoderTiny``.
        images: Images (B, 3, H, W) in [0, 1], whose sides are multiples of the VAE's factor.
    """
    return (encode_plain(vae, images) - _shift(vae)) * vae.config.scaling_factor


@torch.no_grad()
def encode_plain(vae: Any, images: Tensor) -> Tensor:
    """Encodes images (B, 3, H, W) in [0, 1] as latents in the autoencoder's own scale.

    They are the mean of a distribution (AutoencoderKL), or what an encoder without one returns (AutoencoderDC,
    AutoencoderTiny).
    """
    encoded = vae.encode(images.to(vae.dtype) * 2 - 1)
    if hasattr(encoded, "latent_dist"):
        mean: Tensor = encoded.latent_dist.mode()
        return mean
    latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent
    return latents


def _shift(vae: Any) -> float:
    return float(getattr(vae.config, "shift_factor", None) or 0.0)
