from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sgool.objectives import crop_resize, random_boxes
from sgool.types import Region


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(number: int = 2, height: int = 20, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, height, width, dtype=torch.float64, generator=seeded(seed))


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 600), st.integers(1, 600)),
    st.integers(0, 20),
    st.floats(0, 5),
    st.floats(0.01, 1),
    st.integers(0, 2**31),
)
def test_boxes_are_squares_inside_the_image(
    size: tuple[int, int], num: int, power: float, min_side: float, seed: int
) -> None:
    boxes = random_boxes(size, num, seeded(seed), power=power, min_side=min_side)
    assert len(boxes) == num
    smallest = max(1, round(min_side * min(size)))
    for box in boxes:
        assert box.height == box.width
        assert smallest <= box.height <= min(size)
        assert 0 <= box.top <= size[0] - box.height and 0 <= box.left <= size[1] - box.width
        assert box.mass == pytest.approx(1 / num)


def test_sides_and_places_follow_their_distributions() -> None:
    boxes = random_boxes((100, 140), 4000, seeded(), power=0.3, min_side=0.4)
    sides = torch.tensor([float(box.height) for box in boxes])
    # E[u^0.3] = 1 / 1.3; int() takes half a pixel off. Standard error: 60 * 0.18 / sqrt(4000) = 0.2.
    assert float(sides.mean()) == pytest.approx(40 + 60 / 1.3 - 0.5, abs=0.8)
    free = torch.tensor([[100.0 - box.height, 140.0 - box.width] for box in boxes]) + 1
    places = (torch.tensor([[box.top, box.left] for box in boxes]) + 0.5) / free
    # Uniform: mean 1/2, standard deviation 0.289, standard error 0.005.
    torch.testing.assert_close(places.mean(dim=0), torch.full((2,), 0.5), atol=0.02, rtol=0)
    assert {box.top for box in boxes if box.height == 97} == {0, 1, 2, 3}


def test_power_zero_is_the_whole_smaller_side() -> None:
    assert {box.height for box in random_boxes((64, 80), 8, seeded(), power=0)} == {64}


def test_boxes_depend_on_the_generator_alone() -> None:
    generator = seeded(5)
    first, second = random_boxes((64, 64), 4, generator), random_boxes((64, 64), 4, generator)
    assert first != second
    torch.manual_seed(123)
    assert first == random_boxes((64, 64), 4, seeded(5))
    state = generator.get_state()
    assert random_boxes((64, 64), 0, generator) == () and torch.equal(generator.get_state(), state)


def test_views_are_slices_in_order_with_their_owner() -> None:
    batch = images()
    boxes = [[Region(0, 0, 8, 8), Region(5, 7, 8, 8)], [Region(12, 16, 8, 8)]]
    views, owner = crop_resize(batch, boxes, 8)
    assert owner.tolist() == [0, 0, 1] and owner.dtype == torch.long
    expected = torch.stack([batch[0, :, :8, :8], batch[0, :, 5:13, 7:15], batch[1, :, 12:20, 16:24]])
    assert torch.equal(views, expected)


def test_shrinking_pools_and_enlarging_interpolates() -> None:
    batch = images(1)
    views, _ = crop_resize(batch, [[Region(2, 3, 15, 15), Region(2, 3, 5, 5)]], 7)
    assert torch.equal(views[:1], F.adaptive_avg_pool2d(batch[:, :, 2:17, 3:18], 7))
    patch = batch[:, :, 2:7, 3:8]
    assert torch.equal(views[1:], F.interpolate(patch, size=(7, 7), mode="bilinear", align_corners=False))


def test_oblong_boxes_follow_each_rule_in_its_direction() -> None:
    batch = images(1)
    views, _ = crop_resize(batch, [[Region(0, 0, 4, 24)]], 8)
    pooled = batch[:, :, :4].reshape(1, 3, 4, 8, 3).mean(-1)
    expected = F.interpolate(pooled, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(views, expected)  # float64, another order of sums


@pytest.mark.parametrize("size", [4, 9, 11])
def test_gradient_matches_finite_differences(size: int) -> None:
    batch = images(2, 9, 10).requires_grad_()
    boxes = [[Region(0, 0, 9, 9), Region(1, 2, 6, 6)], [Region(3, 4, 5, 3)]]
    assert torch.autograd.gradcheck(lambda x: crop_resize(x, boxes, size)[0], (batch,))


def test_gradient_stays_with_the_owner() -> None:
    batch = images().requires_grad_()
    views, owner = crop_resize(batch, [[Region(0, 0, 20, 20)], [Region(0, 0, 20, 20)]], 5)
    (gradient,) = torch.autograd.grad(views[owner == 1].sum(), batch)
    assert not gradient[0].any() and gradient[1, :, :, :20].any()


def test_images_without_boxes() -> None:
    views, owner = crop_resize(images(), [[], [Region(0, 0, 5, 5)]], 4)
    assert views.shape == (1, 3, 4, 4) and owner.tolist() == [1]
    views, owner = crop_resize(images(), [[], []], 4)
    assert views.shape == (0, 3, 4, 4) and views.dtype == torch.float64 and owner.shape == (0,)


@pytest.mark.parametrize("box", [Region(-1, 0, 5, 5), Region(0, 20, 5, 5), Region(16, 0, 5, 5), Region(0, 0, 0, 5)])
def test_boxes_outside_the_image_are_refused(box: Region) -> None:
    with pytest.raises(ValueError, match="does not lie inside an image of 20x24 pixels"):
        crop_resize(images(1), [[box]], 4)


def test_one_sequence_of_boxes_per_image() -> None:
    with pytest.raises(ValueError, match="one sequence of boxes per image, got 1 for 2 images"):
        crop_resize(images(), [[]], 4)
