"""The decoder in backward: as a whole, block by block, or tile by tile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.autoencoder import decode_scaled
from sgool.models.live import LiveBytes
from sgool.models.memory import decode_in_tiles, enable_block_checkpointing
from tests.diffusion.problem import randn
from tests.tiny_families import tiny_family

KINDS = ("sdxl", "sana", "wan")


def vae_of(name: str) -> Any:
    vae = tiny_family(name).vae
    with torch.no_grad():
        for parameter in vae.decoder.parameters():  # a fresh decoder's image is nearly grey
            parameter.mul_(1.5)
    return vae


def latents_of(vae: Any, name: str) -> Tensor:
    if name == "wan":
        return randn(1, 16, 2, 8, 8, seed=1).float()
    return randn(2, 4, 16, 24, seed=1).float()


def gradient(vae: Any, latents: Tensor, use_checkpoint: bool) -> tuple[Tensor, Tensor]:
    leaf = latents.clone().requires_grad_(True)
    images = decode_scaled(vae, leaf, use_checkpoint=use_checkpoint)
    weight = randn(*images.shape, seed=2).float()
    (found,) = torch.autograd.grad((images * weight).sum(), leaf)
    return images.detach(), found


def peak(vae: Any, latents: Tensor) -> int:
    """The most bytes that are in memory at once in forward and backward, without weights."""
    with LiveBytes([*vae.parameters(), *vae.buffers()]) as live:
        gradient(vae, latents, use_checkpoint=True)
    return live.peak


@pytest.mark.parametrize("name", KINDS)
def test_tiles_are_diffusers_own_and_their_gradient_is_autograds(name: str) -> None:
    vae = vae_of(name)
    latents, tile = latents_of(vae, name), {"sdxl": 16, "sana": 16, "wan": 32}[name]
    whole = decode_scaled(vae, latents)
    decode_in_tiles(vae, tile)
    expected = vae.decode(latents, return_dict=False)[0] / 2 + 0.5
    images, found = gradient(vae, latents, use_checkpoint=True)
    plain, autograd = gradient(vae, latents, use_checkpoint=False)
    assert torch.equal(images, expected) and torch.equal(plain, expected)
    # So there are tiles at all.
    assert not torch.equal(whole, expected)
    # The same kernels on the same numbers.
    assert torch.equal(found, autograd)
    assert float(autograd.abs().max()) > 0


def test_a_batch_in_slices_is_recomputed_image_by_image() -> None:
    vae = vae_of("sdxl")
    latents = latents_of(vae, "sdxl")
    vae.enable_slicing()
    images, found = gradient(vae, latents, use_checkpoint=True)
    plain, autograd = gradient(vae, latents, use_checkpoint=False)
    assert torch.equal(images, plain) and torch.equal(found, autograd)


def test_blocks_of_the_decoder_are_recomputed_alone() -> None:
    vae = vae_of("sdxl")
    latents = latents_of(vae, "sdxl")
    images, expected = gradient(vae, latents, use_checkpoint=True)
    enable_block_checkpointing("vae", vae)
    assert not vae.training
    same, found = gradient(vae, latents, use_checkpoint=True)
    assert torch.equal(same, images) and torch.equal(found, expected)
    decode_in_tiles(vae, 16)  # blocks within tiles
    tiled, found = gradient(vae, latents, use_checkpoint=True)
    vae.disable_gradient_checkpointing()
    assert torch.equal(found, gradient(vae, latents, use_checkpoint=False)[1])
    assert not torch.equal(tiled, images)


@pytest.mark.parametrize("name", ["sdxl", "sana"])
def test_tiles_lower_the_peak(name: str) -> None:
    vae = vae_of(name)
    latents = latents_of(vae, name)
    whole = peak(vae, latents)
    decode_in_tiles(vae, 16)
    # A tile of 8 x 8 latents is a sixth of 16 x 24. The image itself and its gradient remain.
    assert peak(vae, latents) < 0.4 * whole


def test_blocks_lower_the_peak() -> None:
    vae = vae_of("sdxl")
    latents = latents_of(vae, "sdxl")
    whole = peak(vae, latents)
    enable_block_checkpointing("vae", vae)
    assert peak(vae, latents) < 0.7 * whole


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (12, r"`models.vae_tile_size`: expected a multiple of 8 pixels .* got 12; 16 would do"),
        (3, r"got 3; 8 would do"),
    ],
)
def test_a_wrong_size_of_tiles_is_refused(size: int, message: str) -> None:
    with pytest.raises(SgoolError, match=message):
        decode_in_tiles(vae_of("sdxl"), size)


def test_an_autoencoder_without_tiles_is_refused() -> None:
    with pytest.raises(SgoolError, match="Linear cannot decode in tiles"):
        decode_in_tiles(torch.nn.Linear(1, 1), 512)
