"""What all callbacks on latents share."""

from __future__ import annotations

from typing import Any, Protocol

import lightning as L
from torch import Tensor

from sgool.errors import SgoolError
from sgool.methods.latent_pairs import Evaluation, LatentPairModule


class LatentCallback(L.Callback):
    """A callback for a LatentPairModule."""

    @staticmethod
    def gradient(module: L.LightningModule) -> Tensor:
        """(S, B, C, h, w), to be changed in place."""
        assert isinstance(module, LatentPairModule) and module.latents.grad is not None
        return module.latents.grad


class Column(Protocol):
    """A value of each evaluation that a pair's history shows beside the objective's own."""

    name: str

    def values(self, module: LatentPairModule, seen: Evaluation) -> Tensor:
        """(B,), of what an update saw."""
        ...


def require_positive(name: str, value: Any) -> None:
    """Raises SgoolError for what is no number above 0."""
    if not value > 0:
        raise SgoolError(f"`optimization.{name}`: expected a positive number, got {value}")
