"""The learning rate over the updates of a batch."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import UpdateCallback, refuse_clock
from sgool.errors import SgoolError
from sgool.types import Evaluation

LR_SCHEDULES = ("constant", "cosine", "linear")


class ScheduleLearningRate(UpdateCallback):
    """Sets the learning rate of each update u of N by its number within the batch, never by the Trainer's step.

    =============  ===========================  =======================================
    ``schedule``   u < W, the warm-up           factor on ``lr`` later
    =============  ===========================  =======================================
    ``constant``   (u + 1) / (W + 1)            1
    ``cosine``     (u + 1) / (W + 1)            (1 + cos(pi (u - W) / (N - W))) / 2
    ``linear``     (u + 1) / (W + 1)            1 - (u - W) / (N - W)
    =============  ===========================  =======================================

    Update W is the first at the full rate, and the last update has a rate above 0. A pair that stops early has the
    rates that it would have had. The rate is logged as ``lr`` and stands in each pair's history; the row after the last
    update has the factor of u = N.

    Args:
        schedule: One of the above.
        warmup_updates: W, less than the updates.
    """

    order = 62
    name = "lr"

    def __init__(self, schedule: str = "constant", warmup_updates: int = 0) -> None:
        if schedule not in LR_SCHEDULES:
            raise SgoolError(f"`optimization.lr_schedule`: expected one of {', '.join(LR_SCHEDULES)}, got {schedule!r}")
        if warmup_updates < 0:
            raise SgoolError(f"`optimization.warmup_updates`: expected a number of at least 0, got {warmup_updates}")
        self.schedule, self.warmup_updates = schedule, warmup_updates

    def factor(self, update: int, updates: int) -> float:
        """Returns the factor on the learning rate at an update, counted from 0."""
        warmup = self.warmup_updates
        if update < warmup:
            return (update + 1) / (warmup + 1)
        share = (update - warmup) / (updates - warmup)
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * share)) / 2
        return 1 - share if self.schedule == "linear" else 1.0

    def values(self, module: Any, seen: Evaluation) -> Tensor:
        """Returns the learning rate (B,) of the update that saw this."""
        rate = module.lr * self.factor(seen.update, module.num_optimization_steps)
        return torch.full((len(module.pairs),), rate, dtype=torch.float64)

    def check(self, module: Any) -> None:
        """Refuses a warm-up or a schedule whose end nobody knows.

        Raises:
            SgoolError: The warm-up is as long as the updates, or longer; or a clock decides how many updates there are.
        """
        if self.schedule != "constant":
            refuse_clock(module, "optimization.lr_schedule", self.schedule)
        updates = getattr(module, "num_optimization_steps", None)
        if updates is not None and self.warmup_updates >= updates:
            raise SgoolError(
                f"`optimization.warmup_updates`: expected less than the {updates} updates, got {self.warmup_updates}"
            )

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Sets the optimiser's learning rate for the step that comes."""
        rate = pl_module.lr * self.factor(pl_module.update, pl_module.num_optimization_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs the learning rate of this update."""
        (rate,) = {group["lr"] for group in trainer.optimizers[0].param_groups}
        # A tensor in float64, since Lightning makes float32 of numbers.
        logged = torch.tensor(rate, dtype=torch.float64)
        pl_module.log("lr", logged, on_step=True, on_epoch=False, batch_size=len(pl_module.pairs))
