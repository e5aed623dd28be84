"""Distortions of training images, so that networks judge generated images as well as painted ones."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def augment(
    images: Tensor, rng: np.random.Generator, size: int, vae: nn.Module | None = None, *, move: float = 1.0
) -> Tensor:
    """Zoom, shift, blur, noise, brightness and, with ``vae``, the autoencoder's distortions; to (B, 3, size, size).

    ``move`` scales zoom and shift; 0 leaves every object where it is.
    """
    number = len(images)
    if vae is not None:
        images = _autoencode(images, rng, vae)
    zoom = torch.from_numpy((1 + move * rng.uniform(-0.15, 0.05, number)).astype(np.float32))
    shift = torch.from_numpy((move * rng.uniform(-0.08, 0.08, (number, 2))).astype(np.float32))
    theta = torch.zeros(number, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [number, 3, size, size], align_corners=False)
    out = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = torch.from_numpy(rng.uniform(0, 1, (number, 1, 1, 1)).astype(np.float32)).pow(2)
    out = out + blur * (blurred - out)
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (number, 1, 1, 1)).astype(np.float32))
    sigma = torch.from_numpy(rng.uniform(0, 0.08, (number, 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(out.shape, dtype=np.float32))
    return (out * gain + sigma * noise).clamp(0, 1)


@torch.no_grad()
def _autoencode(images: Tensor, rng: np.random.Generator, vae: nn.Module) -> Tensor:
    """Every third image through the autoencoder, with noise of up to half a standard deviation on its latents."""
    part = images[::3]
    latents = vae.encode(part * 2 - 1).latent_dist.mean  # type: ignore[operator]
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
    strength = torch.from_numpy(rng.uniform(0, 0.5, (len(part), 1, 1, 1)).astype(np.float32))
    images = images.clone()
    images[::3] = (vae.decode(latents + strength * noise).sample / 2 + 0.5).clamp(0, 1).float()  # type: ignore[operator]
    return images
