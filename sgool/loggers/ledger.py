"""Keeps a note of what a W&B run holds, so that a process that continues the run logs each value exactly once."""

from __future__ import annotations

import json
import logging
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

_logger = logging.getLogger(__name__)


@dataclass
class State:
    """What was logged to a W&B run so far.

    Attributes:
        steps: W&B's next step.
        pairs: For how many of the recorded pairs the scores were logged.
        rows: For how many of the recorded pairs the tables have a row.
        next_batch: The number of the next batch.
        batches: The number of each batch under way, by the batch's name.
        updates: The last logged update of each batch under way, by the batch's name.
        log: The transaction log of the last process that wrote to the run, relative to the run folder.
        before: ``steps``, ``pairs``, ``rows`` and ``updates`` when that process began: earlier logs hold these.
        ended: Whether that process ended the run, so that its log is whole.
        means: A digest of the method's means, if they were logged.
    """

    steps: int = 0
    pairs: int = 0
    rows: int = 0
    next_batch: int = 0
    batches: dict[str, int] = field(default_factory=dict)
    updates: dict[str, int] = field(default_factory=dict)
    log: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    ended: bool = True
    means: str = ""


class Ledger:
    """The file that notes the state and the pairs of one W&B run.

    Args:
        folder: The folder of the file; made if it is missing.
        name: The name of the process and method.
        run_dir: The run folder.
    """

    def __init__(self, folder: Path, name: str, run_dir: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._pairs_path = folder / f"{name}.json", folder / f"{name}.pairs"
        self.state = _read_state(self._path)
        #: The ids of the pairs that belong to this run, in order.
        self.pairs = _read_lines(self._pairs_path)
        if not self.state.ended:
            self._recover(run_dir)
        self.state.pairs = min(self.state.pairs, len(self.pairs))
        self.state.rows = min(self.state.rows, len(self.pairs))

    def _recover(self, run_dir: Path) -> None:
        """Reads from a killed process's log what was lost; if the log is gone, nothing counts as lost."""
        from sgool.loggers.wandb_file import read_transaction_log

        state, log = self.state, run_dir / self.state.log
        if not (state.log and log.is_file()):
            return
        held, before = read_transaction_log(log), state.before
        state.steps = max(before["steps"], held.steps)
        state.pairs, state.rows = max(before["pairs"], held.pairs), max(before["rows"], held.rows)
        found = {name: held.updates[number] for name, number in state.batches.items() if number in held.updates}
        state.updates = before["updates"] | found

    def begin(self, log: str) -> None:
        """Notes that this process begins a transaction log."""
        state = self.state
        state.log, state.ended = log, False
        state.before = {"steps": state.steps, "pairs": state.pairs, "rows": state.rows, "updates": dict(state.updates)}
        self.save()

    def save(self) -> None:
        """Writes the state, without syncing the disk: a power cut loses as much of W&B's own files."""
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        temporary.write_text(json.dumps(asdict(self.state)), encoding="utf-8")
        os.replace(temporary, self._path)

    def add(self, pair_ids: list[str]) -> None:
        """Notes that these pairs belong to this run."""
        self.pairs += pair_ids
        with self._pairs_path.open("ab", buffering=0) as stream:
            stream.write("".join(f"{name}\n" for name in pair_ids).encode())


def _read_state(path: Path) -> State:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return State(**{known.name: stored[known.name] for known in fields(State)})
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError, KeyError) as error:
        _logger.warning("%s is unreadable (%s): W&B may show some pairs twice", path, error)
        return State()


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # a full disk left half a line, to which the next one must not be joined
        path.write_text(whole, encoding="utf-8")
    return whole.splitlines()
