"""Metrics of how well a saliency map agrees with fixations of people, or with known places of objects.

These are the metrics of the MIT/Tübingen benchmark (Bylinskii et al. 2019), in float64. A map without contrast counts
as the uniform one, with an AUC of 0.5 and no correlation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Added inside the divergence's logarithm and quotient, as the benchmark's code does.
_EPSILON = float(np.finfo(np.float64).eps)


def auc_judd(saliency: ArrayLike | Tensor, fixations: ArrayLike | Tensor) -> float:
    """Returns the area under the ROC curve whose thresholds are the map's values at the fixations.

    It is 0.5 by chance and at most 1. The true positive rate is the share of fixations at or above a threshold; the
    false positive rate is that share of the other pixels. The benchmark's code breaks ties by noise; here tied pixels
    cross a threshold together.

    Args:
        saliency: (H, W), any scale.
        fixations: (H, W), true at fixated pixels, both true and false somewhere.
    """
    values, fixated = _values(saliency), _fixated(fixations, saliency)
    thresholds = np.unique(values[fixated])[::-1]
    hits = fixated.sum() - np.searchsorted(np.sort(values[fixated]), thresholds, side="left")
    alarms = (~fixated).sum() - np.searchsorted(np.sort(values[~fixated]), thresholds, side="left")
    true_positives = np.concatenate([[0.0], hits / fixated.sum(), [1.0]])
    false_positives = np.concatenate([[0.0], alarms / (~fixated).sum(), [1.0]])
    return float((np.diff(false_positives) * (true_positives[1:] + true_positives[:-1]) / 2).sum())


def nss(saliency: ArrayLike | Tensor, fixations: ArrayLike | Tensor) -> float:
    """Returns the normalised scanpath saliency: the standardised map's mean at the fixations.

    Args:
        saliency: (H, W), any scale.
        fixations: (H, W), true at fixated pixels, both true and false somewhere.
    """
    values, fixated = _values(saliency), _fixated(fixations, saliency)
    return float(_standardised(values)[fixated].mean())


def cc(saliency: ArrayLike | Tensor, density: ArrayLike | Tensor) -> float:
    """Returns Pearson's correlation coefficient of two maps (H, W) of any scale, in [-1, 1]."""
    return float((_standardised(_values(saliency)) * _standardised(_values(density, saliency))).mean())


def sim(saliency: ArrayLike | Tensor, density: ArrayLike | Tensor) -> float:
    """Returns the similarity in [0, 1] of two maps (H, W), not negative: their overlap when each sums to 1."""
    return float(np.minimum(_distribution(_values(saliency)), _distribution(_values(density, saliency))).sum())


def kl(saliency: ArrayLike | Tensor, density: ArrayLike | Tensor) -> float:
    """Returns the Kullback-Leibler divergence of the map from the density in nats; 0 is best.

    Both are (H, W) and not negative.
    """
    predicted, wanted = _distribution(_values(saliency)), _distribution(_values(density, saliency))
    return float((wanted * np.log(_EPSILON + wanted / (predicted + _EPSILON))).sum())


def _values(values: ArrayLike | Tensor, like: ArrayLike | Tensor | None = None) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or (like is not None and array.shape != tuple(np.shape(like))):
        wanted = "(H, W)" if like is None else tuple(np.shape(like))
        raise ValueError(f"expected a map of shape {wanted}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("expected a map of finite values, got NaN or infinite ones")
    return array


def _fixated(fixations: ArrayLike | Tensor, like: ArrayLike | Tensor) -> NDArray[np.bool_]:
    fixated = _values(fixations, like) != 0
    if fixated.all() or not fixated.any():
        raise ValueError("expected some fixated pixels and some others, got only one kind")
    return fixated


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Brings values to mean 0 and (population) standard deviation 1; returns zeros if they are flat up to rounding."""
    centred = values - values.mean()
    deviation = centred.std()
    return centred / deviation if deviation > 1e-12 * np.abs(values).max(initial=0.0) else np.zeros_like(values)


def _distribution(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.min() < 0:
        raise ValueError("expected a map without negative values")
    total = values.sum()
    return values / total if total > 0 else np.full_like(values, 1 / values.size)
