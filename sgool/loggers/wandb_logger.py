"""The logger for W&B: Lightning's, extended so that a run continues at the step where the last process left it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from lightning.pytorch.loggers import WandbLogger

from sgool.loggers.bands import bands
from sgool.loggers.tables import as_table, pair_row, read_history, scores
from sgool.loggers.updates import UpdateFilter
from sgool.loggers.wandb_run import OpenRun
from sgool.results import RunFolder
from sgool.results.atomic import explain_os_errors
from sgool.results.shards import batch_name
from sgool.types import PairRecord, PromptSeed

_logger = logging.getLogger(__name__)
_P = ParamSpec("_P")

MOST_POINTS = 50_000
"""The most points of a curve of updates; W&B's pages get slow above 100,000 points of a metric."""

_CHUNK_PAIRS, _CHUNK_PAIRS_WITHOUT_IMAGES, _CHUNK_ROWS, _CHUNK_SECONDS = 16, 128, 8_000, 300.0
"""A part of a table is written when one of these is reached; W&B shows at most 10,000 rows at once."""

_MOST_HISTORIES = 10_000
"""The most pairs of which curves over a whole method are made."""


def _never_fatal(method: Callable[Concatenate[WandbPairLogger, _P], None]) -> Callable[..., None]:
    """Turns W&B's errors in a method into warnings, each once: the run folder has everything that a log would."""

    @wraps(method)
    def guarded(self: WandbPairLogger, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            # W&B, its service and the network raise many types. What is lost here is logged at the next start.
            text = f"{type(error).__name__}: {error}"
            if text not in self.errors:
                _logger.warning("W&B could not log (%s); the run goes on", text)
            self.errors.add(text)

    return guarded


class WandbPairLogger(WandbLogger):
    """Logs curves of updates, scores of pairs, tables with images, and the method's means to W&B.

    Every row has a step of its own, counted on over all starts, since W&B drops rows whose step is not above the last.

    Args:
        opened: The W&B run.
        options: ``images``: how many pairs are shown with images; ``image_size``: their longest side in pixels.
        run_dir: The run folder, from which pairs are read.
        method: The method.
        planned_updates: As in `sgool.loggers.RunLogs`.
    """

    def __init__(
        self, opened: OpenRun, options: Mapping[str, Any], run_dir: Path, method: str, planned_updates: int = 0
    ) -> None:
        run = opened.run
        super().__init__(name=run.name, id=run.id, save_dir=str(run_dir), project=options["project"], experiment=run)
        self._opened, self._ledger, self._state = opened, opened.ledger, opened.ledger.state
        self._folder, self._method = RunFolder(run_dir), method
        self._images: int | None = options["images"]
        self._image_size: int = options["image_size"]
        self._every = -(-planned_updates // MOST_POINTS) or 1
        self._filter, self._batch, self._number = UpdateFilter(self._state.updates), "", -1
        self._written = time.monotonic()
        #: W&B's errors so far, each once.
        self.errors: set[str] = set()
        self._catch_up()

    @property
    def experiment(self) -> Any:
        """W&B's run. Unlike Lightning's own, it does not depend on the rank: each process has a run of its own."""
        return self._experiment

    def log_hyperparams(self, params: Any) -> None:
        """Logs nothing: W&B's run has the whole configuration already."""

    def begin(self, pairs: Sequence[PromptSeed]) -> None:
        """Begins a batch: the updates logged next are those of these pairs."""
        self._batch = batch_name([pair.pair_id for pair in pairs])
        self._filter.begin(self._batch)
        if self._batch not in self._state.batches:
            self._state.batches[self._batch] = self._state.next_batch
            self._state.next_batch += 1
        self._number = self._state.batches[self._batch]
        self._save()

    @_never_fatal
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs an update's values; Lightning's ``step`` is not used."""
        update, new = self._filter.new_values(metrics)
        if not new or update % self._every:
            return
        if self._batch in self._state.batches:  # else it has ended, and this was its last update
            self._state.updates[self._batch] = update
        self._log({"fit/update": update, "fit/batch": self._number, **{f"fit/{name}": v for name, v in new.items()}})

    def end(self, records: Sequence[PairRecord]) -> None:
        """Ends a batch: logs its pairs' scores, and rows of the tables once there are enough for a part of a table."""
        with explain_os_errors(f"write to {self._folder.path / 'wandb'}", "Make room there, or set logger=none."):
            self._ledger.add([record.pair_id for record in records])
        self._state.batches.pop(self._batch, None)
        self._state.updates.pop(self._batch, None)
        self._filter.end(self._batch)
        self._log_scores({record.pair_id: record for record in records})
        waiting = len(self._ledger.pairs) - self._state.rows
        if waiting >= self._chunk_pairs() or time.monotonic() - self._written > _CHUNK_SECONDS:
            self._log_tables()
        self._save()

    def make_up(self, batch: str, records: Sequence[PairRecord]) -> None:
        """Logs pairs of a batch whose process was killed between their records and the note that they belong here."""
        self._batch = batch
        self.end(records)

    def close(self, summary: Mapping[str, float] | None, *, failed: bool = False) -> None:
        """Logs the rows that are waiting and the method's means, and ends the W&B run."""
        self._log_tables()
        if summary is not None:
            self._log_method(summary)
        self._finish(failed)
        self._opened.release()

    @_never_fatal
    def _finish(self, failed: bool) -> None:
        self.experiment.finish(exit_code=int(failed))
        self._state.ended = True
        self._save()

    @_never_fatal
    def _catch_up(self) -> None:
        """Logs what an earlier process of this run could not log."""
        self._log_scores({})
        if len(self._ledger.pairs) > self._state.rows:
            self._log_tables()

    def _record(self, pair_id: str) -> PairRecord | None:
        return self._folder.record(self._method, pair_id)

    @_never_fatal
    def _log_scores(self, known: Mapping[str, PairRecord]) -> None:
        state = self._state
        for index in range(state.pairs, len(self._ledger.pairs)):
            name = self._ledger.pairs[index]
            record = known.get(name) or self._record(name)
            row: dict[str, Any] = {"pair/count": index + 1}
            if record is not None:
                row |= {"pair/failed": int(record.status != "done"), "pair/seconds": record.seconds}
                row |= {f"pair/{key}": value for key, value in scores(record).items()}
            self._log(row)
            state.pairs = index + 1

    @_never_fatal
    def _log_tables(self) -> None:
        """Logs parts of the tables for the pairs that have no row yet."""
        self._written = time.monotonic()
        while self._state.rows < len(self._ledger.pairs):
            pairs, histories, end = self._next_chunk()
            parts = {"pairs": pairs, "histories": histories}
            row = {name: as_table(rows) for name, rows in parts.items() if rows}
            self._log({**row, "table/rows": end})
            self._state.rows = end

    def _chunk_pairs(self) -> int:
        with_images = self._images is None or self._state.rows < self._images
        return _CHUNK_PAIRS if with_images else _CHUNK_PAIRS_WITHOUT_IMAGES

    def _next_chunk(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
        pairs: list[dict[str, Any]] = []
        histories: list[dict[str, Any]] = []
        index, most = self._state.rows, self._chunk_pairs()
        while index < len(self._ledger.pairs) and len(pairs) < most and len(histories) < _CHUNK_ROWS:
            name = self._ledger.pairs[index]
            record = self._record(name)
            if record is not None:
                shown = self._images is None or index < self._images
                folder = self._folder.pair_folder(self._method, name)
                pairs.append(pair_row(record, folder, self._image_size if shown else None))
                histories += [{"pair_id": name, **row} for row in read_history(folder / "history.csv")]
            index += 1
        return pairs, histories, index

    @_never_fatal
    def _log_method(self, summary: Mapping[str, float]) -> None:
        """Logs, once, the curves and the means over all pairs of the method, whichever process made them."""
        digest = hashlib.sha256(json.dumps(dict(summary), sort_keys=True).encode()).hexdigest()
        if digest == self._state.means:  # the same command again, with nothing left to do
            return
        done = [r for r in self._folder.records() if r.method == self._method and r.status == "done"]
        some = done[:: -(-len(done) // _MOST_HISTORIES) or 1]
        paths = (self._folder.pair_folder(self._method, record.pair_id) / "history.csv" for record in some)
        for row in bands(read_history(path) for path in paths):
            self._log(row)
        self.experiment.summary.update({f"mean/{name}": value for name, value in summary.items()})
        self._state.means = digest

    def _log(self, values: Mapping[str, Any]) -> None:
        self.experiment.log(dict(values), step=self._state.steps)
        self._state.steps += 1

    @_never_fatal
    def _save(self) -> None:
        if not self.experiment.disabled:
            self._ledger.save()
