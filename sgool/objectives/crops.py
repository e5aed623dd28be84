"""Views of an image: random square boxes, and boxes resized to a network's input, differentiably."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sgool.types import Region


def random_boxes(
    image_size: tuple[int, int], num: int, generator: torch.Generator, *, power: float = 0.3, min_side: float = 0.45
) -> tuple[Region, ...]:
    """Random squares as DOODL draws them: side ``int(u ** power * (max - min) + min)``, uniform position.

    The smaller ``power``, the closer the sides are to the maximum, the image's smaller side.

    Args:
        image_size: (H, W) in pixels.
        num: How many; 0 gives none and draws nothing.
        generator: Source of the 3 * num uniform numbers, its device included: a CPU generator gives the same boxes
            wherever the images are.
        power: 0 or more; 0 always gives the maximum.
        min_side: Smallest side as a fraction of the image's smaller side, in (0, 1]. The papers' 224 of 512 pixels is
            0.44.

    Returns:
        Boxes inside the image, mass 1 / num each.
    """
    height, width = image_size
    largest = min(height, width)
    smallest = min(largest, max(1, round(min_side * largest)))
    uniform = torch.rand(num, 3, generator=generator, device=generator.device, dtype=torch.float64).tolist()
    boxes = []
    for size, down, right in uniform:
        side = int(size**power * (largest - smallest) + smallest)
        # min: a uniform number just below 1 can round up to the excluded end.
        top = min(int(down * (height - side + 1)), height - side)
        left = min(int(right * (width - side + 1)), width - side)
        boxes.append(Region(top, left, side, side, 1 / num))
    return tuple(boxes)


def crop_resize(images: Tensor, boxes: Sequence[Sequence[Region]], size: int) -> tuple[Tensor, Tensor]:
    """Cuts boxes out of images and resizes them to squares.

    Where a box is larger than ``size``, adaptive average pooling (as in the reference: every pixel counts, without
    aliasing); where smaller, bilinear interpolation. Oblong boxes are squeezed, each direction by its own rule.

    Args:
        images: (B, 3, H, W), floating point.
        boxes: For each image its boxes, possibly none.
        size: Side of the views in pixels.

    Returns:
        ``views`` (N, 3, size, size), differentiable with respect to ``images``, image by image in the boxes' order;
        ``owner`` (N,) long, on the images' device, the index of each view's image.

    Raises:
        ValueError: As many box lists as images are needed; a box outside its image.
    """
    if len(boxes) != len(images):
        raise ValueError(f"expected one sequence of boxes per image, got {len(boxes)} for {len(images)} images")
    views, owner = [], []
    # unbind first: the gradient of a slice is as large as what it is cut from, here one image instead of the batch.
    for index, image in enumerate(images.unbind(0)):
        for box in boxes[index]:
            views.append(_resize(_crop(image, box), size))
            owner.append(index)
    stacked = torch.stack(views) if views else images.new_zeros((0, images.shape[1], size, size))
    return stacked, torch.tensor(owner, dtype=torch.long, device=images.device)


def _crop(image: Tensor, box: Region) -> Tensor:
    height, width = image.shape[-2:]
    bottom, right = box.top + box.height, box.left + box.width
    inside = 0 <= box.top < bottom <= height and 0 <= box.left < right <= width
    if not inside:
        raise ValueError(f"{box} does not lie inside an image of {height}x{width} pixels")
    return image[..., box.top : bottom, box.left : right]


def _resize(view: Tensor, size: int) -> Tensor:
    """(3, h, w) to (3, size, size)."""
    height, width = view.shape[-2:]
    if height > size or width > size:
        view = F.adaptive_avg_pool2d(view, (min(height, size), min(width, size)))
    if height < size or width < size:
        view = F.interpolate(view[None], (size, size), mode="bilinear", align_corners=False)[0]
    return view
