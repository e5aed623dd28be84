"""One process's work on a run: its batches, one after the other, each recorded as soon as it is done."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sgool.errors import Interrupted, SgoolError
from sgool.loggers import Process, RunLogs
from sgool.methods.base import FitSettings, Method
from sgool.methods.options import method_optimization
from sgool.results import RunFolder
from sgool.results.claims import Claims
from sgool.results.under_way import UnderWay
from sgool.run.interrupt import Interrupt
from sgool.run.means import Means
from sgool.run.progress import Progress
from sgool.run.recording import score, write_failure, write_result
from sgool.run.session import Session
from sgool.types import PairRecord, PromptSeed

Batch = tuple[PromptSeed, ...]

#: Seconds between two looks at pairs that another runner works on.
_PATIENCE = 2.0
#: Prompts that may end in an exception, before any ends well, until that is no longer taken for a pair's own trouble.
_MOST_CRASHES = 3


@dataclass
class Worker:
    """Makes the records of batches of pairs.

    Attributes:
        session: Networks, methods and judges.
        config: The plain configuration.
        folder: The run folder.
        progress: Is told what happens.
        asked: Whether to stop.
        process: Which process this is.
        environment: Versions, device and commit, for the loggers.
        fingerprint: Of the configuration, for checkpoints.
        means: Of a finished method, for the loggers; None where several processes share the run: the last logs them.
    """

    session: Session
    config: dict[str, Any]
    folder: RunFolder
    progress: Progress
    asked: Interrupt
    process: Process
    environment: dict[str, Any]
    fingerprint: str
    means: Means | None
    _made: set[tuple[str, str]] = field(default_factory=set)
    _crashed: set[str] = field(default_factory=set)
    _succeeded: bool = False

    def __post_init__(self) -> None:
        self._size = int(self.config["trainer"]["pairs_per_fit"])

    def left(self, method: str, batch: Sequence[PromptSeed]) -> Batch:
        """The pairs of a batch that are still to be done."""
        return tuple(pair for pair in batch if not self._is_done(method, pair))

    def run(self, name: str, batches: Sequence[Batch]) -> list[Batch]:
        """Does what is left of one method's batches; returns those that another runner works on.

        Raises:
            Interrupted: A signal asked to stop, and what was under way is saved.
            SgoolError: What the user has to mend.
        """
        left = sorted(
            (batch for batch in batches if self.left(name, batch)), key=lambda batch: self._failed(name, batch)
        )
        if not left:
            return []
        method = self.session.method(name)
        with self._logs(name, sum(len(batch) for batch in left)) as logs:
            for note in logs.notes:
                self.progress.note(note)
            job = _Job(self, name, method, logs, UnderWay(self.folder.path, name))
            try:
                taken = [batch for batch in left if not job.do(batch)]
            except Interrupted:
                logs.close()
                raise
            means = self.means.to_log(name) if self.means is not None and not taken else None
            logs.close(means)
            if self.means is not None and means:
                self.means.logged(name, means)
            return taken

    def wait(self, taken: dict[str, list[Batch]]) -> None:
        """Until other runners have recorded what they work on; does what they leave undone."""
        said = False
        while taken := {name: left for name, batches in taken.items() if (left := self._unrecorded(name, batches))}:
            if not said:
                number = sum(len(batch) for batches in taken.values() for batch in batches)
                self.progress.note(f"another runner works on {number} pairs of this one in {self.folder.path}: waiting")
                said = True
            self.stop_if_asked()
            time.sleep(_PATIENCE)
            for name, batches in taken.items():
                self.run(name, [batch for batch in batches if self._is_free(name, batch)])

    def stop_if_asked(self) -> None:
        """Raises Interrupted between two batches."""
        if self.asked():
            raise Interrupted("stopped between two pairs, as it was asked to")

    def _logs(self, name: str, pairs: int) -> RunLogs:
        updates = method_optimization(self.config, name)["num_optimization_steps"] * -(-pairs // self._size)
        return RunLogs(
            self.config["logger"],
            run_dir=self.folder.path,
            name=self.config["name"],
            method=name,
            config=self.config,
            process=self.process,
            environment=self.environment,
            planned_updates=updates,
        )

    def _is_done(self, method: str, pair: PromptSeed) -> bool:
        if (method, pair.pair_id) in self._made:
            return True
        return self.config["resume"] and self.folder.is_done(method, pair.pair_id, retry_failed=True)

    def _failed(self, name: str, batch: Batch) -> bool:
        """Whether a pair failed before: such batches come last, so that they keep nobody waiting."""
        return any(self.folder.is_done(name, pair.pair_id) for pair in self.left(name, batch))

    def _is_free(self, name: str, batch: Batch) -> bool:
        with Claims(self.folder.path).take(name, [pair.pair_id for pair in batch]) as free:
            return free

    def _unrecorded(self, name: str, batches: Sequence[Batch]) -> list[Batch]:
        """Batches with a pair that has no record, not even of a failure."""
        return [batch for batch in batches if not all(self.folder.is_done(name, pair.pair_id) for pair in batch)]


@dataclass
class _Job:
    """One method's batches in this process."""

    worker: Worker
    name: str
    method: Method
    logs: RunLogs
    under_way: UnderWay

    def do(self, batch: Batch) -> bool:
        """Does what is left of a batch; false where another runner works on it."""
        worker = self.worker
        worker.stop_if_asked()
        left = worker.left(self.name, batch)
        if not left:
            return True
        todo = self.under_way.mates(batch, left)
        with Claims(worker.folder.path).take(self.name, [pair.pair_id for pair in todo]) as free:
            if not free:
                return False
            # Somebody may have ended some of them since we looked.
            if worker.left(self.name, batch) == left:
                if not worker.config["resume"]:
                    self.under_way.end(todo)
                self.under_way.begin(todo)
                self._fit_all(todo)
                self.under_way.end(todo)
                return True
        return self.do(batch)

    def _fit_all(self, pairs: Batch) -> None:
        """As many at once as memory has been found to hold."""
        while pairs:
            size = self.worker._size
            # Of a batch that goes on after a kill, some parts may be recorded.
            if self.worker.left(self.name, pairs[:size]):
                self._fit(pairs[:size])
            pairs = pairs[size:]

    def _fit(self, pairs: Batch) -> None:
        """Runs one fit and records its pairs; smaller ones where memory does not last or something breaks."""
        worker = self.worker
        started = time.perf_counter()
        self.logs.begin(pairs)
        worker.progress.batch(self.name, pairs)
        trouble = self._try(pairs, started)
        if trouble is None:
            worker._succeeded = True
        elif isinstance(trouble, str):
            self._one_by_one(pairs, trouble, started)
        else:
            worker._size = self._smaller(pairs)
            self._fit_all(pairs)

    def _try(self, pairs: Batch, started: float) -> str | _OutOfMemory | None:
        """None where all went well; else what went wrong, with nothing of the fit left in memory."""
        worker = self.worker
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="prompt over")  # said once, when the run began
                results = self.method.run(pairs, self._settings(pairs))
                metrics = score(worker.session, results)
        except SgoolError:
            raise
        except torch.OutOfMemoryError:
            return _OutOfMemory()
        except Exception as error:
            if worker.config["debug"]:
                raise
            if "can't allocate memory" in str(error):  # torch's allocator on the CPU
                return _OutOfMemory()
            return f"{type(error).__name__}: {error}".strip()
        seconds = time.perf_counter() - started
        missing = set(worker.left(self.name, pairs))
        for result, row in zip(results, metrics, strict=True):
            if result.pair in missing:
                share = (seconds + result.seconds_before) / len(pairs)
                self._recorded(write_result(worker.folder, self.name, result, row, share))
        self.under_way.drop_checkpoint(pairs)
        return None

    def _settings(self, pairs: Batch) -> FitSettings:
        worker = self.worker
        trainer = worker.session.trainer_options() | {"extra_callbacks": self.logs.callbacks()}
        return FitSettings(
            worker.session.module_options(),
            trainer,
            logger=tuple(self.logs.loggers),
            on_update=worker.progress.update,
            checkpoint=self.under_way.checkpoint(pairs),
            save_every_n_updates=worker.config["trainer"]["save_every_n_updates"],
            interrupted=worker.asked,
            on_note=worker.progress.note,
            fingerprint=worker.fingerprint,
        )

    def _recorded(self, record: PairRecord) -> None:
        self.worker._made.add((self.name, record.pair_id))
        self.logs.end([record])
        self.worker.progress.done([record])

    def _one_by_one(self, pairs: Batch, error: str, started: float) -> None:
        """A fit broke: each pair by itself, so that one cannot take its mates along; a single one is recorded."""
        worker = self.worker
        if len(pairs) > 1:
            worker.progress.note(f"a fit of {len(pairs)} pairs ended in {error}; now one by one")
            for pair in worker.left(self.name, pairs):
                self._fit((pair,))
            self.under_way.drop_checkpoint(pairs)
            return
        (pair,) = pairs
        self._recorded(write_failure(worker.folder, self.name, pair, error, time.perf_counter() - started))
        self.under_way.drop_checkpoint(pairs)
        worker._crashed.add(pair.prompt)
        if len(worker._crashed) == _MOST_CRASHES and not worker._succeeded:
            raise SgoolError(
                f"{_MOST_CRASHES} prompts in a row ended in an error, the last one in {error}, and none well. That is "
                "no trouble of single pairs: see the traceback with --debug. What was finished is kept, and failed "
                "pairs are tried again"
            )

    def _smaller(self, pairs: Batch) -> int:
        """Half the pairs per fit, after telling so; raises SgoolError where one is too much already."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(pairs) == 1:
            raise SgoolError(
                "out of memory with a single pair. Use engine=checkpoint with engine.memory_mib=0, "
                "engine.split_guidance=true, fewer crops, models.dtype=float16 or bfloat16, or a smaller image"
            )
        size = len(pairs) // 2
        self.worker.progress.note(f"out of memory with {len(pairs)} pairs in a fit: from now on {size}")
        return size


class _OutOfMemory:
    """A fit did not fit."""
