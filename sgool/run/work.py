"""One process's work on a run: for each method one Trainer over the batches that are left."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from sgool.callbacks import BatchCheckpoint, PairCallback, RunWriter
from sgool.callbacks.run_writer import write_failure
from sgool.config.words import counted
from sgool.errors import Interrupted, SgoolError
from sgool.loggers import Process, RunLogs
from sgool.methods.base import PairModule
from sgool.methods.options import method_optimization
from sgool.prompts.datamodule import PromptDataModule
from sgool.results import RunFolder
from sgool.results.claims import Claims
from sgool.run.failures import Failures
from sgool.run.interrupt import Interrupt
from sgool.run.means import Means
from sgool.run.observer import RunObserver
from sgool.run.parts import Parts
from sgool.run.progress import Progress
from sgool.run.queue import Batch, PairQueue
from sgool.run.train import train
from sgool.types import PairRecord

#: Seconds between two looks at pairs that another runner works on.
_PATIENCE = 2.0
_OUT_OF_MEMORY = "out of memory"


@dataclass
class Worker:
    """Makes the records of batches of pairs.

    Attributes:
        parts: The chain, methods and judges.
        config: The plain configuration.
        folder: The run folder.
        progress: Is told what happens.
        interrupt: Says whether a signal has asked to stop.
        process: Which process this is.
        environment: Versions, device and commit, for the loggers.
        fingerprint: Of the configuration, for checkpoints.
        means: Of a finished method, for the loggers; None where several processes share the run: the last logs them.
    """

    parts: Parts
    config: dict[str, Any]
    folder: RunFolder
    progress: Progress
    interrupt: Interrupt
    process: Process
    environment: dict[str, Any]
    fingerprint: str
    means: Means | None
    #: How many records it has written.
    recorded: int = 0

    def __post_init__(self) -> None:
        self._failures = Failures(self.folder)
        self._size = int(self.config["trainer"]["pairs_per_fit"])

    def run(self, name: str, batches: Sequence[Batch]) -> list[Batch]:
        """Does what is left of one method's batches; returns those that another runner works on.

        Raises:
            Interrupted: A signal asked to stop, and what was under way is saved.
            SgoolError: What the user has to mend.
        """
        queue = PairQueue(self.folder, name, batches, resume=self.config["resume"], stop_requested=self.interrupt)
        if not queue:
            return []
        self.stop_if_interrupted()
        module, rules = self.parts.method(name, self.progress.note)
        with self._logs(name, module, queue.number_left) as logs:
            for note in logs.notes:
                self.progress.note(note)
            callbacks = [*rules, *self._callbacks(name, queue, logs)]
            try:
                while queue:
                    self.stop_if_interrupted()
                    queue.cut(self._size)
                    self._train(module, callbacks, queue, logs)
                self.stop_if_interrupted()
            except Interrupted:
                logs.close()  # a run that stops on request has not failed
                raise
            self._close(name, queue, logs)
            return queue.taken

    def wait(self, taken: dict[str, list[Batch]]) -> None:
        """Waits until other runners have recorded what they work on, and does what they leave undone."""
        said = False
        while taken := {name: left for name, batches in taken.items() if (left := self._unrecorded(name, batches))}:
            if not said:
                number = counted(sum(len(batch) for batches in taken.values() for batch in batches), "pair")
                self.progress.note(f"another runner works on {number} of this one in {self.folder.path}: waiting")
                said = True
            self.stop_if_interrupted()
            time.sleep(_PATIENCE)
            for name, batches in taken.items():
                self.run(name, [batch for batch in batches if self._is_free(name, batch)])

    def stop_if_interrupted(self) -> None:
        """Raises `Interrupted` between two batches if a signal asked to stop."""
        if self.interrupt():
            raise Interrupted("stopped between two pairs, as it was asked to")

    def _train(self, module: PairModule, callbacks: list[L.Callback], queue: PairQueue, logs: RunLogs) -> None:
        """One Trainer over the queue, until it is empty, somebody asks to stop, or a batch breaks."""
        data = PromptDataModule([pair for batch in queue.waiting for pair in batch], sampler=queue)
        trouble: str | None = None
        try:
            with warnings.catch_warnings():
                # Said once, when the run began.
                said = "prompt over|words that|negative prompts are not read"
                warnings.filterwarnings("ignore", message=said)
                train(module, data, callbacks=callbacks, logger=list(logs.loggers), **self.parts.trainer_options())
        except SgoolError:
            queue.release()
            raise
        except Exception as error:
            # What concerns a batch can be mended by leaving that batch; writing its results is no concern of the batch.
            if self.config["debug"] or queue.current is None or module.handing_over:
                queue.release()
                raise
            trouble = _OUT_OF_MEMORY if _is_out_of_memory(error) else f"{type(error).__name__}: {error}".strip()
        # Only here, where the error no longer holds the fit's tensors, can memory be given back.
        if trouble == _OUT_OF_MEMORY:
            self._out_of_memory(queue)
        elif trouble is not None:
            self._broken(queue, trouble, logs)
        queue.release()

    def _callbacks(self, name: str, queue: PairQueue, logs: RunLogs) -> list[PairCallback]:
        def done() -> None:
            self._failures.fit_ended()
            self._end_logs(queue, logs)
            queue.done()
            self._failures.check(name)

        return [
            RunObserver(self.progress, logs),
            RunWriter(self.folder, name, wanted=queue.wants, on_record=lambda r: self._recorded(queue, r)),
            BatchCheckpoint(
                queue.under_way.checkpoint,
                self.fingerprint,
                every=self.config["trainer"]["save_every_n_updates"],
                interrupted=self.interrupt,
                on_note=self.progress.note,
                on_written=queue.under_way.note_progress,
                on_done=done,
            ),
        ]

    def _recorded(self, queue: PairQueue, record: PairRecord) -> None:
        queue.made(record)
        self.recorded += 1
        self.progress.done([record])
        self._failures.add(record)

    def _end_logs(self, queue: PairQueue, logs: RunLogs) -> None:
        """All at once, also those that an earlier start had recorded of a batch before it was killed."""
        found = [self.folder.record(queue.method, pair.pair_id) for pair in queue.current or ()]
        logs.end([record for record in found if record is not None])

    def _broken(self, queue: PairQueue, error: str, logs: RunLogs) -> None:
        """Does each pair of a broken batch alone, so that one does not fail the others; one that breaks is recorded."""
        batch = queue.current or ()
        if len(batch) > 1:
            queue.give_up()
            self.progress.note(f"a fit of {len(batch)} pairs ended in {error}; now one by one")
            queue.put_back([(pair,) for pair in queue.left(batch)])
            return
        (pair,) = batch
        record = write_failure(self.folder, queue.method, pair, error, time.perf_counter() - queue.began)
        self._recorded(queue, record)
        self._end_logs(queue, logs)
        queue.done()
        self._failures.check(queue.method)
        self._failures.crashed(queue.method, pair.prompt, error)

    def _out_of_memory(self, queue: PairQueue) -> None:
        """Halves the batch, and all that follow.

        Raises:
            SgoolError: One pair is too much already.
        """
        batch = queue.give_up()
        gc.collect()  # Trainer and module refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            raise SgoolError(
                "out of memory with a single pair. Use engine=checkpoint with engine.memory_mib=0, "
                "engine.block_checkpointing=true, engine.split_guidance=true, models.vae_tile_size, fewer crops, "
                "models.dtype=float16 or bfloat16, or a smaller image; `sgool doctor models=...` estimates what helps"
            )
        self._size = len(batch) // 2
        self.progress.note(f"out of memory with {len(batch)} pairs in a fit: from now on {self._size}")
        queue.put_back([batch])

    def _close(self, name: str, queue: PairQueue, logs: RunLogs) -> None:
        """Ends a method's logs, with its means where all its pairs are recorded."""
        means = self.means.to_log(name) if self.means is not None and not queue.taken else None
        logs.close(means)
        if self.means is not None and means:
            self.means.mark_logged(name, means)

    def _logs(self, name: str, module: PairModule, pairs: int) -> RunLogs:
        own = method_optimization(self.config, name)["num_optimization_steps"]
        fitting = getattr(module, "num_optimization_steps", own) if module.budget.seconds is None else own
        updates = fitting * -(-pairs // self._size)
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

    def _is_free(self, name: str, batch: Batch) -> bool:
        with Claims(self.folder.path).take(name, [pair.pair_id for pair in batch]) as free:
            return free

    def _unrecorded(self, name: str, batches: Sequence[Batch]) -> list[Batch]:
        """Batches with a pair that has no record, not even of a failure."""
        return [batch for batch in batches if not all(self.folder.is_done(name, pair.pair_id) for pair in batch)]


def _is_out_of_memory(error: Exception) -> bool:
    # torch's allocator on the CPU raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
