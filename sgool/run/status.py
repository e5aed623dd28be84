"""``sgool status``: reads from a run folder how far the run is, also while runners write there, without torch."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sgool.config.words import counted
from sgool.errors import SgoolError
from sgool.prompts import load_pairs
from sgool.results import RunFolder
from sgool.results.claims import Claim, read_claims
from sgool.results.sweeps import sweep_hint
from sgool.results.under_way import BatchNote, batches_under_way
from sgool.types import PairRecord

#: The most records over which the pace is measured.
RECENT = 200

_Ids = dict[str, set[str]]


@dataclass(frozen=True)
class MethodStatus:
    """How far one method is, in pairs.

    Attributes:
        method: The method.
        done: How many pairs ended well.
        failed: How many pairs ended with an error; the next run tries them again.
        running: How many pairs are claimed by a runner that lives, or of which nobody can tell whether it lives.
        interrupted: How many pairs were begun, have not ended, and are not claimed; the next run continues them.
        left: How many pairs are neither done nor failed, running and interrupted ones included; None: unknown.
        total: How many pairs the configuration names; None if they cannot be read, or are photos.
        seconds_left: The time left at the pace of the latest records; None if nothing runs or there is no record yet.
    """

    method: str
    done: int
    failed: int
    running: int
    interrupted: int
    left: int | None
    total: int | None
    seconds_left: float | None


@dataclass(frozen=True)
class Failure:
    """A pair that failed, and the last line of its error."""

    method: str
    pair_id: str
    error: str


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        run_dir: The run folder.
        methods: How far each method is.
        failures: Pairs that failed, the latest first.
        runners: Claims of runners that live, or of which nobody can tell whether they live.
        under_way: Batches that have begun and not ended, with the updates that their checkpoints hold.
        seconds_left: The time left for all methods; None if it is unknown for one that has pairs left.
        problems: Sentences on what is wrong or could not be read.
    """

    run_dir: Path
    methods: tuple[MethodStatus, ...]
    failures: tuple[Failure, ...]
    runners: tuple[Claim, ...]
    under_way: tuple[BatchNote, ...]
    seconds_left: float | None
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns the status in JSON's types."""
        plain = asdict(self) | {"run_dir": str(self.run_dir)}
        return plain | {"done": sum(m.done for m in self.methods), "left": _sum(m.left for m in self.methods)}


@dataclass(frozen=True)
class _Ended:
    record: PairRecord
    at: float


def run_status(run_dir: str | Path) -> Status:
    """Reads from a run folder how far the run is.

    Raises:
        SgoolError: The folder is no run folder, or its run has not begun.
    """
    folder = RunFolder(run_dir)
    if not folder.config_path.is_file():
        waiting = " Its jobs have not begun." if (folder.path / "slurm").is_dir() else ""
        hint = sweep_hint(folder.path, "sgool status", several=False)
        raise SgoolError(f"{folder.path} holds no run: there is no config.yaml in it.{waiting}{hint}")
    config = folder.config()
    # Claims and notes are read first, so that a pair that ends meanwhile counts as done and not as interrupted.
    claims, batches = read_claims(folder.path), batches_under_way(folder.path)
    runners = [claim for claim in claims if claim.alive is not False]
    scan = folder.scan()
    begun = _begun(scan.unfinished, claims, batches)
    wanted, problems = _wanted(config)
    ended = _ended(folder, scan.records)
    methods, known = _methods(config, ended), _ids((c.method, c.pair_ids) for c in runners)
    per_fit = int(config.get("trainer", {}).get("pairs_per_fit") or 1)
    rows = [
        _method_status(m, wanted, ended.get(m, []), known.get(m, set()), begun.get(m, set()), per_fit) for m in methods
    ]
    failed = [entry for entry in chain.from_iterable(ended.values()) if entry.record.status == "failed"]
    failed.sort(key=lambda entry: -entry.at)
    failures = tuple(Failure(e.record.method, e.record.pair_id, _last_line(e.record.error)) for e in failed)
    under_way = tuple(batch for batch in batches if _is_open(batch, wanted, ended.get(batch.method, [])))
    problems += [*scan.problems, *filter(None, [scan.note(folder.path)])]
    return Status(folder.path, tuple(rows), failures, tuple(runners), under_way, _total_seconds(rows), tuple(problems))


