"""Checkpoints of a fit, and its end on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from sgool.results.checkpoint import ORIGIN, read_checkpoint, write_checkpoint
from sgool.results.under_way import write_note

_SECONDS = "seconds"


class FitCheckpoint(L.Callback):
    """Writes Lightning's checkpoint of a fit: every so many updates, where it is interrupted, and at its end.

    It has to be the last callback, so that a checkpoint holds updates that all others have dealt with. One file is
    written again and again, whole or not at all.

    Args:
        path: The file; None: none is written.
        origin: What the file's fit has to share with one that goes on from it (`sgool.results.checkpoint.origin`).
        every: Updates between two checkpoints; None: none are written between.
        interrupted: Asked after each update whether the fit has to end.
    """

    def __init__(
        self,
        path: Path | None,
        origin: Mapping[str, Any],
        *,
        every: int | None = None,
        interrupted: Callable[[], bool] | None = None,
    ) -> None:
        self._path, self._origin, self._every, self._interrupted = path, origin, every, interrupted
        #: Wall seconds that earlier starts of this fit took.
        self.seconds_before = 0.0
        self._began = time.perf_counter()

    def usable(self, note: Callable[[str], None] | None = None) -> Path | None:
        """The file, if it is there, whole and of this origin."""
        return self._path if read_checkpoint(self._path, self._origin, note) is not None else None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Writes where it is time to; ends the fit where that is asked for."""
        if self._interrupted is not None and self._interrupted():
            # Not an exception: Lightning would drop what this update has logged.
            pl_module.interrupted = trainer.should_stop = True
        if pl_module.interrupted or (self._every and trainer.global_step % self._every == 0):
            self._write(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes the end, so that a run killed before its records are written need not do the last part again."""
        if not pl_module.interrupted:
            self._write(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """A SIGTERM between two updates, which Lightning answers by itself, is an interrupt as well."""
        if isinstance(exception, SIGTERMException) and not pl_module.interrupted:
            pl_module.interrupted = True
            self._write(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the origin and the time taken."""
        checkpoint[ORIGIN] = dict(self._origin)
        checkpoint[_SECONDS] = self.seconds_before + time.perf_counter() - self._began

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Takes over the time taken."""
        self.seconds_before = checkpoint.get(_SECONDS, 0.0)

    def _write(self, trainer: L.Trainer) -> None:
        if self._path is not None:
            # Trainer.save_checkpoint would write on rank 0 alone and wait for the others, whose pairs are not these.
            write_checkpoint(self._path, trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
            write_note(self._path, self._origin.get("pairs", ()), trainer.global_step, trainer.max_steps)
