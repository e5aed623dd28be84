"""Switches of networks that save memory: blocks that are computed again, tiles, compiled blocks, offloading."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sgool.errors import SgoolError
from sgool.models.offload import Turns, offload_encoder, says_where


def recomputed(function: Any, *arguments: Any) -> Any:
    """Calls a function whose activations are not kept: backward calls it again.

    Frozen networks in evaluation mode draw no random numbers, so no generator's state has to be kept.
    """
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def enable_block_checkpointing(name: str, network: nn.Module) -> None:
    """Lets a network keep only what enters its blocks, and compute each block again in backward.

    It acts in evaluation mode too, as diffusers' classes ask for gradients alone and not for training. It stays
    switched on for everybody who uses this network.

    Args:
        name: diffusers' name of the network, for the message.
        network: A network of diffusers.

    Raises:
        SgoolError: Its class cannot do this.
    """
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise SgoolError(
            f"`engine.block_checkpointing`: expected a {name} of diffusers that can compute its blocks again, got "
            f"{type(network).__name__}, which cannot; set engine.block_checkpointing=false"
        )
    enable: Any = network.enable_gradient_checkpointing
    enable(gradient_checkpointing_func=lambda block, *inputs: recomputed(block.__call__, *inputs))


def checkpoints_blocks(network: Any) -> bool:
    """Whether a network of diffusers computes its blocks again in backward."""
    return bool(getattr(network, "is_gradient_checkpointing", False))


def checkpoint_blocks(family: Any) -> None:
    """Lets a family's denoising network compute its blocks again in backward, and its decoder where that can.

    Args:
        family: A `sgool.models.family.Family`.

    Raises:
        SgoolError: The denoising network cannot.
    """
    for name, network in family.denoisers.items():
        enable_block_checkpointing(name, network)
    vae: Any = getattr(family, "vae", None)
    if getattr(vae, "_supports_gradient_checkpointing", False):
        enable_block_checkpointing("vae", vae)


def decode_in_tiles(vae: Any, size: int) -> None:
    """Lets an autoencoder decode images that are larger than a tile in overlapping tiles, as diffusers blends them.

    Args:
        vae: An autoencoder of diffusers.
        size: Side of a tile in pixels; neighbours share a quarter of it.

    Raises:
        SgoolError: The autoencoder has no tiles, or none of this size.
    """
    if not hasattr(vae, "use_tiling"):
        raise SgoolError(f"`models.vae_tile_size`: {type(vae).__name__} cannot decode in tiles; set it to null")
    square = hasattr(vae, "tile_latent_min_size")  # else tiles have a height and a width
    factor = 2 ** (len(vae.config.block_out_channels) - 1) if square else int(vae.spatial_compression_ratio)
    if size % (4 * factor):
        near = max(1, round(size / (4 * factor))) * 4 * factor
        raise SgoolError(
            f"`models.vae_tile_size`: expected a multiple of {4 * factor} pixels (four latents of this autoencoder), "
            f"got {size}; {near} would do"
        )
    if square:
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size, vae.tile_overlap_factor = size, size // factor, 0.25
    else:
        shared = {"tile_sample_stride_height": size * 3 // 4, "tile_sample_stride_width": size * 3 // 4}
        vae.enable_tiling(tile_sample_min_height=size, tile_sample_min_width=size, **shared)


def compile_denoisers(family: Any, compile: bool | str) -> None:
    """Lets torch.compile translate a family's denoising network at its first calls.

    Args:
        family: A `sgool.models.family.Family`.
        compile: False: not at all; True: as a whole; "blocks": one block, for all that are like it, in seconds instead
            of minutes (diffusers' ``compile_repeated_blocks``).

    Raises:
        SgoolError: The network names no blocks that repeat.
    """
    for name, network in family.denoisers.items() if compile else ():
        if compile != "blocks":
            network.compile()
            continue
        repeated = getattr(network, "_repeated_blocks", None) or ()
        if not any(type(module).__name__ in repeated for module in network.modules()):
            raise SgoolError(
                f"`models.compile`: blocks needs a network that names the blocks which repeat in it, and the {name} of "
                f"this model, {type(network).__name__}, names none; use models.compile=true or false"
            )
        network.compile_repeated_blocks()


def place(
    pipeline: Any, device: torch.device, *, offload_text_encoders: bool = False, offload: str | None = None
) -> None:
    """Moves a pipeline's networks to a device, in place.

    Args:
        pipeline: A pipeline of diffusers.
        device: Where its networks work.
        offload_text_encoders: Whether text encoders wait in the memory of the CPU, and come to the device for each of
            their calls only. The numbers do not change, since they still work on the device.
        offload: "model": all networks wait in the memory of the CPU, and one at a time is on the device.
    """
    turns = None if offload is None else Turns(device)
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    for name, part in parts.items():
        if name.startswith("text_encoder") and (offload_text_encoders or turns is not None):
            offload_encoder(part, device, turns)
        elif turns is not None:
            turns.add(part)
        else:
            part.to(device)
        if offload_text_encoders or turns is not None:
            # Older releases of diffusers would else take the device of any part for that of the pipeline's call.
            says_where(part, device)
