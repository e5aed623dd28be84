"""Decodes latents to images and encodes images as latents, with a diffusers ``AutoencoderKL``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def decode_latents(vae: Any, latents: Tensor, *, use_checkpoint: bool = True) -> Tensor:
    """Decodes latents (B, C, h, w) into images (B, 3, H, W), nominally in [0, 1], not clamped.

    Args:
        vae: A frozen ``AutoencoderKL``; its ``scaling_factor`` and, where it has one, ``shift_factor`` are used.
        latents: Latents (B, C, h, w) at the end of the chain.
        use_checkpoint: Recompute the decoder in backward instead of storing its activations.
    """
    return decode_scaled(vae, latents / vae.config.scaling_factor + _shift(vae), use_checkpoint=use_checkpoint)


def decode_scaled(vae: Any, scaled: Tensor, *, use_checkpoint: bool = True) -> Tensor:
    """Decodes latents (B, C, h, w) in the autoencoder's own scale into images; otherwise as `decode_latents`."""

    def run(x: Tensor) -> Tensor:
        return vae.decode(x, return_dict=False)[0]

    if use_checkpoint and torch.is_grad_enabled() and scaled.requires_grad:
        decoded = checkpoint(run, scaled, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
    else:
        decoded = run(scaled)
    return decoded.float() / 2 + 0.5 if decoded.dtype in (torch.float16, torch.bfloat16) else decoded / 2 + 0.5


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
