from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.saliency import SaliencyDetector, SpectralResidual, normalise_map


def test_maps_are_stretched_one_by_one() -> None:
    maps = torch.tensor([[2.0, 3.0, 6.0], [-1.0, -1.0, 0.0]]).view(2, 1, 1, 3)
    expected = torch.tensor([[0.0, 0.25, 1.0], [0.0, 0.0, 1.0]]).view(2, 1, 1, 3)
    assert torch.equal(normalise_map(maps), expected)  # all exact in binary


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_flat_map_has_nothing_salient(value: float) -> None:
    maps = torch.full((2, 1, 4, 5), value)
    maps[1, 0, 2, 3] += 1
    result = normalise_map(maps)
    assert not result[0].any() and result[1].sum() == 1


def test_the_scale_of_a_map_does_not_matter() -> None:
    maps = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # A handful of float64 roundings.
    torch.testing.assert_close(normalise_map(maps * 1e-30 + 1e-31), normalise_map(maps), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_maps_that_are_not_finite_are_named(bad: float) -> None:
    maps = torch.rand(3, 1, 4, 4)
    maps[1, 0, 2, 2] = bad
    with pytest.raises(SgoolError, match="map of image 1 of 3 holds NaN or infinite values"):
        normalise_map(maps)


def test_maps_have_one_channel() -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\), got \(2, 3, 4, 4\)"):
        normalise_map(torch.zeros(2, 3, 4, 4))


def test_a_plain_function_is_a_detector() -> None:
    def detector(images: Tensor) -> Tensor:
        return normalise_map(images.mean(dim=1, keepdim=True))

    assert isinstance(detector, SaliencyDetector) and isinstance(SpectralResidual(), SaliencyDetector)
