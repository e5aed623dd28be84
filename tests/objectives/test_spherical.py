from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgool.objectives import spherical_distance


def plain(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The papers' formula, literally."""
    u = u / np.linalg.norm(u, axis=-1, keepdims=True)
    v = v / np.linalg.norm(v, axis=-1, keepdims=True)
    return 2 * np.arcsin(np.linalg.norm(u - v, axis=-1) / 2) ** 2


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 20), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_agrees_with_the_plain_formula(width: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((2, 5, width))
    result = spherical_distance(torch.from_numpy(u * scale), torch.from_numpy(v)).numpy()
    # arcsin near 1 (opposite vectors) loses up to half of float64's digits.
    np.testing.assert_allclose(result, plain(u, v), rtol=1e-7)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 30.0, 90.0, 179.0, 180.0])
def test_is_half_the_squared_angle(degrees: float) -> None:
    angle = math.radians(degrees)
    u = torch.tensor([1.0, 0.0], dtype=torch.float64)
    v = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64) * 3
    # Rounding of the unit vectors: 1e-16 absolute in the angle.
    assert float(spherical_distance(u, v)) == pytest.approx(angle**2 / 2, rel=1e-9, abs=1e-20)


def test_gradient_matches_finite_differences() -> None:
    u, v = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: spherical_distance(x, v), (u.requires_grad_(),))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradient_is_finite_for_equal_and_opposite_vectors(sign: float) -> None:
    u = torch.tensor([0.3, 0.4, 0.5], requires_grad=True)
    spherical_distance(u, sign * u.detach()).backward()
    assert u.grad is not None and u.grad.isfinite().all()


def test_half_precision_and_broadcast() -> None:
    u, v = torch.randn(4, 1, 8).half(), torch.randn(3, 8).half()
    result = spherical_distance(u, v)
    assert result.shape == (4, 3) and result.dtype == torch.float32
    torch.testing.assert_close(result, spherical_distance(u.float(), v.float()))
