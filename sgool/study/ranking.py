"""Davidson's model of paired comparisons with ties, which extends Bradley and Terry's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

PRIOR = 1.0 / 9.0
"""Precision of the normal prior on log-strengths. Its standard deviation is 3, so e^3 = 20 to 1 is nothing unusual.
The prior keeps the estimate finite if a method never lost, and else is worth less than one vote."""

_LARGEST_STEP = 2.0
_CLOSE = 1e-9
_STEPS = 100


def fit_strengths(
    counts: NDArray[np.float64], pairs: Sequence[tuple[int, int]], methods: int, prior: float = PRIOR
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit P(i beats j) : P(tie) : P(j beats i) = s_i : nu sqrt(s_i s_j) : s_j by (penalised) maximum likelihood.

    Many data sets are fitted at once, by Newton's method; the log-likelihood is concave in (log s, log nu).

    Args:
        counts: (data sets, pairs, 3): wins of the first method, ties, wins of the second.
        pairs: The indices of each pair's two methods.
        methods: How many methods there are.
        prior: The precision of the normal prior on log s. Towards 0 the fit becomes that of maximum likelihood, which
            does not exist if ``is_separated``.

    Returns:
        The log-strengths log s, (data sets, methods), with sum 0, and nu, (data sets,).

    Sources: Bradley and Terry, Biometrika 39 (1952) 324-345; Davidson, Journal of the American Statistical
    Association 65 (1970) 317-328.
    """
    features = _features(pairs, methods)
    products = np.einsum("pkd,pke->pkde", features, features)
    # The ridge on log nu matters only without ties: then nu and its curvature go to 0.
    ridge = np.full(methods + 1, max(prior, 1e-8))
    ridge[-1] = 1e-9
    values = np.zeros((len(counts), methods + 1))
    numbers = counts.sum(axis=2, keepdims=True)
    for _ in range(_STEPS):
        scores = np.einsum("pkd,rd->rpk", features, values)
        chances = np.exp(scores - scores.max(axis=2, keepdims=True))
        chances /= chances.sum(axis=2, keepdims=True)
        gradient = np.einsum("rpk,pkd->rd", counts - numbers * chances, features) - ridge * values
        means = np.einsum("rpk,pkd->rpd", chances, features)
        curvature = np.einsum("rpk,pkde->rde", numbers * chances, products)
        curvature -= np.einsum("rp,rpd,rpe->rde", numbers[..., 0], means, means)
        step = np.linalg.solve(curvature + np.diag(ridge), gradient[..., None])[..., 0]
        values += np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)
        if np.abs(step[:, :-1]).max(initial=0.0) < _CLOSE:
            break
    strengths = values[:, :-1] - values[:, :-1].mean(axis=1, keepdims=True)
    ties = counts[..., 1].sum(axis=1) > 0
    return strengths, np.where(ties, np.exp(values[:, -1]), 0.0)


def is_separated(counts: NDArray[np.float64], pairs: Sequence[tuple[int, int]], methods: int) -> bool:
    """Whether some methods were never beaten or tied by the others, so that no finite estimate exists.

    Source: Ford, American Mathematical Monthly 64 (1957) 28-33.

    Args:
        counts: (pairs, 3), as in ``fit_strengths``.
        pairs: As in ``fit_strengths``.
        methods: As in ``fit_strengths``.
    """
    edges = np.zeros((methods, methods))
    for (first, second), (wins, ties, losses) in zip(pairs, counts, strict=True):
        edges[first, second] += wins + ties
        edges[second, first] += losses + ties
    number, _ = connected_components(csr_matrix(edges), directed=True, connection="strong")
    return bool(number > 1)


def _features(pairs: Sequence[tuple[int, int]], methods: int) -> NDArray[np.float64]:
    """Return (pairs, 3 outcomes, methods + 1): the features in which an outcome's log-probability is linear."""
    features = np.zeros((len(pairs), 3, methods + 1))
    for row, (first, second) in enumerate(pairs):
        features[row, 0, first] = features[row, 2, second] = 1.0
        features[row, 1, [first, second]] = 0.5
        features[row, 1, -1] = 1.0
    return features
