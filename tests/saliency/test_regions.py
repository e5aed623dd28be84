from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sgool.errors import ConfigError, SgoolError
from sgool.saliency import find_regions
from sgool.types import Region

levels = st.sampled_from([0.0, 0.2, 0.4, 0.7, 1.0])
maps = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24), elements=levels)
ranges = {
    "threshold": st.floats(0.05, 1),
    "max_regions": st.integers(1, 5),
    "margin": st.floats(0, 2),
    "min_side": st.floats(0, 1),
}


def blank(height: int = 40, width: int = 60) -> np.ndarray:
    return np.zeros((height, width))


@settings(max_examples=150, deadline=None)
@given(maps, st.fixed_dictionaries(ranges))
def test_boxes_lie_inside_and_are_square_where_the_image_allows(values: np.ndarray, knobs: dict) -> None:
    regions = find_regions(values, **knobs)
    height, width = values.shape
    assert (len(regions) > 0) == bool(values.max() > 0)
    assert len(regions) <= knobs["max_regions"]
    for region in regions:
        assert region.top >= 0 and region.left >= 0
        assert region.top + region.height <= height and region.left + region.width <= width
        side = max(region.height, region.width)
        assert (region.height, region.width) == (min(side, height), min(side, width))
        assert min(region.height, region.width) >= min(knobs["min_side"] * min(height, width), height, width)


@settings(max_examples=100, deadline=None)
@given(maps, st.integers(1, 5))
def test_masses_fall_and_sum_to_one(values: np.ndarray, max_regions: int) -> None:
    assume(values.max() > 0)
    masses = [region.mass for region in find_regions(values, max_regions=max_regions)]
    assert masses == sorted(masses, reverse=True)
    assert sum(masses) == pytest.approx(1, abs=1e-12)  # five float64 roundings


@settings(max_examples=60, deadline=None)
@given(maps, st.integers(0, 12), st.integers(0, 12))
def test_translation_moves_the_boxes(values: np.ndarray, down: int, right: int) -> None:
    # Room on all sides, so that no box is pushed back into the image.
    around = 60
    height, width = values.shape
    canvas = np.zeros((height + 2 * around, width + 2 * around))
    moved = canvas.copy()
    canvas[around : around + height, around : around + width] = values
    moved[around + down : around + down + height, around + right : around + right + width] = values
    knobs = {"threshold": 0.5, "max_regions": 3, "margin": 0.2, "min_side": 0.1}
    before, after = find_regions(canvas, **knobs), find_regions(moved, **knobs)
    assert after == tuple(Region(r.top + down, r.left + right, r.height, r.width, r.mass) for r in before)


def test_boxes_and_masses_by_hand() -> None:
    values = blank()
    values[10:16, 20:24] = 1.0  # 6 x 4, mass 24
    values[30:32, 50:56] = 0.5  # 2 x 6, mass 6
    values[0, 0] = 0.4  # below the threshold
    large, small = find_regions(values, threshold=0.5, margin=0.25, min_side=0.0)
    # Largest extent 6, a quarter of it on both sides: 9; centred on rows 13, columns 22.
    assert (large.top, large.left, large.height, large.width) == (8, 17, 9, 9)
    assert (small.top, small.left, small.height, small.width) == (26, 48, 9, 9)
    assert (large.mass, small.mass) == pytest.approx((0.8, 0.2))


def test_the_heaviest_are_kept_and_their_masses_normalised() -> None:
    values = blank()
    for index, width in enumerate((1, 4, 2, 3)):
        values[5, 15 * index : 15 * index + width] = 1
    regions = find_regions(values, max_regions=2, margin=0, min_side=0)
    assert [region.mass for region in regions] == pytest.approx([4 / 7, 3 / 7])
    assert [region.left for region in regions] == [15, 45]


def test_equal_masses_are_ordered_by_place() -> None:
    values = blank()
    for top, left in ((30, 5), (10, 40), (10, 5)):
        values[top : top + 2, left : left + 2] = 1
    assert [(r.top, r.left) for r in find_regions(values, margin=0, min_side=0)] == [(10, 5), (10, 40), (30, 5)]


def test_diagonal_neighbours_belong_together() -> None:
    values = blank()
    values[5, 5] = values[6, 6] = 1
    assert len(find_regions(values)) == 1


