"""The logger that writes curves and scores as CSV files, which only ever grow at their end."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from sgool.loggers.process import Process
from sgool.loggers.slots import Slot
from sgool.loggers.updates import UpdateFilter
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.results.shards import batch_name
from sgool.types import PairRecord, PromptSeed

_MEND = "Make room there, or set logger=none, and run the same command again."


class GrowingCsv:
    """A CSV file to which rows are appended, each in one write, so that a killed process leaves whole rows.

    Rows with other columns go to a file of their own (STEM-2.csv, ...). Nothing is ever rewritten, so a row costs the
    same after a hundred thousand others.

    Args:
        folder: The folder of the files; made if it is missing.
        stem: The name of the first file without ``.csv``.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder, self._stem = folder, stem
        self._files: dict[tuple[str, ...], Path] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.paths():
            _drop_broken_end(path)
            with path.open(encoding="utf-8", newline="") as stream:
                columns = next(csv.reader(stream), None)
            if columns:
                self._files[tuple(columns)] = path
            else:  # a full disk had no room for its first row
                path.unlink()

    def paths(self) -> list[Path]:
        """Returns the paths of the files, in the order in which they were made."""
        found = [self._folder / f"{self._stem}.csv", *self._folder.glob(f"{self._stem}-*.csv")]
        return sorted((path for path in found if path.exists()), key=lambda path: (len(path.name), path.name))

    def rows(self) -> Iterator[dict[str, str]]:
        """Reads all rows of all files."""
        for path in self.paths():
            with path.open(encoding="utf-8", newline="") as stream:
                yield from csv.DictReader(stream)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the file that has the row's columns, or to a new one."""
        columns = tuple(row)
        path = self._files.get(columns)
        lines = [list(row.values())]
        if path is None:
            number = len(self._files) + 1
            path = self._folder / (f"{self._stem}.csv" if number == 1 else f"{self._stem}-{number}.csv")
            self._files[columns] = path
            lines.insert(0, list(columns))
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(lines)
        data = text.getvalue().encode()
        with explain_os_errors(f"write {path}", _MEND), path.open("ab", buffering=0) as stream:
            if (stream.write(data) or 0) < len(data):  # a short write is no error for the system
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _drop_broken_end(path: Path) -> None:
    """Cuts off half a row, which a full disk or a power cut leaves."""
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        start = max(0, size - (1 << 16))
        stream.seek(start)
        end = stream.read()
        if end and not end.endswith(b"\n"):
            stream.truncate(start + end.rfind(b"\n") + 1)


class CsvPairLogger(Logger):
    """Logs a method's updates and pairs as CSV files in ``RUN/logs/METHOD[-PART]``.

    ``updates.csv`` has a row per update, ``pairs.csv`` a row per pair; ``summary.json`` has the means at the end.

    Args:
        run_dir: The run folder.
        method: The method.
        process: The process that logs.
    """

    def __init__(self, run_dir: Path, method: str, process: Process) -> None:
        super().__init__()
        with explain_os_errors(f"write to {run_dir / 'logs'}", _MEND):
            self._slot = Slot(run_dir / "logs", process.named(method))
            self.folder = run_dir / "logs" / self._slot.name
            self._updates, self._pairs = GrowingCsv(self.folder, "updates"), GrowingCsv(self.folder, "pairs")
        done = {row["batch"] for row in self._pairs.rows()}
        last = {row["batch"]: int(row["update"]) for row in self._updates.rows() if row["batch"] not in done}
        self._filter, self._batch = UpdateFilter(last), ""

    @property
    def name(self) -> str:
        """The method, with the process's part of the run."""
        return self._slot.name

    @property
    def version(self) -> str:
        """The version that Lightning asks for; empty, since a run folder has one."""
        return ""

    def begin(self, pairs: Sequence[PromptSeed]) -> None:
        """Begins a batch: the updates logged next are those of these pairs."""
        self._batch = batch_name([pair.pair_id for pair in pairs])
        self._filter.begin(self._batch)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds an update's row to ``updates.csv``; Lightning's ``step``, which counts over all batches, is not used."""
        update, values = self._filter.new_values(metrics)
        if values:
            self._updates.append({"batch": self._batch, "update": update, **values})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Logs nothing: the configuration is in the run folder."""

    def end(self, records: Sequence[PairRecord]) -> None:
        """Ends a batch: adds a row for each of its pairs to ``pairs.csv``."""
        for record in records:
            row = {"batch": self._batch, "pair_id": record.pair_id, "status": record.status, "seconds": record.seconds}
            self._pairs.append(row | dict(record.metrics))
        self._filter.end(self._batch)

    def make_up(self, batch: str, records: Sequence[PairRecord]) -> None:
        """Adds the rows of pairs of a batch whose process was killed between their records and their rows."""
        self._batch = batch
        self.end(records)

    def close(self, summary: Mapping[str, float] | None, *, failed: bool = False) -> None:
        """Ends the log and writes ``summary.json``, if this process has the method's means."""
        if summary is not None:
            path = self.folder / "summary.json"
            with explain_os_errors(f"write {path}", _MEND):
                atomic_write(path, (json.dumps(dict(summary), indent=2) + "\n").encode())
        self._slot.release()
