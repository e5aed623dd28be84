"""The interface between a runner and the loggers of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sgool.loggers.options import logger_names
from sgool.loggers.process import Process
from sgool.types import PairRecord, PromptSeed

if TYPE_CHECKING:
    from sgool.loggers.csv_logger import CsvPairLogger
    from sgool.loggers.wandb_logger import WandbPairLogger


class RunLogs:
    """The loggers of one method in one process: told when a batch begins and ends, and when the method ends.

    ::

        with RunLogs(config["logger"], run_dir=..., name=..., method=..., config=config) as logs:
            trainer = Trainer(..., logger=logs.loggers)
            logs.begin(pairs)                               # before each batch
            logs.end(records)                               # after its pairs' records are written
            logs.close(summary)                             # once; the means, in one of the run's processes

    What is logged of a pair is read from the run folder, so logs and records agree. Nothing here draws random numbers
    from a global generator.

    Args:
        options: The ``logger`` part of the configuration; its ``name`` is a logger's, or a list of several.
        run_dir: The run folder.
        name: The run's name, which is W&B's group.
        method: The method's name, which is W&B's job type.
        config: The plain configuration, shown by W&B.
        process: The process that logs; None: the run's only one.
        environment: Versions, device and commit, shown by W&B.
        planned_updates: How many updates this process is about to make, in all batches together. W&B's curves are
            thinned by it, to stay within W&B's limits.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        run_dir: Path,
        name: str,
        method: str,
        config: Mapping[str, Any],
        process: Process | None = None,
        environment: Mapping[str, Any] | None = None,
        planned_updates: int = 0,
    ) -> None:
        process = process or Process()
        self.loggers: list[CsvPairLogger | WandbPairLogger] = []
        #: Sentences that the user should be told.
        self.notes: list[str] = []
        names = logger_names(options)
        if "wandb" in names:  # first, since it alone may fail to start
            from sgool.loggers.wandb_logger import WandbPairLogger
            from sgool.loggers.wandb_run import open_run

            shown = dict(config) | ({"environment": dict(environment)} if environment else {})
            opened = open_run(options, run_dir=run_dir, name=name, method=method, process=process, config=shown)
            self.loggers.append(WandbPairLogger(opened, options, run_dir, method, planned_updates))
            self.notes += opened.notes
        if "csv" in names:
            from sgool.loggers.csv_logger import CsvPairLogger

            self.loggers.append(CsvPairLogger(run_dir, method, process))

    def begin(self, pairs: Sequence[PromptSeed]) -> None:
        """Tells the loggers that a batch begins."""
        for logger in self.loggers:
            logger.begin(pairs)

    def update(self, values: Mapping[str, Any]) -> None:
        """Logs an update now, before Lightning does; each value of each update is logged once."""
        for logger in self.loggers:
            logger.log_metrics(values)

    def end(self, records: Sequence[PairRecord]) -> None:
        """Tells the loggers that pairs have ended and that their records are in the run folder."""
        for logger in self.loggers:
            logger.end(records)

    def make_up(self, batch: str, records: Sequence[PairRecord]) -> None:
        """Logs recorded pairs of a batch that a killed process could not log."""
        for logger in self.loggers:
            logger.make_up(batch, records)

    def close(self, summary: Mapping[str, float] | None = None, *, failed: bool = False) -> None:
        """Ends the logs, whether or not the method is finished; what was logged before stays.

        Args:
            summary: The method's means over all its pairs; None if pairs are left, or if another process logs them.
            failed: Whether the process ends with an error.
        """
        loggers, self.loggers = self.loggers, []
        for logger in loggers:
            logger.close(summary, failed=failed)

    def __enter__(self) -> RunLogs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)
