"""Masks of text encoders in float64."""

from __future__ import annotations

import pytest
import torch

from sgool.models.families import family_of
from sgool.models.family import tensors_of
from sgool.models.wide_masks import WideMasks
from tests.tiny_families import tiny_family

LOWEST = torch.finfo(torch.float64).min


def test_a_tensor_filled_with_what_float32_lacks_is_of_float64() -> None:
    with pytest.raises(RuntimeError, match="overflow"):
        torch.full((2, 2), LOWEST)
    with WideMasks():
        assert torch.full((2, 2), LOWEST).equal(torch.full((2, 2), LOWEST, dtype=torch.float64))
        assert torch.full(size=(2,), fill_value=LOWEST).dtype == torch.float64
        assert torch.full((2,), 1.5).dtype == torch.full((2,), -torch.inf, dtype=torch.float32).dtype == torch.float32
        assert torch.full((2,), 3).dtype == torch.int64


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux_schnell", "pixart_sigma", "sana", "wan"])
def test_text_encoders_of_every_kind_encode_in_float64(name: str) -> None:
    """As in float32, to its precision."""
    found = []
    for dtype in (torch.float64, torch.float32):
        pipeline = tiny_family(name, dtype=dtype)
        family_of(pipeline)
        family = family_of(pipeline)  # a second time changes nothing
        conditioning, _ = family.encode(["a red cat"], None, 1.0, 32, 32)
        found.append([tensor for tensor in tensors_of(conditioning) if tensor.dtype == dtype])
        assert found[-1]
    for wide, narrow in zip(*found, strict=True):
        # Values are around 1; float32 over a few layers.
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-4)
