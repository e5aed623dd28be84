"""Logs the pairs that a process has recorded and, because it was killed, could not log."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sgool.loggers.logs import RunLogs
from sgool.loggers.options import logger_names
from sgool.loggers.process import Process
from sgool.results import RunFolder
from sgool.results.claims import read_claims
from sgool.results.locks import locked_file
from sgool.results.shards import batch_name
from sgool.results.under_way import batches_under_way
from sgool.types import PairRecord


def make_up_logs(folder: RunFolder, config: Mapping[str, Any], method: str, records: Sequence[PairRecord]) -> None:
    """Logs the records of a method that no log has, once, whichever process comes first.

    Pairs that a living process works on are left to it, and so are those of a batch that will be done again. W&B's
    notes tell pairs apart by their ids alone, so a pair that failed, was logged, and was tried again is not made up.

    Args:
        folder: The run folder.
        config: The plain configuration.
        method: The method.
        records: Those of the run folder, as they were just read.

    Raises:
        SgoolError: A log cannot be written.
    """
    for logger in logger_names(config["logger"]):
        if logger != "none":
            own = {**config, "logger": {**config["logger"], "name": logger}}
            with locked_file(folder.path / "locks" / f"logs-{method}.lock", wait=True):
                _make_up(folder, own, method, records)


def _make_up(folder: RunFolder, config: Mapping[str, Any], method: str, records: Sequence[PairRecord]) -> None:
    """Does it for the one logger of the configuration."""
    # Records were read before claims are, and claims before logs: what is logged meanwhile is seen as logged.
    batches = _batches(folder, method)
    mine = [record for record in records if record.method == method]
    held = {name for claim in read_claims(folder.path) if claim.alive is not False for name in claim.pair_ids}
    missing = _without_log(folder.path, config["logger"]["name"], method, [r for r in mine if r.pair_id not in held])
    ended = {record.pair_id for record in mine}
    groups: dict[str, list[PairRecord]] = {}
    for record in missing:
        batch = batches.get(record.pair_id, (record.pair_id,))
        if ended.issuperset(batch):
            groups.setdefault(batch_name(batch), []).append(record)
    if groups:
        place = {"run_dir": folder.path, "name": config["name"], "method": method}
        with RunLogs(config["logger"], config=config, **place) as logs:
            for name, group in groups.items():
                logs.make_up(name, group)


def _batches(folder: RunFolder, method: str) -> dict[str, tuple[str, ...]]:
    """Returns the pairs of the batch under way that each of its pairs belongs to."""
    notes = [note.pair_ids for note in batches_under_way(folder.path) if note.method == method]
    return {name: pair_ids for pair_ids in notes for name in pair_ids}


def _without_log(run_dir: Path, logger: str, method: str, records: Sequence[PairRecord]) -> list[PairRecord]:
    if logger == "csv":
        rows = {(row["pair_id"], row["status"], row["seconds"]) for row in _rows(run_dir, method)}
        return [record for record in records if (record.pair_id, record.status, str(record.seconds)) not in rows]
    files = (run_dir / "wandb" / "sgool").glob(f"{method}*.pairs")
    named = [path for path in files if Process.names(method).fullmatch(path.stem)]
    known = {name for path in named for name in path.read_text(encoding="utf-8").splitlines()}
    return [record for record in records if record.pair_id not in known]


def _rows(run_dir: Path, method: str) -> Iterator[dict[str, str]]:
    """Reads the rows of a method's pairs that any process has logged."""
    for path in sorted((run_dir / "logs").glob(f"{method}*/pairs*.csv")):
        if Process.names(method).fullmatch(path.parent.name):
            with path.open(encoding="utf-8", newline="") as stream:
                yield from csv.DictReader(stream)
