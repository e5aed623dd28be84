"""The curves of the fit under way: what each update saw, as means over the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor


class UpdateLogger(L.Callback):
    """Gives the trainer's loggers each update's values.

    These are ``loss``, ``selection``, ``term/NAME``, ``latent_norm`` and ``gradient_norm`` (before clipping), each a
    mean over the batch's pairs that have neither failed nor stopped. The loggers are called directly: Lightning's own
    ``log_dict`` would round to float32.
    """

    def __init__(self) -> None:
        self._gradient_norms: Tensor | None = None

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Takes the gradient's norm before any callback changes it."""
        if trainer.loggers and pl_module.latents.grad is not None:
            self._gradient_norms = pl_module.latents.grad.detach().square().sum(dim=(0, 2, 3, 4)).sqrt()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs what this update saw before its step."""
        if not trainer.loggers:
            return
        seen = pl_module.evaluation
        columns = {"loss": seen.loss, "selection": seen.selection}
        columns |= {f"term/{name}": value for name, value in seen.output.terms.items()}
        columns["latent_norm"] = seen.latents[0].flatten(1).norm(dim=1)
        if self._gradient_norms is not None:
            columns["gradient_norm"] = self._gradient_norms
        pairs = range(len(pl_module.pairs))
        shown = [i for i in pairs if i not in pl_module.failures and not pl_module.has_stopped_before(i, seen.update)]
        if not shown:
            return
        table = torch.stack([column.double() for column in columns.values()]).cpu()[:, shown]
        values = dict(zip(columns, table.mean(dim=1).tolist(), strict=True))
        for logger in trainer.loggers:
            logger.log_metrics(values, step=seen.update)


class UpdateFilter:
    """Lets each value of each update pass once.

    A fit that continues from its checkpoint makes the updates after it a second time, to the bit; and several
    callbacks may log one update.

    Args:
        last: The last update that was logged in an earlier start, by batch.
    """

    def __init__(self, last: Mapping[str, int]) -> None:
        self._before = dict(last)
        self._batch, self._update, self._names = "", -1, set[str]()

    def begin(self, batch: str) -> None:
        """The next updates are this batch's."""
        self._batch, self._update, self._names = batch, -1, set()

    def end(self, batch: str) -> None:
        """The batch has ended: if its pairs are done again, they are logged again."""
        self._before.pop(batch, None)

    def fresh(self, values: Mapping[str, float], update: int) -> dict[str, float]:
        """Those of an update's values that were not logged yet; Lightning's ``epoch`` says nothing here."""
        if update <= self._before.get(self._batch, -1) or update < self._update:
            return {}
        if update > self._update:
            self._update, self._names = update, set()
        new = {name: float(value) for name, value in values.items() if name not in self._names and name != "epoch"}
        self._names |= new.keys()
        return new
