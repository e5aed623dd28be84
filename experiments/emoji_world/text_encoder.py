"""The pipeline's text encoder: the text tower of the guidance CLIP in transformers' layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

#: open_clip's name -> transformers' name, within a layer and outside of the layers.
_LAYER = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"} | {
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTSIDE = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def text_encoder_from_clip(
    state: Mapping[str, Tensor], tokenizer: CLIPTokenizer, *, head_width: int = 32, projection: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Converts the text tower of an open_clip model into transformers' CLIPTextModel, or the one with a projection.

    Args:
        state: State dict of an `open_clip.CLIP`; its image tower is left out.
        tokenizer: The model's own, for the special tokens.
        head_width: Width of an attention head, which the weights do not tell.
        projection: Whether the projection into the common space belongs to it, as Stable Diffusion 3 wants.

    Raises:
        RuntimeError: The weights' names or shapes are not those that transformers expects.
    """
    layers = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer.resblocks."))
    config = _config(state, tokenizer, layers, head_width)
    model = CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)
    prefix = "text_model." if any(k.startswith("text_model.") for k in model.state_dict()) else ""
    renamed = {prefix + k: v for k, v in _renamed(state, layers).items()}
    renamed |= {"text_projection.weight": state["text_projection"].T} if projection else {}
    problem = model.load_state_dict(renamed, strict=False)
    unexpected = [k for k in problem.missing_keys if "position_ids" not in k] + problem.unexpected_keys
    if unexpected:
        raise RuntimeError(f"text encoder keys do not match: {unexpected}")
    return model.eval().requires_grad_(False)


def _config(state: Mapping[str, Tensor], tokenizer: CLIPTokenizer, layers: int, head_width: int) -> CLIPTextConfig:
    width = state["ln_final.weight"].shape[0]
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=width // head_width,
        max_position_embeddings=state["positional_embedding"].shape[0],
        hidden_act="gelu",
        projection_dim=state["text_projection"].shape[1] if "text_projection" in state else width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _renamed(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    result = {new: state[old] for old, new in _OUTSIDE.items()}
    for i in range(layers):
        old, new = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            for name, part in zip("qkv", state[f"{old}attn.in_proj_{kind}"].chunk(3), strict=True):
                result[f"{new}self_attn.{name}_proj.{kind}"] = part
            result |= {f"{new}{b}.{kind}": state[f"{old}{a}.{kind}"] for a, b in _LAYER.items()}
    return result
