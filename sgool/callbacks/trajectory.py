"""What is kept of a fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import Column, LatentCallback
from sgool.errors import SgoolError
from sgool.module import Evaluation, LatentPairModule


class Trajectory(LatentCallback):
    """Keeps, per pair, the history of losses, the first image and the best one; ``keep`` "last" takes the last.

    The latents after the last update are evaluated when the fit ends, so N updates make N + 1 candidates. Of a pair
    that was stopped, the update at which it was is the last.

    Args:
        keep: "best" by the selection score, or "last".
        snapshot_every: Updates between two images that are kept; None: none are.
        columns: Further values for the history.
    """

    def __init__(self, keep: str = "best", snapshot_every: int | None = None, columns: Sequence[Column] = ()) -> None:
        if keep not in ("best", "last"):
            raise SgoolError(f"`optimization.keep`: expected best or last, got {keep!r}")
        self.keep, self.snapshot_every, self.columns = keep, snapshot_every, tuple(columns)
        self.history: list[list[dict[str, float]]] = []
        self.best: list[dict[str, Any]] = []
        self.first: Evaluation | None = None
        self.snapshots: list[tuple[int, Tensor]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Starts empty histories."""
        self.history = [[] for _ in pl_module.pairs]
        self.best = [{"selection": float("inf"), "update": 0} for _ in pl_module.pairs]
        self.first, self.snapshots = None, []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes what this update saw before its step."""
        self._take(pl_module, pl_module.evaluation)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Evaluates the latents after the last update, under the trainer's precision; nothing if all pairs stopped."""
        if len(pl_module.stopped) == len(pl_module.pairs):
            return
        with trainer.precision_plugin.forward_context():
            seen = pl_module.evaluate()
        for index in torch.nonzero(~torch.isfinite(seen.loss)).flatten().tolist():
            if index not in pl_module.stopped:
                pl_module.failures.setdefault(index, "non-finite loss after the last update")
        self._take(pl_module, seen)

    def _take(self, module: LatentPairModule, seen: Evaluation) -> None:
        self.first = self.first or seen
        if self.snapshot_every and seen.update % self.snapshot_every == 0:
            self.snapshots.append((seen.update, seen.images.cpu()))
        columns = {column.name: column.values(module, seen) for column in self.columns}
        for index, history in enumerate(self.history):
            if module.has_stopped_before(index, seen.update):
                continue
            row = _row(seen, index) | {name: float(values[index]) for name, values in columns.items()}
            history.append(row)
            usable = index not in module.failures and math.isfinite(row["selection"])
            if usable and (self.keep == "last" or row["selection"] < self.best[index]["selection"]):
                saliency = seen.output.saliency_map
                self.best[index] = {
                    "selection": row["selection"],
                    "update": seen.update,
                    "latents": seen.latents[:, index].cpu(),
                    "image": seen.images[index].cpu(),
                    "saliency_map": None if saliency is None else saliency[index].cpu(),
                }


def _row(seen: Evaluation, index: int) -> dict[str, float]:
    loss, selection = float(seen.loss[index]), float(seen.selection[index])
    terms = {name: float(value[index]) for name, value in seen.output.terms.items()}
    row = {"update": seen.update, "loss": loss, "selection": selection, **terms}
    row["latent_norm"] = float(seen.latents[0, index].norm())
    if seen.output.saliency_map is not None:
        row["regions"] = len(seen.output.regions[index])
    return row
