"""Checks of a call's configuration for what a pipeline cannot do in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgool.methods.options import METHODS, ClipGuidanceOptions
from sgool.methods.search_options import FKSteeringOptions

#: Keys of `models` that a loaded model cannot change from call to call.
_LOADED = (
    "path", "family", "call", "config", "variant", "components", "scheduler", "loras", "quantization", "dtype",
    "vae_dtype", "vae_tile_size", "offload", "offload_text_encoders", "channels_last", "compile", "device",
)  # fmt: skip
#: Options of methods that change latents between denoising steps: no first latents alone lead to their images.
_BETWEEN_STEPS = (ClipGuidanceOptions, FKSteeringOptions)


def changed_models(config: Mapping[str, Any], start: Mapping[str, Any], is_object: bool) -> list[str]:
    """Returns what a call's configuration would change of a model that is loaded.

    Args:
        config: The configuration of the call.
        start: That of a call without arguments.
        is_object: Whether the model is a pipeline object.
    """
    where = "the pipeline" if is_object else "SGOOLPipeline.from_pretrained(..., overrides=[...])"
    return [
        f"`overrides`: models.{key} is set when the model is loaded; change it in {where}"
        for key in _LOADED
        if config["models"][key] != start["models"][key]
    ]


def unreachable_latents(config: Mapping[str, Any], method: str, output_type: str) -> list[str]:
    """Returns why ``output_type="latent"`` cannot be had of a method, if it cannot."""
    if output_type != "latent" or not issubclass(METHODS.options(config["method"][method]), _BETWEEN_STEPS):
        return []
    return [
        f'`output_type`: expected "pil", "np" or "pt", got "latent": {method} acts between denoising steps, so that '
        "its first latents alone do not lead to its images"
    ]
