"""Finds the salient regions of a saliency map: boxes around its few heaviest parts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.types import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def find_regions(
    saliency_map: Tensor | NDArray[np.floating],
    *,
    threshold: float = 0.5,
    max_regions: int = 3,
    margin: float = 0.1,
    min_side: float = 0.3,
) -> tuple[Region, ...]:
    """Finds the connected components (8 neighbours) above a threshold, heaviest first, as boxes inside the image.

    A component's box gets a margin and becomes a square around the component's centre, which is shifted into the image.
    A side never exceeds the image, so a box can be oblong only in an oblong image. Boxes may overlap.

    Args:
        saliency_map: Map (H, W), not negative.
        threshold: Fraction of the map's maximum from which a pixel belongs to a region, in (0, 1].
        max_regions: How many components to keep at most; 0 keeps none.
        margin: Added on each side, as a fraction of the component's larger side.
        min_side: Smallest side of a box, as a fraction of the image's smaller side, in [0, 1].

    Returns:
        Regions in order of falling saliency mass (ties: top, then left); their masses sum to 1. Empty if nothing in
        the map is above zero.

    Raises:
        SgoolError: The map has NaN or infinite values.
        ConfigError: A setting is outside its range.
        ValueError: The map is not two-dimensional.
    """
    if problems := region_problems(threshold, max_regions, margin, min_side):
        raise ConfigError(problems)
    values = _as_array(saliency_map)
    peak = values.max(initial=0.0)
    if peak <= 0:
        return ()
    labels, number = ndimage.label(values >= threshold * peak, structure=_EIGHT_NEIGHBOURS)
    masses = np.atleast_1d(ndimage.sum_labels(values, labels, np.arange(1, number + 1)))
    slices = ndimage.find_objects(labels)
    order = sorted(range(number), key=lambda i: (-masses[i], slices[i][0].start, slices[i][1].start))[:max_regions]
    total = float(masses[order].sum())
    return tuple(_box(slices[i], values.shape, margin, min_side, float(masses[i]) / total) for i in order)


def region_problems(threshold: float, max_regions: int, margin: float, min_side: float) -> list[str]:
    """Returns a problem for each setting of `find_regions` that is outside its range."""
    problems = []
    if not 0 < threshold <= 1:
        problems.append(f"saliency.threshold must be in (0, 1], a fraction of the map's maximum, got {threshold}.")
    if max_regions < 0 or int(max_regions) != max_regions:
        problems.append(f"saliency.max_regions must be a whole number, 0 or more, got {max_regions}.")
    if not (math.isfinite(margin) and margin >= 0):
        problems.append(f"saliency.margin must be 0 or more, a fraction of the region's side, got {margin}.")
    if not 0 <= min_side <= 1:
        problems.append(f"saliency.min_side must be in [0, 1], a fraction of the image's smaller side, got {min_side}.")
    return problems


def _as_array(saliency_map: Tensor | NDArray[np.floating]) -> NDArray[np.float64]:
    if isinstance(saliency_map, Tensor):
        saliency_map = saliency_map.detach().cpu().double().numpy()  # Apple's GPUs have no float64
    values = np.asarray(saliency_map, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"expected a saliency map of shape (H, W), got {values.shape}")
    if not np.isfinite(values).all():
        raise SgoolError(
            "The saliency map holds NaN or infinite values; expected finite numbers. Check the detector's weights and "
            "that the images given to it are finite."
        )
    return values


def _box(part: tuple[slice, ...], shape: tuple[int, ...], margin: float, min_side: float, mass: float) -> Region:
    smaller = min(shape)
    extent = max(s.stop - s.start for s in part)
    side = max(math.ceil(extent * (1 + 2 * margin)), math.ceil(min_side * smaller), 1)
    starts, sides = [], []
    for piece, length in zip(part, shape, strict=True):
        along = min(side, length)
        start = (piece.start + piece.stop - along) // 2
        starts.append(min(max(start, 0), length - along))
        sides.append(along)
    return Region(starts[0], starts[1], sides[0], sides[1], mass)
