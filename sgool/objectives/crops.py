"""Makes views of an image: draws random square boxes, and resizes boxes to a network's input, differentiably."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sgool.types import Region


def random_boxes(
    image_size: tuple[int, int], num: int, generator: torch.Generator, *, power: float = 0.3, min_side: float = 0.45
) -> tuple[Region, ...]:
    """Draws random squares as DOODL does: of side ``int(u ** power * (max - min) + min)``, at uniform positions.

    The smaller ``power`` is, the closer the sides are to the maximum, which is the image's smaller side.

    Args:
        image_size: (H, W) in pixels.
        num: Number of boxes; with 0, nothing is drawn from the generator.
        generator: Source of the 3 * num uniform numbers, drawn on its device. A CPU generator gives the same boxes
            whatever device the images are on.
        power: Exponent, 0 or more; 0 always gives the maximum.
        min_side: Smallest side as a fraction of the image's smaller side, in (0, 1]. The papers' 224 of 512 pixels is
            0.44.

    Returns:
        Boxes inside the image, each with mass 1 / num.
    """
    height, width = image_size
    largest = min(height, width)
    smallest = min(largest, max(1, round(min_side * largest)))
    uniform = torch.rand(num, 3, generator=generator, device=generator.device, dtype=torch.float64).tolist()
    boxes = []
    for size, down, right in uniform:
        side = int(size**power * (largest - smallest) + smallest)
        # min, since a uniform number just below 1 can round up to the excluded end.
        top = min(int(down * (height - side + 1)), height - side)
        left = min(int(right * (width - side + 1)), width - side)
        boxes.append(Region(top, left, side, side, 1 / num))
    return tuple(boxes)


def crop_resize(images: Tensor, boxes: Sequence[Sequence[Region]], size: int) -> tuple[Tensor, Tensor]:
    """Cuts boxes out of images and resizes them to squares.

    A side larger than ``size`` is resized by adaptive average pooling, as in the reference code: every pixel counts,
    without aliasing. A smaller one is resized by bilinear interpolation. Oblong boxes are squeezed.

    Args:
        images: (B, 3, H, W), floating point.
        boxes: For each image its boxes, possibly none.
        size: Side of the views in pixels.

    Returns:
        ``views`` (N, 3, size, size), differentiable with respect to ``images``, image by image in the boxes' order;
        ``owner`` (N,) long, on the images' device, the index of each view's image.

    Raises:
        ValueError: There are not as many lists of boxes as images, or a box lies outside its image.
    """
    if len(boxes) != len(images):
        raise ValueError(f"expected one sequence of boxes per image, got {len(boxes)} for {len(images)} images")
    views, owner = [], []
    # unbind, since the gradient of a slice is as large as what it is cut from: one image instead of the batch.
    for index, image in enumerate(images.unbind(0)):
        for box in boxes[index]:
            views.append(_resize(_crop(image, box), size))
            owner.append(index)
    stacked = torch.stack(views) if views else images.new_zeros((0, images.shape[1], size, size))
    return stacked, torch.tensor(owner, dtype=torch.long, device=images.device)


class Views:
    """Views of images: boxes that are cut out and resized once for each size."""

    def __init__(self, images: Tensor, boxes: Sequence[tuple[Region, ...]]) -> None:
        self.images, self.boxes = images, boxes
        self._cut: dict[int, tuple[Tensor, Tensor]] = {}

    def at(self, size: int) -> tuple[Tensor, Tensor]:
        """Returns the views and their images' indices as `crop_resize` does."""
        if size not in self._cut:
            self._cut[size] = crop_resize(self.images, self.boxes, size)
        return self._cut[size]


def _crop(image: Tensor, box: Region) -> Tensor:
    height, width = image.shape[-2:]
    bottom, right = box.top + box.height, box.left + box.width
    inside = 0 <= box.top < bottom <= height and 0 <= box.left < right <= width
    if not inside:
        raise ValueError(f"{box} does not lie inside an image of {height}x{width} pixels")
    return image[..., box.top : bottom, box.left : right]


def _resize(view: Tensor, size: int) -> Tensor:
    """Resizes a view (3, h, w) to (3, size, size)."""
    height, width = view.shape[-2:]
    if height > size or width > size:
        view = F.adaptive_avg_pool2d(view, (min(height, size), min(width, size)))
    if height < size or width < size:
        view = F.interpolate(view[None], (size, size), mode="bilinear", align_corners=False)[0]
    return view
