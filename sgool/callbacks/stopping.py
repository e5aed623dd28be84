"""Stopping a pair before its updates are used up."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from torch import Tensor

from sgool.callbacks.base import UpdateCallback
from sgool.errors import SgoolError
from sgool.objectives import CropSettings, Objective
from sgool.objectives.binding import check_binding
from sgool.objectives.terms import Term
from sgool.types import Evaluation


class EarlyStop(UpdateCallback):
    """Stops a pair once a term that nobody optimises has been above its lowest value for ``patience`` updates in a row.

    The term is measured on the whole image, without crops. A stopped pair stays where it is, while the others of its
    batch go on; what it costs ends there as well. Which image is kept is not decided here (``optimization.keep``).

    Args:
        term: Of the held-out term; smaller is better.
        patience: Updates.

    Raises:
        SgoolError: A patience below 1.
    """

    order = 20
    name = "held_out"

    def __init__(self, term: Term, patience: int) -> None:
        if patience < 1:
            raise SgoolError(f"`optimization.early_stop.patience`: expected 1 or more, got {patience}")
        self.patience = patience
        self._term = term
        self._objective = Objective({term.name: term}, {term.name: 1.0}, CropSettings(num=0))
        self._bound: Any = None
        self._lowest: list[float] = []
        self._waited: list[int] = []
        self._last: tuple[int, Tensor] | None = None

    @property
    def term(self) -> Term:
        """The held-out term."""
        return self._term

    def fingerprints(self) -> dict[str, list[str]]:
        """Returns the fingerprints of the term's networks by its name: what stops pairs is no independent judge."""
        return self._objective.fingerprints()

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Refuses pairs that the term cannot be bound to, before any network call.

        Raises:
            ConfigError: All of them.
        """
        check_binding(self._objective.terms, None, pl_module.all_pairs)

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Starts to count updates anew, for the pairs of a new batch."""
        self._bound, self._last = self._objective.bind(pl_module.pairs), None
        self._lowest, self._waited = [float("inf")] * len(pl_module.pairs), [0] * len(pl_module.pairs)

    def batch_state(self) -> dict[str, Any]:
        """Returns each pair's lowest value and how long it has waited since."""
        return {"lowest": list(self._lowest), "waited": list(self._waited)}

    def load_batch_state(self, state: dict[str, Any]) -> None:
        """Restores each pair's lowest value and how long it has waited since."""
        self._lowest, self._waited = list(state["lowest"]), list(state["waited"])

    def values(self, module: Any, seen: Evaluation) -> Tensor:
        """Returns the term's values (B,) on the whole images."""
        if self._last is None or self._last[0] != seen.update:
            self._last = (seen.update, self._bound.evaluate(seen.images))
        return self._last[1]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Marks pairs that have waited long enough; `NonFiniteGuard` holds them, and deals with what is not finite."""
        seen = pl_module.evaluation
        for index, value in enumerate(self.values(pl_module, seen).tolist()):
            if pl_module.is_stopped(index) or not math.isfinite(value):
                continue
            self._waited[index] = 0 if value < self._lowest[index] else self._waited[index] + 1
            self._lowest[index] = min(value, self._lowest[index])
            if self._waited[index] >= self.patience:
                pl_module.stop(index, seen.update)
