"""The argument by which diffusers is told a data type."""

from __future__ import annotations

from typing import Any

import torch


def dtype_option(dtype: torch.dtype) -> dict[str, Any]:
    """Returns the argument of ``from_pretrained`` for a data type.

    diffusers 0.42 renamed it; the other name is refused or deprecated.
    """
    import diffusers

    is_new = tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 42)
    return {"dtype" if is_new else "torch_dtype": dtype}
