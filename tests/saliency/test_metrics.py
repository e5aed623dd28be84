from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from sgool.saliency.metrics import auc_judd, cc, kl, nss, sim

MAP = np.array([[4.0, 3.0], [2.0, 1.0]])
FIXATIONS = np.array([[1, 0], [1, 0]])
SHAPE = (5, 7)
maps = hnp.arrays(np.float64, SHAPE, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 3.0]))
fixation_maps = hnp.arrays(np.bool_, SHAPE)


def test_auc_by_hand() -> None:
    # Thresholds 4 and 2: (0, 1/2) and (1/2, 1) of false and true positives, then (1, 1).
    assert auc_judd(MAP, FIXATIONS) == 0 + 0.5 * (0.5 + 1) / 2 + 0.5 * 1


def test_nss_by_hand() -> None:
    # Mean 2.5, variance (1.5^2 + 0.5^2) / 2 = 1.25; fixated are 4 and 2, mean 3.
    assert nss(MAP, FIXATIONS) == pytest.approx(0.5 / math.sqrt(1.25), rel=1e-14)


def test_cc_by_hand() -> None:
    density = np.array([[1.0, 0.0], [0.0, 0.0]])
    # Covariance (4 - 2.5) / 4 = 0.375; deviations sqrt(1.25) and sqrt(3) / 4.
    assert cc(MAP, density) == pytest.approx(0.375 / (math.sqrt(1.25) * math.sqrt(3) / 4), rel=1e-14)


def test_sim_by_hand() -> None:
    density = np.array([[2.0, 2.0], [0.0, 0.0]])
    # 0.4, 0.3, 0.2, 0.1 against 0.5, 0.5, 0, 0.
    assert sim(MAP, density) == pytest.approx(0.7, rel=1e-14)


def test_kl_by_hand() -> None:
    density = np.array([[2.0, 2.0], [0.0, 0.0]])
    expected = 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.3)
    assert kl(MAP, density) == pytest.approx(expected, rel=1e-13)  # the benchmark's epsilon of 2e-16 inside


def test_kl_where_the_map_is_zero_is_large_and_finite() -> None:
    # log(1 / 2.2e-16): the map rules out what is there.
    assert kl(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])) == pytest.approx(-math.log(np.finfo(float).eps), rel=1e-6)


def judd_by_loops(saliency: np.ndarray, fixated: np.ndarray) -> float:
    """The definition, threshold by threshold and pixel by pixel."""
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for v, f in zip(saliency.flat, fixated.flat, strict=True) if f}, reverse=True):
        above = [f for v, f in zip(saliency.flat, fixated.flat, strict=True) if v >= threshold]
        points.append((above.count(False) / (fixated.size - fixated.sum()), above.count(True) / fixated.sum()))
    points.append((1.0, 1.0))
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


@settings(max_examples=80, deadline=None)
@given(maps, fixation_maps)
def test_auc_agrees_with_the_definition(saliency: np.ndarray, fixated: np.ndarray) -> None:
    assume(fixated.any() and not fixated.all())
    assert auc_judd(saliency, fixated) == pytest.approx(judd_by_loops(saliency, fixated), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(maps, fixation_maps)
def test_auc_is_the_rank_statistic_where_thresholds_are_dense(saliency: np.ndarray, fixated: np.ndarray) -> None:
    assume(fixated.any() and not fixated.all())
    # Every value of the map is a threshold only if some fixated pixel has it: then it is the Mann-Whitney statistic.
    assume(set(np.unique(saliency)) == set(np.unique(saliency[fixated])))
    u = stats.mannwhitneyu(saliency[fixated], saliency[~fixated]).statistic
    assert auc_judd(saliency, fixated) == pytest.approx(u / (fixated.sum() * (~fixated).sum()), abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(maps, maps)
def test_cc_and_kl_agree_with_scipy(saliency: np.ndarray, density: np.ndarray) -> None:
    assume(np.ptp(saliency) > 0 and np.ptp(density) > 0)
    assert cc(saliency, density) == pytest.approx(stats.pearsonr(saliency.ravel(), density.ravel())[0], abs=1e-12)
    if saliency.min() > 0:
        assert kl(saliency, density) == pytest.approx(stats.entropy(density.ravel(), saliency.ravel()), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(maps, maps, st.floats(0.1, 10))
def test_scale_does_not_matter(saliency: np.ndarray, density: np.ndarray, factor: float) -> None:
    for measure in (cc, sim, kl):
        assert measure(factor * saliency, density) == pytest.approx(measure(saliency, density), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(maps)
def test_the_truth_itself_is_best(density: np.ndarray) -> None:
    assume(np.ptp(density) > 0)
    assert (cc(density, density), sim(density, density)) == pytest.approx((1, 1), abs=1e-12)
    assert kl(density, density) == pytest.approx(0, abs=1e-12)
    assert auc_judd(density, density >= density.max()) == 1


def test_an_even_map_is_chance() -> None:
    for even in (np.zeros((2, 2)), np.full((2, 2), 0.1)):
        assert (auc_judd(even, FIXATIONS), nss(even, FIXATIONS), cc(even, MAP)) == (0.5, 0, 0)
        assert sim(even, MAP) == pytest.approx(0.1 + 0.2 + 0.25 + 0.25)
        assert kl(even, MAP) == pytest.approx(stats.entropy([0.4, 0.3, 0.2, 0.1], [0.25] * 4))


def test_tensors_and_arrays_agree() -> None:
    saliency, fixations = torch.from_numpy(MAP).requires_grad_(), torch.from_numpy(FIXATIONS).bool()
    assert auc_judd(saliency, fixations) == auc_judd(MAP, FIXATIONS)
    assert nss(saliency, fixations) == nss(MAP, FIXATIONS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite values, got NaN or infinite"):
        cc(np.array([[bad, 1.0]]), np.array([[0.0, 1.0]]))


@pytest.mark.parametrize("fixations", [np.zeros((2, 2)), np.ones((2, 2))])
def test_fixations_everywhere_or_nowhere_are_refused(fixations: np.ndarray) -> None:
    with pytest.raises(ValueError, match="some fixated pixels and some others"):
        auc_judd(MAP, fixations)


def test_shapes_must_match_and_densities_not_be_negative() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\), got \(1, 2\)"):
        kl(MAP, np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"shape \(H, W\), got \(1, 2, 2\)"):
        nss(MAP[None], FIXATIONS)
    with pytest.raises(ValueError, match="without negative values"):
        sim(-MAP, MAP)
