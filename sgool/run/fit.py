"""The main job: methods over prompt-seed pairs, into a run folder, skipping what is done."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.words import counted
from sgool.errors import Interrupted, SgoolError
from sgool.loggers import check_logger, make_up_logs
from sgool.loggers.options import logger_names
from sgool.models.vocabulary import note_on_words
from sgool.prompts import load_data
from sgool.prompts.batches import in_batches, share
from sgool.results import RunFolder
from sgool.results.claims import announce_runner
from sgool.results.compare import config_digest
from sgool.results.environment import usable_cores
from sgool.results.locks import locked_file
from sgool.results.shards import part_of
from sgool.results.under_way import remove_stale_files
from sgool.run.config import complete, to_plain
from sgool.run.interrupt import INTERRUPTED, Interrupt
from sgool.run.means import Means
from sgool.run.notes import model_line, note_on_bfloat16, note_on_variant, other_phrases, work_left
from sgool.run.outcome import Outcome
from sgool.run.progress import Progress
from sgool.types import PromptSeed

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sgool.run.parts import Parts
    from sgool.run.queue import Batch
    from sgool.run.work import Worker
    from sgool.run.world import World


def run_experiment(config: DictConfig, progress: Progress | None = None, *, accept_changes: bool = False) -> Outcome:
    """Runs ``config.methods`` over the pairs of ``config.data``.

    Finished pairs are skipped and interrupted ones continued; nothing heavy is imported when nothing is left to do.
    Pairs are batched by ``trainer.pairs_per_fit``; each finished pair is written at once. SIGTERM, SIGINT and SIGUSR1
    end the run after the update under way, with a checkpoint.

    Args:
        config: As `sgool.run.config.load_config` composes it.
        progress: Is told what happens.
        accept_changes: Go on in a run folder of another configuration.

    Raises:
        SgoolError: Anything the user can mend, before the first network call where it can be known.
    """
    plain = to_plain(config)
    data = load_data(**plain["data"])
    part = part_of(plain["trainer"]["shard"], os.environ)
    check_logger(plain["logger"])
    folder = RunFolder(plain["run_dir"]).open(
        plain, device=device_name(plain), accept_changes=accept_changes, complete=complete
    )
    folder.set_dataset(data.ids)
    with Interrupt() as interrupt, announce_runner(folder.path):
        run = Run(plain, list(data.pairs), part, folder, progress or Progress(), interrupt, notes=data.notes)
        return run.outcome()


def fit(*overrides: str, config_dir: Path | None = None) -> Outcome:
    """Runs ``sgool fit`` from Python.

    Args:
        overrides: As on the command line, without the quotes for the shell.
        config_dir: Folder with configuration files of your own.

    Raises:
        SgoolError: As for `run_experiment`; a ConfigError lists all problems of the configuration.

    Examples:
        >>> from sgool import fit
        >>> small = ["models=emoji_world_turbo", "methods=[vanilla]", "data.limit=1", "sampler.num_inference_steps=1"]
        >>> outcome = fit(*small, "run_dir=runs/one")
        >>> len(outcome.records), outcome.exit_code
        (1, 0)
    """
    from sgool.run.config import load_config

    return run_experiment(load_config(overrides, config_dir))


@dataclass
class Run:
    """One process's view of a run."""

    config: dict[str, Any]
    pairs: list[PromptSeed]
    part: tuple[int, int]
    folder: RunFolder
    progress: Progress
    interrupt: Interrupt
    parts: Parts | None = None
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.methods = list(self.config["methods"])
        self._stopped = False
        self.interrupt.on_request = self.progress.stopping
        self.begin_with(self.pairs)

    def begin_with(self, pairs: list[PromptSeed]) -> None:
        """Sets the run's pairs; those of this part of the run are cut into batches."""
        part, parts = self.part
        batches = in_batches(pairs, self.config["trainer"]["pairs_per_fit"])
        self.pairs, self.batches = pairs, share(batches, part - 1, parts)

    @property
    def number_left(self) -> int:
        """Problems (a method on a pair) of this part of the run that are left to do."""
        return self._number_left(self.batches)

    def outcome(self) -> Outcome:
        """Does the work, in several processes where `trainer.devices` or `num_nodes` say so."""
        left = self.number_left
        if not self._several and not left:
            self._announce(self.batches)
            self._say(*self.notes)
            return self._end(self.batches, 0)
        from sgool.run.world import World, is_launched

        world = self._join() if self._several else World()
        if world is None:  # started for a later run of the same script
            return self._end(self.batches, 0)
        try:
            mine = share(self.batches, world.rank, world.size)
            self._work(world, mine)
            self._wait_for_children(world)
        except BaseException:
            world.stop()
            with suppress(SgoolError):
                self.folder.collate()
            raise
        # Whoever has started the others speaks for all; where a cluster has, each for itself.
        outcome = self._end(self.batches if world.children else mine, left, world.rank)
        if is_launched() and world.size > 1:
            raise SystemExit(outcome.exit_code)  # the rest of a script is for the process that started this one
        return outcome

    @property
    def _several(self) -> bool:
        trainer = self.config["trainer"]
        devices = trainer["devices"]
        return (devices if isinstance(devices, int) else len(devices)) * trainer["num_nodes"] > 1

    def _join(self) -> World | None:
        """The world of ``trainer.devices`` and ``num_nodes``; each of its processes gets here."""
        from sgool.models.networks import Networks
        from sgool.run.world import accelerator_of, join_world

        trainer = self.config["trainer"]
        kind = accelerator_of(Networks(self.config["models"]).device)
        world = join_world(kind, trainer["devices"], trainer["num_nodes"])
        if world is not None:
            self.interrupt.forward = world.forward
            if self.interrupt():  # before there was anybody to tell
                world.forward(signal.SIGTERM)
            self.progress.as_rank(world.rank, world.size)
        return world

    def _work(self, world: World, mine: Sequence[Batch]) -> None:
        """Makes this process's records, or those until a signal."""
        left = self._announce(mine)
        if world.rank == 0:
            self._say(*self.notes)
        if self.part[1] > 1:
            whose = f"part {self.part[0]} of {self.part[1]}"
            number = sum(map(len, self.batches))
            self.progress.note(f"{whose} (trainer.shard): {number} of {counted(len(self.pairs), 'pair')}")
        if not left:
            return
        worker = self._worker(world, mine)
        try:
            worker.wait({method: worker.run(method, mine) for method in self.methods})
        except Interrupted:  # older records, also those of failures, do not count
            self._stopped = worker.recorded < left

    def _announce(self, mine: Sequence[Batch]) -> int:
        """Says which model runs on what, and returns how many problems are left of it."""
        work = work_left(self.config, lambda method: self._left_of(method, mine))
        left = sum(part.pairs for part in work)
        self.progress.model(model_line(self.config["models"]))
        self.progress.start(sum(map(len, mine)), self.methods, left, work)
        return left

    def _worker(self, world: World, mine: Sequence[Batch]) -> Worker:
        from sgool.loggers import Process
        from sgool.run.parts import Parts
        from sgool.run.work import Worker

        limit_threads(self.config["trainer"]["threads"], world.size // self.config["trainer"]["num_nodes"])
        parts = self.parts or Parts(self.config, world)
        parts.check_streams()
        parts.check_methods()
        parts.check_pairs([pair for batch in self.batches for pair in batch])
        own = [pair for batch in mine for pair in batch]
        words = note_on_words(self.config["models"]["path"], [pair.prompt for pair in own])
        unread = parts.unread_negative_prompts(pair.negative_prompt for pair in own)
        loaded = [note_on_variant(self.config["models"]), note_on_bfloat16(self.config, parts.device)]
        self._say(words, *loaded, *parts.cut_off(own), *unread)
        process = Process(world.rank, world.size, *self.part)
        means = Means(self.folder, self.pairs) if not process.label else None
        return Worker(
            parts,
            self.config,
            self.folder,
            self.progress,
            self.interrupt,
            process,
            (self.folder.environments() or [{}])[-1],
            config_digest(self.config),
            means,
        )

    def _say(self, *notes: str) -> None:
        for note in filter(None, notes):
            self.progress.note(note)

    def _log_means(self) -> None:
        """Gives the run's means to the loggers, if its last pair is recorded and nobody has."""
        if logger_names(self.config["logger"]) == ["none"]:
            return
        from sgool.loggers import RunLogs

        means = Means(self.folder, self.pairs)
        for method in self.methods:
            with locked_file(self.folder.path / "locks" / f"means-{method}.lock", wait=True):
                values = means.to_log(method)
                if values:
                    place = {"run_dir": self.folder.path, "name": self.config["name"], "method": method}
                    with RunLogs(self.config["logger"], config=self.config, **place) as logs:
                        logs.close(values)
                    means.mark_logged(method, values)

    def _wait_for_children(self, world: World) -> None:
        """Says which of the processes that this one started ended badly."""
        for rank, code in enumerate(world.wait(), start=1):
            self._stopped |= code == INTERRUPTED
            if code not in (0, 1, INTERRUPTED) and not self.interrupt():
                self.progress.note(f"the process of local rank {rank} ended with exit code {code}; its pairs are left")

    def _number_left(self, batches: Sequence[Sequence[PromptSeed]]) -> int:
        return sum(self._left_of(method, batches) for method in self.methods)

    def methods_left(self, pair: PromptSeed) -> list[str]:
        """Returns the methods that have still to be run on a pair."""
        return [method for method in self.methods if self._left_of(method, [[pair]])]

    def _left_of(self, method: str, batches: Sequence[Sequence[PromptSeed]]) -> int:
        if not self.config["resume"]:
            return sum(map(len, batches))
        pairs = (pair for batch in batches for pair in batch)
        return sum(not self.folder.is_done(method, pair.pair_id, retry_failed=True) for pair in pairs)

    def _end(self, batches: Sequence[Batch], left: int, rank: int = 0) -> Outcome:
        """With the records of these batches, in the order of the configuration."""
        scan = self.folder.scan()
        for method in self.methods:
            make_up_logs(self.folder, self.config, method, scan.records)
        remove_stale_files(self.folder)
        self.folder.collate()
        if rank == 0:
            self._say(scan.note(self.folder.path), other_phrases(scan.records, self.pairs))
        self._log_means()
        place = {
            (method, pair.pair_id): (number, index)
            for number, method in enumerate(self.methods)
            for index, pair in enumerate(pair for batch in batches for pair in batch)
        }
        found = (record for record in scan.records if (record.method, record.pair_id) in place)
        records = tuple(sorted(found, key=lambda record: place[record.method, record.pair_id]))
        missing = len(place) - len(records)
        by = self.interrupt.signal if missing or self._stopped else None
        return Outcome(self.folder.path, records, left, missing, by, rank)


def device_name(config: Mapping[str, Any]) -> str | None:
    """Device for `RunFolder.open`: "cpu" where the configuration says so, None where it has to be found out."""
    return "cpu" if config["models"]["device"] == "cpu" else None


def limit_threads(threads: int | None, processes: int = 1) -> None:
    """Sets torch's CPU threads; None leaves them to torch, or gives each of several processes its share."""
    import torch

    if threads is None and processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, usable_cores() // processes)
    if threads:
        torch.set_num_threads(threads)
