"""Quantised weights: the settings of diffusers and transformers for the backends that let gradients through.

Only weights are quantised. What also rounds activations has no gradient, or (bitsandbytes' int8) another one than that
of its forward pass, and is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sgool.config.loading import missing_package
from sgool.errors import SgoolError


def is_quantised(quantization: Mapping[str, Any] | None, part: str) -> bool:
    """Whether a part of a pipeline gets quantised weights; by default the denoising network does."""
    return bool(quantization) and part in (quantization["parts"] or ("unet", "transformer"))  # type: ignore[index]


def check_quantization(quantization: Mapping[str, Any] | None, index: Mapping[str, Any]) -> None:
    """Refuses quantised weights that cannot be made here.

    Raises:
        SgoolError: There are parts that the pipeline does not have, the backend's package is not installed, or it
            needs a GPU.
    """
    if not quantization:
        return
    if problems := list(missing_package(quantization["backend"], "`models.quantization`", "quantization")):
        raise SgoolError(problems[0])
    if quantization["backend"] == "bitsandbytes" and not torch.cuda.is_available():
        raise SgoolError(
            "`models.quantization`: bitsandbytes quantises on a GPU alone, and torch sees none; use "
            "{backend: torchao, weights: int8}"
        )
    if unknown := [part for part in quantization["parts"] or () if part not in index]:
        raise SgoolError(f"`models.quantization.parts`: the pipeline has no {', '.join(unknown)}")


def part_config(quantization: Mapping[str, Any], library: str, dtype: torch.dtype) -> Any:
    """Returns the configuration of a part's quantised weights.

    Args:
        quantization: ``backend`` and ``weights``.
        library: "diffusers" or "transformers", which the part is loaded by.
        dtype: Data type that the network computes in.
    """
    import diffusers
    import transformers

    home = transformers if library == "transformers" else diffusers
    weights = quantization["weights"]
    if quantization["backend"] == "bitsandbytes":
        return home.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=weights, bnb_4bit_compute_dtype=dtype)
    from torchao import quantization as torchao

    kinds = {
        "int8": "Int8WeightOnlyConfig",
        "int4": "Int4WeightOnlyConfig",
        "float8": "Float8WeightOnlyConfig",
    }
    return home.TorchAoConfig(getattr(torchao, kinds[weights])())


def gguf_config(dtype: torch.dtype) -> Any:
    """Returns the configuration of a GGUF file's weights, which are computed with in ``dtype``."""
    if problems := list(missing_package("gguf", "`models.components`: a GGUF file", "quantization")):
        raise SgoolError(problems[0])
    from diffusers import GGUFQuantizationConfig

    return GGUFQuantizationConfig(compute_dtype=dtype)
