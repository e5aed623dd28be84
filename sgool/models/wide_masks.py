"""Text encoders in float64 under transformers 4, which makes their masks in torch's default dtype.

It fills them with the lowest number of float64, which float32 does not have, and so fails.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_LARGEST = torch.finfo(torch.float32).max


class WideMasks(TorchFunctionMode):
    """Makes tensors that are filled with a number beyond float32 in float64, where no dtype is asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.full and "dtype" not in kwargs:
            number = kwargs.get("fill_value", args[1] if len(args) > 1 else None)
            if isinstance(number, float) and abs(number) > _LARGEST:
                kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)


def encode_in_float64(pipeline: Any) -> None:
    """Lets a pipeline's text encoders in float64 make their masks in float64; with transformers 5 they do so anyway."""
    import transformers

    if int(transformers.__version__.partition(".")[0]) >= 5:
        return
    for name, part in pipeline.components.items():
        if name.startswith("text_encoder") and isinstance(part, nn.Module) and part.dtype == torch.float64:
            _widen(part)


def _widen(encoder: nn.Module) -> None:
    forward = encoder.forward
    if hasattr(forward, "makes_wide_masks"):
        return  # another family was made of this pipeline before

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with WideMasks():
            return forward(*args, **kwargs)

    vars(run)["makes_wide_masks"] = True
    encoder.forward = run