def _wanted(config: Mapping[str, Any]) -> tuple[set[str] | None, list[str]]:
    """Returns the ids of the configuration's pairs; None, and the reason, if its prompts cannot be read any more.

    An edit's photos stand in its command, and commands may share its folder: nobody knows the number of its pairs.
    """
    if config.get("edit"):
        return None, ["this is a run of `sgool edit`, whose photos config.yaml does not name: pairs with records count"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run has warned of repeated prompts already
            return {pair.pair_id for pair in load_pairs(**config["data"])}, []
    except (SgoolError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, SgoolError) else "config.yaml has other keys of `data`"
        return None, [f"the number of pairs is unknown, only pairs with records are shown: {reason}"]


def _methods(config: Mapping[str, Any], ended: Mapping[str, Any]) -> list[str]:
    named = [str(method) for method in config.get("methods") or ()]
    return named + sorted(set(ended) - set(named))


def _ended(folder: RunFolder, records: Sequence[PairRecord]) -> dict[str, list[_Ended]]:
    """Returns each method's records with the times of their files, the earliest first."""
    ended: dict[str, list[_Ended]] = {}
    for record in records:
        path = folder.pair_folder(record.method, record.pair_id) / "record.json"
        try:
            ended.setdefault(record.method, []).append(_Ended(record, path.stat().st_mtime))
        except FileNotFoundError:  # a retry has just removed it
            continue
    for entries in ended.values():
        entries.sort(key=lambda entry: entry.at)
    return ended


def _begun(unfinished: Iterable[str], claims: Iterable[Claim], batches: Iterable[BatchNote]) -> _Ids:
    """Returns the begun pairs of each method: those with files, with a claim, or in a batch under way."""
    folders = ((method, (pair,)) for method, _, pair in (name.partition("/") for name in unfinished))
    noted: Iterable[Claim | BatchNote] = (*claims, *batches)
    return _ids(chain(folders, ((entry.method, entry.pair_ids) for entry in noted)))


def _is_open(batch: BatchNote, wanted: set[str] | None, ended: Iterable[_Ended]) -> bool:
    """Whether a batch has pairs left that the configuration names; if not, only its files are left over."""
    left = set(batch.pair_ids) - {entry.record.pair_id for entry in ended if entry.record.status == "done"}
    return bool(left if wanted is None else left & wanted)


def _ids(entries: Iterable[tuple[str, Iterable[str]]]) -> _Ids:
    found: _Ids = {}
    for method, pair_ids in entries:
        found.setdefault(method, set()).update(pair_ids)
    return found


def _method_status(
    method: str, wanted: set[str] | None, ended: Sequence[_Ended], claimed: set[str], begun: set[str], per_fit: int
) -> MethodStatus:
    """Counts one method's pairs; those that the configuration no longer names are left out."""
    mine = [entry for entry in ended if wanted is None or entry.record.pair_id in wanted]
    done = {entry.record.pair_id for entry in mine if entry.record.status == "done"}
    # A failed pair that is claimed is being tried again.
    failed = {entry.record.pair_id for entry in mine} - done - claimed
    open_pairs = None if wanted is None else wanted - done - failed
    running = claimed - done if open_pairs is None else claimed & open_pairs
    interrupted = begun - claimed - done - failed
    interrupted = interrupted if wanted is None else interrupted & wanted
    left = None if open_pairs is None else len(open_pairs)
    seconds = None
    if left == 0:
        seconds = 0.0
    elif left and running and (pace := records_per_second(ended, per_fit)):
        seconds = left / pace
    total = None if wanted is None else len(wanted)
    return MethodStatus(method, len(done), len(failed), len(running), len(interrupted), left, total, seconds)


def records_per_second(ended: Sequence[_Ended], per_fit: int) -> float | None:
    """Measures the pace of a method's latest records, over all its runners; None if there is no record.

    Only records since the last pause count. A pause is a time so much longer than a fit that no runner can have worked.
    """
    recent = ended[-RECENT - 1 :]
    if not recent:
        return None
    # A fit writes the records of its pairs together, each with its share of the fit's time.
    fits = [(entry.record.seconds if math.isfinite(entry.record.seconds) else 0.0) * per_fit for entry in recent]
    pause = 3 * statistics.median(fits) + 60
    first = 0
    for index in range(1, len(recent)):
        if recent[index].at - recent[index - 1].at > pause:
            first = index
    # If there are earlier records, the first recent record only marks when the time begins. If there are none, the
    # time begins when the first fit began.
    in_the_middle = first == 0 and len(recent) > RECENT
    number = len(recent) - first - int(in_the_middle)
    began = recent[first].at - (0.0 if in_the_middle else fits[first])
    return number / max(recent[-1].at - began, 1e-3)


def _total_seconds(rows: Sequence[MethodStatus]) -> float | None:
    """Sums the seconds of all methods, since a run works on one method after the other."""
    return _sum(row.seconds_left for row in rows)


def _sum(values: Iterable[Any]) -> Any:
    numbers = list(values)
    return None if None in numbers else sum(numbers)


def _last_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[-1].strip() if lines else ""


def describe(status: Status, most: int = 10) -> list[str]:
    """Returns the lines below the table: who is at work, what failed, what is wrong."""
    lines = [f"note: {problem}" for problem in status.problems[:most]]
    jobs: dict[str, int] = {}
    for claim in status.runners:
        who = f"{claim.host} process {claim.pid}" + (f", job {claim.job}" if claim.job else "")
        who += " (it cannot be told whether it lives)" if claim.alive is None else ""
        jobs[who] = jobs.get(who, 0) + len(claim.pair_ids)
    lines += [f"at work: {who}: {counted(pairs, 'pair')}" for who, pairs in list(jobs.items())[:most]]
    lines += [f"... and {len(jobs) - most} more processes"] if len(jobs) > most else []
    noted = [_progress(batch) for batch in status.under_way if batch.of is not None]
    lines += noted[:most] + ([f"... and {len(noted) - most} more batches"] if len(noted) > most else [])
    lines += ["nothing is running"] if not jobs and any(row.left for row in status.methods) else []
    lines += [f"failed: {f.method} {f.pair_id}: {f.error}" for f in status.failures[:most]]
    lines += [f"... and {len(status.failures) - most} more failed pairs"] if len(status.failures) > most else []
    return lines


def _progress(batch: BatchNote) -> str:
    others = f" and {len(batch.pair_ids) - 1} more" if len(batch.pair_ids) > 1 else ""
    return f"under way: {batch.method} {batch.pair_ids[0]}{others}: {batch.update} of {batch.of} updates are saved"


def table(status: Status) -> list[tuple[str, ...]]:
    """Returns the rows of the table, with the header first; an unknown number is a dash."""
    head = ("METHOD", "DONE", "RUNNING", "INTERRUPTED", "FAILED", "LEFT", "TOTAL", "ETA")
    return [
        head,
        *(
            (
                row.method,
                *(_text(n) for n in (row.done, row.running, row.interrupted, row.failed, row.left, row.total)),
                duration(row.seconds_left),
            )
            for row in status.methods
        ),
    ]


def _text(number: int | None) -> str:
    return "-" if number is None else str(number)


def duration(seconds: float | None) -> str:
    """Formats seconds for people: ``2 d 4 h``, ``3 h 20 min``, ``5 min``, ``20 s``; a dash for an unknown time."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