def test_the_threshold_is_relative_to_the_maximum() -> None:
    values = blank()
    values[5, 5], values[20, 20] = 0.02, 0.009
    assert len(find_regions(values, threshold=0.5)) == 1
    assert len(find_regions(values, threshold=0.4)) == 2


def test_minimum_side_and_shift_into_the_image() -> None:
    values = blank()
    values[39, 59] = 1
    assert find_regions(values, min_side=0.3) == (Region(28, 48, 12, 12, 1.0),)


def test_a_large_region_of_an_oblong_image() -> None:
    values = blank()
    values[5:35, 3:58] = 1
    (region,) = find_regions(values, margin=0.1)
    assert (region.top, region.left, region.height, region.width) == (0, 0, 40, 60)


def test_nothing_salient() -> None:
    assert find_regions(blank()) == ()
    assert find_regions(np.ones((4, 4)), max_regions=0) == ()


def test_tensors_and_arrays_agree() -> None:
    values = torch.rand(30, 30, generator=torch.Generator().manual_seed(0)).pow(4)
    assert find_regions(values) == find_regions(values.numpy())
    assert find_regions(values.requires_grad_()) == find_regions(values.detach().double())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_refused(bad: float) -> None:
    values = blank()
    values[3, 3] = bad
    with pytest.raises(SgoolError, match="saliency map holds NaN or infinite values"):
        find_regions(values)


def test_maps_are_flat() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\), got \(1, 4, 4\)"):
        find_regions(torch.zeros(1, 4, 4))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"threshold": 0}, r"saliency.threshold must be in \(0, 1\], .* got 0"),
        ({"threshold": 1.5}, "got 1.5"),
        ({"max_regions": -1}, "saliency.max_regions must be a whole number, 0 or more, got -1"),
        ({"max_regions": 1.5}, "saliency.max_regions .* got 1.5"),
        ({"margin": -0.1}, "saliency.margin must be 0 or more, .* got -0.1"),
        ({"margin": float("nan")}, "saliency.margin .* got nan"),
        ({"min_side": 2}, r"saliency.min_side must be in \[0, 1\], .* got 2"),
        ({"threshold": 2, "margin": -1}, r"(?s)2 problems.*threshold.*margin"),
    ],
)
def test_wrong_settings(knobs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_regions(blank(), **knobs)


@settings(max_examples=80, deadline=None)
@given(maps, st.integers(0, 4), st.sampled_from([0.25, 0.5, 4.0]))
def test_scale_does_not_matter_and_fewer_regions_are_the_first_ones(
    values: np.ndarray, max_regions: int, factor: float
) -> None:
    more = find_regions(values, max_regions=max_regions + 1)
    # Powers of two: the scaled comparison with the threshold rounds alike.
    assert find_regions(factor * values, max_regions=max_regions + 1) == more
    fewer = find_regions(values, max_regions=max_regions)
    assert [(r.top, r.left, r.height, r.width) for r in fewer] == [
        (r.top, r.left, r.height, r.width) for r in more[:max_regions]
    ]


@settings(max_examples=80, deadline=None)
@given(maps, st.floats(0, 1), st.floats(0, 1))
def test_the_boxes_cover_everything_above_the_threshold(values: np.ndarray, margin: float, min_side: float) -> None:
    covered = np.zeros(values.shape, bool)
    for region in find_regions(values, max_regions=values.size, margin=margin, min_side=min_side):
        covered[region.top : region.top + region.height, region.left : region.left + region.width] = True
    assert covered[(values >= 0.5 * values.max(initial=0)) & (values > 0)].all()


@settings(max_examples=40, deadline=None)
@given(maps)
def test_transposing_the_map_transposes_the_boxes(values: np.ndarray) -> None:
    def boxes(regions: tuple[Region, ...], turned: bool) -> set[tuple[int, int, int, int]]:
        return {(r.left, r.top, r.width, r.height) if turned else (r.top, r.left, r.height, r.width) for r in regions}

    # All regions: among equal masses, which come first depends on their places.
    every = {"max_regions": values.size, "margin": 0.2, "min_side": 0.3}
    assert boxes(find_regions(values.T, **every), True) == boxes(find_regions(values, **every), False)
