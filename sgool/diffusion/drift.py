"""Measures how far a chain that was run backwards ended from its true first latents."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from sgool.errors import SgoolError


def relative_drift(found: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """Returns the largest difference divided by the true latents' standard deviation, for the worst of the B pairs.

    Args:
        found: Latents that a backward run arrived at, tensors (B, C, h, w).
        true: The true latents, tensors of the same shapes.
    """
    worst = 0.0
    for got, expected in zip(found, true, strict=True):
        difference = (got - expected).abs().flatten(1).amax(dim=1)
        spread = expected.flatten(1).std(dim=1).clamp_min(torch.finfo(expected.dtype).tiny)
        # Not a number stays one in amax, and is a drift beyond every threshold. There may be no pair.
        worst = max([worst, *(difference / spread).nan_to_num(nan=torch.inf).tolist()])
    return worst


class DriftGuard:
    """Warns once where an inversion is inexact, and raises where it is too inexact.

    Args:
        warn: Relative drift above which it warns.
        fail: Relative drift above which it raises.
    """

    def __init__(self, warn: float, fail: float) -> None:
        self.warn, self.fail = warn, fail
        self._warned = False

    def check(self, found: Sequence[Tensor], true: Sequence[Tensor]) -> None:
        """Compares the first latents that backward arrived at with the true ones.

        Raises:
            SgoolError: The drift is above ``fail``.
        """
        drift = relative_drift(found, true)
        advice = "use engine=checkpoint, fewer steps, or float64 (trainer.precision=64-true models.dtype=float64)"
        if drift > self.fail:
            raise SgoolError(
                f"`engine`: reversible arrived at first latents that are {drift:.1e} standard deviations off, above "
                f"`max_drift` {self.fail:g}, so its gradient is wrong; {advice}"
            )
        if drift > self.warn and not self._warned:
            self._warned = True
            warnings.warn(
                f"engine reversible: round-trip drift of {drift:.1e} standard deviations in {true[0].dtype}; {advice}",
                stacklevel=2,
            )
