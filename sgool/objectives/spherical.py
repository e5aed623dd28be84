"""The spherical distance of the papers' CLIP loss (DOODL, SGOOL)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spherical_distance(u: Tensor, v: Tensor) -> Tensor:
    """Returns half the squared angle between u and v, ``2 * asin(|u/|u| - v/|v|| / 2) ** 2``.

    It is computed as ``2 * atan2(|a - b|, |a + b|) ** 2`` of the unit vectors. This is the same number, accurate and
    with a finite gradient everywhere: asin has an infinite slope for opposite vectors, and rounding can leave its
    domain.

    Args:
        u: Vectors (..., D), of any length above zero.
        v: Vectors (..., D), broadcast against ``u``.

    Returns:
        (...), in [0, pi^2 / 2], at least float32.
    """
    dtype = torch.promote_types(torch.promote_types(u.dtype, v.dtype), torch.float32)
    a, b = F.normalize(u.to(dtype), dim=-1), F.normalize(v.to(dtype), dim=-1)
    difference = torch.linalg.vector_norm(a - b, dim=-1)
    total = torch.linalg.vector_norm(a + b, dim=-1)
    return 2 * torch.atan2(difference, total).square()
