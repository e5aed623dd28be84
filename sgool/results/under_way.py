"""Batches under way in a run folder: their checkpoints, and the notes that say which pairs a checkpoint belongs to."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.results import RunFolder
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.results.claims import remove_dead_claims
from sgool.results.shards import batch_name
from sgool.types import PromptSeed

#: Seconds after which nobody writes a half written file any more.
_OLD = 3600.0


@dataclass(frozen=True)
class BatchNote:
    """The note beside a batch's checkpoint: which pairs the batch has, and how far it is.

    Attributes:
        method: The method that works on the batch.
        pair_ids: The batch's pairs, in their order.
        update: How many updates the checkpoint holds; 0 if there is no checkpoint yet.
        of: How many updates the batch takes; None if that has not been noted yet.
    """

    method: str
    pair_ids: tuple[str, ...]
    update: int = 0
    of: int | None = None


class BatchesUnderWay:
    """The batches of one method that have begun and not ended, with their checkpoints.

    A batch is noted in ``RUN/checkpoints/METHOD/NAME.json``; its checkpoint is ``NAME.ckpt`` beside it. A batch that
    was interrupted goes on with the same pairs, even if some of them are recorded already: another batch size would
    round differently, and the checkpoint holds the whole batch.

    Args:
        run_dir: The run folder.
        method: The method.
    """

    def __init__(self, run_dir: Path, method: str) -> None:
        self._folder = run_dir / "checkpoints" / method

    def checkpoint(self, pairs: Sequence[PromptSeed]) -> Path:
        """Returns the path of a batch's checkpoint, which need not exist."""
        return self._folder / f"{batch_name(_ids(pairs))}.ckpt"

    def begin(self, pairs: Sequence[PromptSeed]) -> None:
        """Notes that a batch begins. If the batch was interrupted and has a checkpoint, its note stays as it is.

        Raises:
            SgoolError: The note cannot be written.
        """
        checkpoint = self.checkpoint(pairs)
        noted = _read_note(checkpoint.with_suffix(".json"))
        if noted is None or list(noted.pair_ids) != _ids(pairs) or not checkpoint.exists():
            write_note(checkpoint, _ids(pairs), 0, None)

    def note_progress(self, pairs: Sequence[PromptSeed], update: int, of: int) -> None:
        """Notes how many updates a batch's checkpoint holds. It has to be called whenever the checkpoint was written.

        Args:
            pairs: The batch's pairs.
            update: How many updates the checkpoint holds.
            of: How many updates the batch takes.

        Raises:
            SgoolError: The note cannot be written.
        """
        write_note(self.checkpoint(pairs), _ids(pairs), update, of)

    def end(self, pairs: Sequence[PromptSeed]) -> None:
        """Removes the checkpoint and the note of a batch, once its pairs are recorded."""
        checkpoint = self.checkpoint(pairs)
        _remove(checkpoint)
        _remove(checkpoint.with_suffix(".json"))

    def batch_to_continue(self, batch: Sequence[PromptSeed], left: Sequence[PromptSeed]) -> tuple[PromptSeed, ...]:
        """Returns the pairs to work on so that the unfinished pairs of a batch get done.

        Args:
            batch: All pairs of the batch.
            left: Its pairs that have no record yet.

        Returns:
            The batch in which the unfinished pairs were interrupted, also with pairs that are recorded already; or the
            unfinished pairs only, if they were not begun together.
        """
        by_id = {pair.pair_id: pair for pair in batch}
        wanted = {pair.pair_id for pair in left}
        notes = [note.pair_ids for path in sorted(self._folder.glob("*.json")) if (note := _read_note(path))]
        begun = [names for names in notes if wanted <= set(names) <= by_id.keys()]
        # A batch that was cut into smaller ones, because memory ran out, has notes of these too.
        return tuple(by_id[name] for name in max(begun, key=len)) if begun else tuple(left)


def write_note(checkpoint: Path, pair_ids: Sequence[str], update: int, of: int | None) -> None:
    """Writes the note beside a checkpoint, whole or not at all.

    Args:
        checkpoint: The path of the checkpoint, which need not exist.
        pair_ids: As in `BatchNote`.
        update: As in `BatchNote`.
        of: As in `BatchNote`.

    Raises:
        SgoolError: The note cannot be written.
    """
    path = checkpoint.with_suffix(".json")
    content = {"pairs": list(pair_ids), "update": update, "of": of}
    with explain_os_errors(f"write {path}", "Make room there and run the same command again."):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(content).encode())


def batches_under_way(run_dir: Path) -> list[BatchNote]:
    """Reads the notes of all methods' batches under way, by method and name; unreadable notes are left out."""
    files = sorted(run_dir.glob("checkpoints/*/*"))
    checkpoints = [path for path in files if path.suffix == ".ckpt" and not path.with_suffix(".json").exists()]
    notes = [_read_note(path) for path in files if path.suffix == ".json"]
    return [note for note in notes if note] + [note for path in checkpoints if (note := _single(path))]


def remove_stale_files(folder: RunFolder) -> None:
    """Removes what killed processes left: lock files, half written files, checkpoints of pairs that are done.

    While other runners hold claims in the folder, only lock files are removed: the last runner to end removes the rest.
    Files are listed before claims are looked for, so a runner that begins meanwhile loses nothing. Means are written
    without a claim, so what is half written of the logs has to be old.
    """
    with explain_os_errors(f"remove what is left over in {folder.path}", "Use a run_dir where you may write."):
        found = list(folder.path.glob("checkpoints/*/*"))  # also hidden files
        half_written = [*folder.path.glob("logs/.*.tmp"), *folder.path.glob("logs/*/.*.tmp")]
        found += filter(_is_old, half_written)
        if not remove_dead_claims(folder.path):
            return
        # All files are looked at before the first is removed: the note beside a checkpoint names its pairs.
        for path in [path for path in found if path.suffix == ".tmp" or _is_done(folder, path)]:
            path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _OLD
    except FileNotFoundError:
        return False


def _is_done(folder: RunFolder, path: Path) -> bool:
    """Whether all pairs of a checkpoint or note are done; a failed pair is not, since it may continue from there."""
    names = _pair_ids(path)
    try:
        return bool(names) and all(folder.is_done(path.parent.name, name, retry_failed=True) for name in names)
    except ValueError:  # the file's name is no pair id
        return False


def _pair_ids(path: Path) -> tuple[str, ...]:
    """Returns the pairs of a checkpoint or of a note; empty if they are not known."""
    beside = path.with_suffix(".json")
    note = _read_note(beside) if beside.exists() else _single(path)
    return note.pair_ids if note else ()


def _single(checkpoint: Path) -> BatchNote | None:
    """Returns a note for a checkpoint without one: earlier releases named a single pair's checkpoint by its id only."""
    return None if "+" in checkpoint.stem else BatchNote(checkpoint.parent.name, (checkpoint.stem,))


def _read_note(path: Path) -> BatchNote | None:
    """Reads a note, also one of earlier releases, which is a plain list of pairs; None if there is no valid note."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            content = {"pairs": content}
        names, update, of = content["pairs"], content.get("update", 0), content.get("of")
        if isinstance(names, list) and isinstance(update, int) and isinstance(of, int | None):
            return BatchNote(path.parent.name, tuple(str(name) for name in names), update, of)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return None


def _remove(path: Path) -> None:
    with explain_os_errors(f"remove {path}", "Mend its permissions and run the same command again."):
        path.unlink(missing_ok=True)


def _ids(pairs: Sequence[PromptSeed]) -> list[str]:
    return [pair.pair_id for pair in pairs]
