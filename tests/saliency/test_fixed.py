from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sgool.errors import ConfigError, SgoolError
from sgool.saliency import CentreSaliency, FixedSaliency, find_regions
from sgool.saliency.fixed import read_mask


def images(height: int = 40, width: int = 60, number: int = 2) -> torch.Tensor:
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_boxes_are_pixels_of_the_image() -> None:
    maps = FixedSaliency(boxes=[[0.25, 0.5, 0.5, 0.25], [0, 0, 0.1, 0.1]])(images())
    expected = torch.zeros(40, 60)
    expected[10:30, 30:45] = 1
    expected[0:4, 0:6] = 1
    assert maps.shape == (2, 1, 40, 60)
    assert torch.equal(maps[0, 0], expected) and torch.equal(maps[1], maps[0])


def test_boxes_become_the_regions() -> None:
    maps = FixedSaliency(boxes=[[0.25, 0.5, 0.5, 0.25], [0, 0, 0.1, 0.1]])(images())
    large, small = find_regions(maps[0, 0], margin=0, min_side=0)
    assert (large.top, large.height, small.top, small.left) == (10, 20, 0, 0)
    assert large.mass == pytest.approx(300 / 324)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 0.999), min_size=4, max_size=4), st.integers(1, 50), st.integers(1, 50))
def test_every_box_has_a_pixel(numbers: list[float], height: int, width: int) -> None:
    top, left, tall, wide = numbers
    box = [top, left, max(tall * (1 - top), 1e-4), max(wide * (1 - left), 1e-4)]
    saliency = FixedSaliency(boxes=[box])(images(height, width, 1))
    assert saliency.max() == 1 and set(saliency.unique().tolist()) <= {0.0, 1.0}


def test_a_mask_is_resized_with_maximum_one() -> None:
    mask = torch.zeros(20, 30)
    mask[5:15, 10:20] = 0.5
    maps = FixedSaliency(mask)(images())
    expected = torch.zeros(40, 60)
    expected[10:30, 20:40] = 1
    assert maps.amax() == 1
    # Bilinear interpolation softens one pixel along the edge.
    assert (maps[0, 0] - expected).abs().mean() < 0.02
    assert torch.equal(maps[0, 0, 12:28, 22:38], torch.ones(16, 16))


def test_masks_are_read_from_files(tmp_path: Path) -> None:
    levels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    Image.fromarray(levels).save(tmp_path / "gray.png")
    torch.testing.assert_close(read_mask(str(tmp_path / "gray.png")), torch.from_numpy(levels.astype(np.float32) / 255))
    white = np.full((4, 6, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([white, levels[..., None]], -1)).save(tmp_path / "alpha.png")
    torch.testing.assert_close(
        read_mask(str(tmp_path / "alpha.png")), torch.from_numpy(levels.astype(np.float32) / 255)
    )


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match=r"saliency.detector.mask.*no file 'none.png'"):
        read_mask("none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(SgoolError, match=r"saliency.detector.mask.*no image that Pillow can read"):
        read_mask(str(tmp_path / "text.png"))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(3, 3), "black everywhere"),
        (torch.full((3, 3), float("nan")), "NaN, infinite or negative"),
        (torch.full((3, 3), -1.0), "NaN, infinite or negative"),
        (torch.ones(1, 3, 3), r"shape \(h, w\), got \(1, 3, 3\)"),
    ],
)
def test_masks_that_say_nothing(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(SgoolError, match=f"saliency.detector.mask.*{message}"):
        FixedSaliency(mask)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], "at least one box"),
        ([[0, 0, 1]], r"\[top, left, height, width\].* got \[0, 0, 1\]"),
        ([[0.5, 0, 0.6, 1]], r"inside it, got \[0.5, 0, 0.6, 1\]"),
        ([[0, 0, 0, 1]], r"got \[0, 0, 0, 1\]"),
        ([[0, float("nan"), 1, 1]], "got .*nan"),
        ([[0, 0, 2, 1], [-1, 0, 1, 1]], "2 problems"),
    ],
)
def test_wrong_boxes(boxes: list[list[float]], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){message}"):
        FixedSaliency(boxes=boxes)


def test_either_a_mask_or_boxes() -> None:
    with pytest.raises(ConfigError, match="either a mask or boxes, got neither"):
        FixedSaliency()
    with pytest.raises(ConfigError, match="either a mask or boxes, got both"):
        FixedSaliency(torch.ones(2, 2), [[0, 0, 1, 1]])


@pytest.mark.parametrize("size", [(40, 60), (41, 41)])
def test_the_centre_is_a_gaussian(size: tuple[int, int]) -> None:
    maps = CentreSaliency(0.2)(images(*size).double())
    rows, columns = ((np.arange(side) + 0.5) / side - 0.5 for side in size)
    expected = np.exp(-0.5 * (rows[:, None] ** 2 + columns**2) / 0.2**2)
    assert maps.dtype == torch.float64
    np.testing.assert_allclose(maps[1, 0].numpy(), expected / expected.max(), rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_wrong_sigma(sigma: float) -> None:
    with pytest.raises(ConfigError, match=r"saliency.detector.sigma must be a positive fraction"):
        CentreSaliency(sigma)


@pytest.mark.parametrize("detector", [CentreSaliency(), FixedSaliency(boxes=[[0, 0, 1, 1]])])
def test_images_have_three_channels(detector: CentreSaliency | FixedSaliency) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(3, 8, 8\)"):
        detector(torch.zeros(3, 8, 8))


def test_masks_of_more_than_8_bits_keep_their_greys(tmp_path: Path) -> None:
    """Pillow's own conversion to 8 bits would cut every level above 255 off."""
    levels = np.array([[65535, 20000, 0]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "16.png")
    Image.fromarray(levels.astype(np.float32) / 65535).save(tmp_path / "float.tiff")
    for name in ("16.png", "float.tiff"):
        # They are rounded to 8 bits, as photos are.
        torch.testing.assert_close(
            read_mask(str(tmp_path / name)), torch.tensor([[1.0, 20000 / 65535, 0]]), atol=0.5 / 255, rtol=0
        )
    Image.fromarray(np.full((1, 2), 2.0, np.float32)).save(tmp_path / "bright.tiff")
    with pytest.raises(SgoolError, match=r"saliency.detector.mask.*bright.tiff' cannot be read.*expected 0 to 1"):
        read_mask(str(tmp_path / "bright.tiff"))
