"""The main job: methods over prompt-seed pairs, into a run folder, skipping what is done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config import to_plain
from sgool.errors import Interrupted
from sgool.interrupt import INTERRUPTED, Interrupt
from sgool.loggers import check_logger
from sgool.progress import Progress
from sgool.prompts import load_pairs
from sgool.results import RunFolder
from sgool.results.compare import config_digest
from sgool.shards import in_batches, part_of, share
from sgool.types import PairRecord, PromptSeed

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sgool.strategy import World
    from sgool.work import Batch, Worker


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        run_dir: The run folder.
        records: All records of this command's methods and pairs, also those that were there before.
        new: How many problems (a method on a pair) were left to do when it began, here and in its other processes.
        missing: How many have no record.
        interrupted: Name of the signal that asked to stop, or None.
        rank: Of this process; the first one speaks for all.
    """

    run_dir: Path
    records: tuple[PairRecord, ...]
    new: int
    missing: int = 0
    interrupted: str | None = None
    rank: int = 0

    @property
    def failed(self) -> tuple[PairRecord, ...]:
        """Records of pairs that did not end well."""
        return tuple(record for record in self.records if record.status != "done")

    @property
    def exit_code(self) -> int:
        """0 only if every pair ended well; 75 if the same command goes on with what is left."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if self.failed or self.missing else 0


def run_experiment(config: DictConfig, progress: Progress | None = None, *, accept_changes: bool = False) -> Outcome:
    """Runs ``config.methods`` over the pairs of ``config.data``.

    Finished pairs are skipped and interrupted ones continued; nothing heavy is imported when nothing is left to do.
    Pairs are batched by ``trainer.pairs_per_fit``; each finished pair is written at once. SIGTERM, SIGINT and SIGUSR1
    end the run after the update under way, with a checkpoint.

    Args:
        config: As `sgool.config.load_config` composes it.
        progress: Is told what happens.
        accept_changes: Go on in a run folder of another configuration.

    Raises:
        SgoolError: Anything the user can mend, before the first network call where it can be known.
    """
    plain = to_plain(config)
    pairs = load_pairs(**plain["data"])
    part = part_of(plain["trainer"]["shard"], os.environ)
    check_logger(plain["logger"])
    folder = RunFolder(plain["run_dir"]).open(plain, device=device_name(plain), accept_changes=accept_changes)
    with Interrupt() as asked:
        return _Run(plain, pairs, part, folder, progress or Progress(), asked).outcome()


def fit(*overrides: str, config_dir: Path | None = None) -> Outcome:
    """``sgool fit`` from Python: ``fit("experiment=demo", "data.seeds=[1]")``."""
    from sgool.config import load_config

    return run_experiment(load_config(overrides, config_dir))


@dataclass
class _Run:
    """One process's view of a run."""

    config: dict[str, Any]
    pairs: list[PromptSeed]
    part: tuple[int, int]
    folder: RunFolder
    progress: Progress
    asked: Interrupt

    def __post_init__(self) -> None:
        part, parts = self.part
        batches = in_batches(self.pairs, self.config["trainer"]["pairs_per_fit"])
        self.batches = share(batches, part - 1, parts)
        self.methods = list(self.config["methods"])

    def outcome(self) -> Outcome:
        """Does the work, in several processes where that is asked for."""
        left = self._number_left(self.batches)
        if not self._several and not left:
            self.progress.start(sum(map(len, self.batches)), self.methods, 0)
            self.folder.collate()
            return self._outcome(0, None, 0)
        from sgool.strategy import World

        world = self._join() if self._several else World()
        try:
            stopped = self._work(world)
            self._check_children(world)
        except BaseException:
            world.stop()
            raise
        if world.rank == 0:
            self.folder.collate()
        return self._outcome(left, stopped, world.rank)

    @property
    def _several(self) -> bool:
        trainer = self.config["trainer"]
        devices = trainer["devices"]
        return (devices if isinstance(devices, int) else len(devices)) * trainer["num_nodes"] > 1

    def _join(self) -> World:
        """The world of ``trainer.devices`` and ``num_nodes``; each of its processes gets here."""
        from sgool.models.networks import Networks
        from sgool.strategy import accelerator_of, join_world

        trainer = self.config["trainer"]
        kind = accelerator_of(Networks(self.config["models"]).device)
        world = join_world(kind, trainer["devices"], trainer["num_nodes"])
        self.asked.forward = world.forward
        self.progress.as_rank(world.rank, world.size)
        return world

    def _work(self, world: World) -> str | None:
        """Makes this process's records; the name of the signal that ended it before its time."""
        mine = share(self.batches, world.rank, world.size)
        left = self._number_left(mine)
        self.progress.start(sum(map(len, mine)), self.methods, left)
        try:
            if left:
                worker = self._worker(world)
                worker.wait({method: worker.run(method, mine) for method in self.methods})
        except Interrupted:
            return self.asked.signal
        if world.size > 1 or (self.part[1] > 1 and left):
            self._log_means(world, mine)
        return None

    def _worker(self, world: World) -> Worker:
        from sgool.loggers import Process
        from sgool.session import Session
        from sgool.work import Worker

        limit_threads(self.config["trainer"]["threads"])
        session = Session(self.config, world)
        for text in session.truncations(pair.prompt for pair in self.pairs):
            self.progress.note(text)
        process = Process(world.rank, world.size, *self.part)
        environment = (self.folder.environments() or [{}])[-1]
        digest = config_digest(self.config)
        alone = world.size == 1 and self.part[1] == 1
        summary = self._means if alone else _nothing
        return Worker(
            session, self.config, self.folder, self.progress, self.asked, process, environment, digest, summary
        )

    def _means(self, method: str) -> dict[str, float] | None:
        """Of all pairs of the run; None while some have no record."""
        from sgool.metrics.panel import aggregate

        records = [self.folder.record(method, pair.pair_id) for pair in self.pairs]
        if not all(records):
            return None
        return aggregate([record.metrics for record in records if record is not None and record.status == "done"])

    def _log_means(self, world: World, mine: Sequence[Batch]) -> None:
        """Gives the run's means to the loggers of the last part's first rank, once all ranks are done."""
        from sgool.loggers import Process, RunLogs

        for method in self.methods:
            means = self._means_over_ranks(method, mine) if world.size > 1 else {}
            if self.part[1] > 1:
                means = self._means(method) if world.rank == 0 else None
            if world.rank == 0 and means:
                options = self.config["logger"]
                place = {"run_dir": self.folder.path, "name": self.config["name"], "method": method}
                process = Process(0, world.size, *self.part)
                with RunLogs(options, config=self.config, process=process, **place) as logs:
                    logs.close(means)

    def _means_over_ranks(self, method: str, mine: Sequence[Batch]) -> dict[str, float] | None:
        """Every rank calls this; None where a rank was lost."""
        from sgool.metrics.panel import aggregate

        records = [self.folder.record(method, pair.pair_id) for batch in mine for pair in batch]
        rows = [record.metrics for record in records if record is not None and record.status == "done"]
        try:
            return aggregate(rows, across_ranks=True)
        except RuntimeError as error:  # gloo's, where a process is gone
            self.progress.note(f"{method}: no means over all ranks, since one has gone ({str(error).splitlines()[0]})")
            return None

    def _check_children(self, world: World) -> None:
        """Waits for the processes that this one started, and says which ended badly."""
        for rank, code in enumerate(world.wait(), start=1):
            if code not in (0, 1, INTERRUPTED):
                self.progress.note(f"the process of local rank {rank} ended with exit code {code}; its pairs are left")
        world.leave()

    def _number_left(self, batches: Sequence[Sequence[PromptSeed]]) -> int:
        if not self.config["resume"]:
            return len(self.methods) * sum(map(len, batches))
        return sum(
            not self.folder.is_done(method, pair.pair_id, retry_failed=True)
            for method in self.methods
            for batch in batches
            for pair in batch
        )

    def _outcome(self, left: int, stopped: str | None, rank: int) -> Outcome:
        """With the records of this part, in the order of the configuration."""
        place = {
            (method, pair.pair_id): (number, index)
            for number, method in enumerate(self.methods)
            for index, pair in enumerate(pair for batch in self.batches for pair in batch)
        }
        found = [record for record in self.folder.records() if (record.method, record.pair_id) in place]
        records = tuple(sorted(found, key=lambda record: place[record.method, record.pair_id]))
        return Outcome(self.folder.path, records, left, len(place) - len(records), stopped, rank)


def _nothing(method: str) -> Mapping[str, float] | None:
    return None


def device_name(config: Mapping[str, Any]) -> str | None:
    """For `RunFolder.open`: "cpu" where that was asked for; None: to be found out."""
    return "cpu" if config["models"]["device"] == "cpu" else None


def limit_threads(threads: int | None) -> None:
    """Sets torch's CPU threads; None: as torch decides."""
    if threads:
        import torch

        torch.set_num_threads(threads)
