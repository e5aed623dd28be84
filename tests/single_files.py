"""A tiny Stable Diffusion 1.x as a single file, with the names that its authors gave its tensors.

diffusers translates those names into its own and not back, so they are written out here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.tiny_families import tiny_family

_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def single_file_pipeline() -> Any:
    """The tiny pipeline whose networks have an authors' layout."""
    return tiny_family("sd", seed=3)


def single_file(pipeline: Any, path: Path) -> None:
    """Saves UNet, autoencoder and text encoder of a Stable Diffusion 1.x as one file."""
    layers, blocks = pipeline.unet.config.layers_per_block, len(pipeline.vae.config.block_out_channels)
    state = {
        f"model.diffusion_model.{_unet(name, layers)}": tensor for name, tensor in pipeline.unet.state_dict().items()
    }
    for name, tensor in pipeline.vae.state_dict().items():
        # The authors' attention in the autoencoder is made of convolutions.
        wide = ".attentions." in name and name.endswith("weight") and "group_norm" not in name
        state[f"first_stage_model.{_vae(name, blocks)}"] = tensor[..., None, None] if wide else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        state[f"cond_stage_model.transformer.{name}"] = tensor
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)


def _unet(name: str, layers: int) -> str:
    for own, theirs in _TOP.items():
        if name.startswith(f"{own}."):
            return name.replace(own, theirs, 1)
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        number = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{number}.{_inner(found[1], found[3])}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|\w+samplers)\.(\d)\.(.*)", name)
    assert found is not None, name
    first, side = (1, "input_blocks") if found[1] == "down" else (0, "output_blocks")
    block = first + int(found[2]) * (layers + 1)
    if found[3] == "downsamplers":
        return f"{side}.{block + layers}.0.op.{found[5].removeprefix('conv.')}"
    if found[3] == "upsamplers":  # after the attention, which the first block of this network has
        return f"{side}.{block + layers}.2.{found[5]}"
    place = 0 if found[3] == "resnets" else 1
    return f"{side}.{block + int(found[4])}.{place}.{_inner(found[3], found[5])}"


def _inner(kind: str, name: str) -> str:
    return _replaced(name, _RESNET) if kind == "resnets" else name


def _vae(name: str, blocks: int) -> str:
    found = re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d)\.(resnets|\w+samplers)\.(\d)\.(.*)", name)
    if found is not None:
        block = int(found[3]) if found[2] == "down" else blocks - 1 - int(found[3])
        if found[4] == "resnets":
            inner = found[6].replace("conv_shortcut", "nin_shortcut")
            return f"{found[1]}.{found[2]}.{block}.block.{found[5]}.{inner}"
        return f"{found[1]}.{found[2]}.{block}.{found[4].removesuffix('rs')}.{found[6]}"
    if found := re.fullmatch(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        if found[2] == "resnets":
            return f"{found[1]}.mid.block_{int(found[3]) + 1}.{found[4]}"
        return f"{found[1]}.mid.attn_1.{_replaced(found[4], _ATTENTION)}"
    return name.replace("conv_norm_out", "norm_out")


def _replaced(name: str, names: dict[str, str]) -> str:
    for own, theirs in names.items():
        if name.startswith(f"{own}."):
            return name.replace(own, theirs, 1)
    return name
