"""The resize and crop of whole images against the code that networks were published with.

The check sums were made once by running that code on `tests.photos.photo`: ``image_transform(..., resize_longest_max=
True)`` of tgxs002/HPSv2 (866735e), ``_transform`` of THUDM/ImageReward (c1392c6), ``get_transform`` of
GuYuc/WS-DAN.PyTorch (8777912).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, ToTensor
from torchvision.transforms import Resize as TorchvisionResize

from sgool.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, OPENAI_MEAN, OPENAI_STD, Preprocess
from sgool.models.resize import Resize, published_images
from tests.photos import SIZES, as_batch, photo

HPS = {
    (48, 80): 0.462950, (80, 48): 0.176415, (37, 53): 0.822746, (20, 31): 1.317251, (33, 32): -1.419030,
    (64, 64): -0.865794, (9, 14): 0.439133, (105, 192): 0.085079,
}  # fmt: skip
HPS_224 = {
    (512, 768): 0.002494, (768, 512): -0.091171, (105, 192): 0.392926, (512, 512): -0.026246, (100, 120): 1.288323,
    (45, 320): 0.197570, (210, 384): 0.537451,
}  # fmt: skip
IMAGE_REWARD = {
    (48, 80): -0.642801, (80, 48): 0.204564, (37, 53): -0.819220, (20, 31): 1.069923, (32, 50): 1.354859,
    (64, 64): -0.868722, (9, 14): 0.320401, (105, 192): -0.232469,
}  # fmt: skip
WSDAN = {(300, 200): 0.015059, (512, 512): 0.362284, (448, 448): -0.847609, (600, 701): -0.240318}


def check_sum(pixels: Tensor) -> float:
    """A sum in which every pixel has another weight, so that a shift by one pixel shows."""
    weights = torch.cos(torch.arange(pixels.numel(), dtype=torch.float64) * 0.37)
    return float((pixels.double().flatten() * weights).sum()) / math.sqrt(pixels.numel())


@pytest.mark.parametrize(
    ("resize", "mean", "std", "sums"),
    [
        (Resize(size=32, mode="max_size", on_tensors=True), OPENAI_MEAN, OPENAI_STD, HPS),
        (Resize(size=224, mode="max_size", on_tensors=True), OPENAI_MEAN, OPENAI_STD, HPS_224),
        (Resize(size=32), OPENAI_MEAN, OPENAI_STD, IMAGE_REWARD),
        (
            Resize(size=448, resize_size=512, mode="squash", interpolation="bilinear"),
            IMAGENET_MEAN,
            IMAGENET_STD,
            WSDAN,
        ),
    ],
    ids=["hps", "hps at 224", "image_reward", "wsdan"],
)
def test_pixels_are_those_of_the_published_code(resize: Resize, mean: Any, std: Any, sums: dict[Any, float]) -> None:
    preprocess = Preprocess(resize.size, mean, std, resize=resize)
    for size, expected in sums.items():
        shown = preprocess.normalise(resize.as_published(as_batch(photo(*size))), torch.float32)
        assert shown.shape == (1, 3, resize.size, resize.size)
        # The sums have six decimals; a resize in floating point differs in the second or third.
        assert check_sum(shown) == pytest.approx(expected, abs=2e-6), size


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [24, 32])
def test_every_mode_of_open_clip(mode: Any, interpolation: Any, size: int) -> None:
    theirs = image_transform(
        size, is_train=False, mean=OPENAI_MEAN, std=OPENAI_STD, resize_mode=mode, interpolation=interpolation,
        fill_color=100,
    )  # fmt: skip
    resize = Resize(size=size, mode=mode, interpolation=interpolation, fill=(100 / 255,) * 3)
    preprocess = Preprocess(size, OPENAI_MEAN, OPENAI_STD, resize=resize)
    for shape in SIZES:
        got = preprocess.normalise(resize.as_published(as_batch(photo(*shape))), torch.float32)[0]
        # The same 8-bit pixels; normalisation in the same order.
        torch.testing.assert_close(got, theirs(photo(*shape)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "resize_size"), [(32, 36), (32, 32), (24, 20)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_differentiable_resize_is_torchvision_s_of_tensors(size: int, resize_size: int, interpolation: Any) -> None:
    """Also where the crop is larger than the resized image: torchvision pads with black."""
    steps: list[Callable[..., Any]] = [
        TorchvisionResize(resize_size, InterpolationMode(interpolation), antialias=True), CenterCrop(size),
    ]  # fmt: skip
    theirs, ours = Compose(steps), Resize(size=size, resize_size=resize_size, interpolation=interpolation)
    by_pillow = Compose([*steps, ToTensor()])
    for shape in SIZES:
        batch = as_batch(photo(*shape))
        assert torch.equal(ours(batch), theirs(batch)), shape
        torch.testing.assert_close(ours.as_published(batch)[0], by_pillow(photo(*shape)), atol=1e-7, rtol=0)


def test_images_are_rounded_and_stay_apart() -> None:
    """A judge's number must not depend on the other images of a batch, nor on what 8 bits cannot hold."""
    resize, batch = Resize(size=32), torch.cat([as_batch(photo(48, 80, seed)) for seed in range(3)])
    shown = resize.as_published(batch)
    noise = torch.rand(batch.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.equal(resize.as_published(batch + 0.9 / 255 * noise), shown)
    assert torch.equal(
        resize.as_published(torch.cat([batch * 3 - 1])), resize.as_published((batch * 3 - 1).clamp(0, 1))
    )
    assert torch.equal(resize.as_published(batch[1:2])[0], shown[1])
    # The memory's layout, on which the rounding of convolutions depends, is that of published code.
    for image in (as_batch(photo(32, 32)), batch.to(memory_format=torch.channels_last)):
        assert resize.as_published(image).is_contiguous()
    assert torch.equal(resize.as_published(as_batch(photo(32, 32))), as_batch(photo(32, 32)))
    broken = batch.clone()
    broken[0, 1, 2, 3] = torch.nan
    assert resize.as_published(broken)[0].isnan().all() and torch.equal(resize.as_published(broken)[1:], shown[1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_type_of_images(dtype: torch.dtype) -> None:
    """0 and 1 are exact in every type; half precision has no anti-aliased resize on CPU."""
    batch = (as_batch(photo(37, 53)) > 0.5).to(dtype)
    for resize in (Resize(size=32), Resize(size=32, mode="max_size", on_tensors=True)):
        shown = resize.as_published(batch)
        assert shown.dtype == torch.promote_types(dtype, torch.float32)
        # float64 rounds otherwise than float32.
        torch.testing.assert_close(shown.float(), resize.as_published(batch.float()), atol=1e-5, rtol=0)
        assert resize(batch).shape == shown.shape


def test_gradients_flow_through_the_differentiable_resize_only() -> None:
    images = as_batch(photo(9, 14)).double().requires_grad_()
    for mode in ("shortest", "longest", "max_size", "squash"):
        resize = Resize(size=8, resize_size=9, mode=mode)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(resize, (images,))
        assert not resize.as_published(images).requires_grad


def test_a_very_oblong_image_keeps_a_pixel() -> None:
    for mode in ("longest", "max_size"):
        resize = Resize(size=8, mode=mode)  # type: ignore[arg-type]
        assert resize.as_published(torch.ones(1, 3, 1, 200)).shape == (1, 3, 8, 8)


def test_a_network_without_published_code_sees_the_images() -> None:
    images = torch.tensor([-0.5, 0.25, 1.5]).view(1, 3, 1, 1)
    assert published_images(object(), images).flatten().tolist() == [0, 0.25, 1]
    assert isinstance(photo(2, 2), Image.Image)
