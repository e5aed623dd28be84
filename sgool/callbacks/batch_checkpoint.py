"""Checkpoints of the batch of pairs under way, and the end of a run on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from sgool.callbacks.base import PairCallback
from sgool.errors import Interrupted
from sgool.results.checkpoint import ORIGIN, origin, read_checkpoint, write_checkpoint
from sgool.types import Candidate, PairResult, PromptSeed


class BatchCheckpoint(PairCallback):
    """Writes what the batch under way needs to go on: every so many updates, and where a run is interrupted.

    Unlike Lightning's checkpoints, of a whole Trainer, such a file belongs to its pairs alone: whoever takes them up
    next, in whatever process and order, goes on from it. One file is written again and again, whole or not at all.
    Whoever gives the path removes it once the results are safe.

    Args:
        path: Where a batch's file lies.
        fingerprint: What else has to be equal for a file to be taken up, for example a hash of the configuration.
        every: Updates (candidates) between two checkpoints; None: none are written between.
        interrupted: Asked after each update, candidate and denoising step whether the run has to end. A SIGTERM that
            the Trainer was sent ends it as well.
        on_note: Told why a file is of no use.
        on_written: Told the pairs, the updates done and how many there are, after each checkpoint.
        on_done: Told once a batch's results are handed over, so that its file may go.
    """

    #: The last one: it holds what all others have done, and restores their state after they have begun anew.
    order = 1000

    def __init__(
        self,
        path: Callable[[Sequence[PromptSeed]], Path],
        fingerprint: str = "",
        *,
        every: int | None = None,
        interrupted: Callable[[], bool] | None = None,
        on_note: Callable[[str], None] | None = None,
        on_written: Callable[[Sequence[PromptSeed], int, int], None] | None = None,
        on_done: Callable[[], None] | None = None,
    ) -> None:
        self._path, self._fingerprint, self._every = path, fingerprint, every
        self._interrupted, self._on_note = interrupted, on_note
        self._on_written, self._on_done = on_written, on_done
        self._origin: dict[str, Any] = {}

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Takes up the batch's file, if it is there, whole, and of the same pairs and settings."""
        settings = [L.__version__, self._fingerprint, str(trainer.precision), *pl_module.checkpoint_settings()]
        self._origin = origin(pl_module.method, pl_module.pairs, settings)
        content = read_checkpoint(self._path(pl_module.pairs), self._origin, self._on_note)
        if content is not None:
            pl_module.load_batch_state(content["batch"])
            pl_module.seconds_before = content["seconds"]

    def on_pairs_end(self, trainer: L.Trainer, pl_module: Any, results: Sequence[PairResult]) -> None:
        """Says that the batch is done; callbacks with a lower order have written its results."""
        if self._on_done is not None:
            self._on_done()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes a checkpoint when one is due; ends the epoch where the run has to end."""
        if self._after_round(trainer, pl_module, batch):
            # Not an exception: Lightning would drop what this update has logged.
            trainer.should_stop = True

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Writes a checkpoint when one is due.

        Raises:
            Interrupted: It was asked to end: Lightning has no other way to end a prediction.
        """
        if self._after_round(trainer, pl_module, batch):
            raise Interrupted(f"stopped after {batch.update + 1} of {batch.updates}, as it was asked to")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Does what `on_predict_batch_end` does."""
        self.on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_candidate(self, trainer: L.Trainer, pl_module: Any, seen: Candidate) -> None:
        """Writes a checkpoint when one is due.

        Raises:
            Interrupted: It was asked to end: the first update, which would end the epoch, has not been made.
        """
        done, ends = seen.index + 1, self._must_end(trainer)
        if ends or (self._every and done % self._every == 0):
            self._write(pl_module, done, seen.total + pl_module.batch.updates)
        if ends:
            raise Interrupted(f"stopped after candidate {done} of {seen.total}, as it was asked to")

    def on_denoising_step(self, trainer: L.Trainer, pl_module: Any, step: int, total: int) -> None:
        """Ends the prediction where the run has to end, but not after the last step.

        Raises:
            Interrupted: It was asked to end.
        """
        if step < total and self._must_end(trainer):
            raise Interrupted(f"stopped after step {step} of {total}, as it was asked to")

    def _after_round(self, trainer: L.Trainer, module: Any, batch: Any) -> bool:
        """Whether to end: in the middle of a batch, after a checkpoint."""
        done, ends = batch.update + 1, self._must_end(trainer)
        if batch.is_over:  # its results are handed over
            return ends
        if ends or (self._every and done % self._every == 0):
            before = module.num_searched
            self._write(module, before + done, before + batch.updates)
        return ends

    def _write(self, module: Any, done: int, total: int) -> None:
        state = {ORIGIN: self._origin, "batch": module.batch_state(), "seconds": module.seconds}
        write_checkpoint(self._path(module.pairs), state)
        if self._on_written is not None:
            self._on_written(module.pairs, done, total)

    def _must_end(self, trainer: L.Trainer) -> bool:
        return trainer.received_sigterm or (self._interrupted is not None and self._interrupted())
