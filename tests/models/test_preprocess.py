"""Resize, crop and normalisation against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from sgool.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, frozen


@pytest.mark.parametrize("size", [(20, 20), (40, 40), (33, 50), (50, 33), (9, 14)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_is_what_torchvision_does(size: tuple[int, int], interpolation: str) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    mode = v2.InterpolationMode(interpolation)
    expected = v2.Compose(
        [
            v2.Resize(20, interpolation=mode, antialias=True),
            v2.CenterCrop(20),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )(images)
    got = Preprocess(20, IMAGENET_MEAN, IMAGENET_STD, interpolation)(images, torch.float32)  # type: ignore[arg-type]
    # The same kernels; normalisation divides in another order.
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_gradient_and_type() -> None:
    preprocess = Preprocess(4, IMAGENET_MEAN, IMAGENET_STD)
    images = torch.rand(1, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: preprocess(x, torch.float64), (images,))
    assert preprocess(images, torch.bfloat16).dtype == torch.bfloat16


def test_wants_batches_of_colour_images() -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, h, w\), N >= 1, got \(1, 1, 4, 4\)"):
        Preprocess(4, IMAGENET_MEAN, IMAGENET_STD)(torch.zeros(1, 1, 4, 4), torch.float32)


def test_frozen() -> None:
    network = frozen(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert not network.training and not any(p.requires_grad for p in network.parameters())
