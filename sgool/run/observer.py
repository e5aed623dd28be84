"""The callback that tells the terminal and the loggers of a run what its Trainer does."""

from __future__ import annotations

from typing import Any

import lightning as L

from sgool.callbacks import PairCallback, Trajectory
from sgool.loggers import RunLogs
from sgool.run.progress import Progress
from sgool.types import Candidate


class RunObserver(PairCallback):
    """Tells of each batch that begins, and of each update, candidate or denoising step.

    Args:
        progress: What the terminal shows.
        logs: The method's loggers.
    """

    #: Before a batch's results are made of its last update: that is told first.
    order = Trajectory.order - 1

    def __init__(self, progress: Progress, logs: RunLogs) -> None:
        self._progress, self._logs = progress, logs

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Says that a batch begins."""
        self._logs.begin(pl_module.pairs)
        self._progress.batch(pl_module.method, pl_module.pairs)

    def on_candidate(self, trainer: L.Trainer, pl_module: Any, seen: Candidate) -> None:
        """Says that a candidate is done, of all that is done before the last update."""
        score = float(seen.selection.mean())
        self._progress.update(seen.index + 1, seen.total + pl_module.batch.updates, score, score)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Says that an update is done, and logs it."""
        # Lightning logs after all callbacks. A process that is killed before that, when a checkpoint has the update or
        # its pairs are recorded, would leave it out for good.
        self._logs.update(pl_module.curves())
        seen = pl_module.evaluation
        loss, objective = float(seen.loss.mean()), float(seen.selection.mean())
        before = pl_module.num_searched
        self._progress.update(before + batch.update + 1, before + batch.updates, loss, objective)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Says that a candidate is done."""
        if batch.updates > 1:
            self._progress.update(batch.update + 1, batch.updates)

    def on_denoising_step(self, trainer: L.Trainer, pl_module: Any, step: int, total: int) -> None:
        """Says that a denoising step is done."""
        self._progress.update(step, total)
