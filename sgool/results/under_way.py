"""Batches under way in a run folder: their checkpoints, and the notes beside these that say whose they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.results import RunFolder
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.results.claims import remove_dead_claims
from sgool.results.shards import batch_name
from sgool.types import PromptSeed


@dataclass(frozen=True)
class BatchNote:
    """What the file beside a batch's checkpoint says.

    Attributes:
        method: The method.
        pair_ids: The batch's pairs, in their order.
        update: Updates that the checkpoint holds; 0: there is no checkpoint yet.
        of: Updates that the batch takes; None: unknown, nothing has been noted since the batch began.
    """

    method: str
    pair_ids: tuple[str, ...]
    update: int = 0
    of: int | None = None


class UnderWay:
    """Checkpoints and batches of one method.

    A batch is noted in ``RUN/checkpoints/METHOD/NAME.json``, its checkpoint is ``NAME.ckpt`` beside it. A batch that
    was interrupted goes on with the same mates, also when some of them are recorded already: another batch size would
    round differently, and the checkpoint is that of the batch.

    Args:
        run_dir: The run folder.
        method: The method.
    """

    def __init__(self, run_dir: Path, method: str) -> None:
        self._folder = run_dir / "checkpoints" / method

    def checkpoint(self, pairs: Sequence[PromptSeed]) -> Path:
        """The batch's checkpoint file, which may not exist."""
        return self._folder / f"{batch_name(_ids(pairs))}.ckpt"

    def begin(self, pairs: Sequence[PromptSeed]) -> None:
        """Notes a batch, with no update yet; what is noted of an interrupted one stays.

        Raises:
            SgoolError: The note cannot be written.
        """
        checkpoint = self.checkpoint(pairs)
        noted = _read_note(checkpoint.with_suffix(".json"))
        if noted is None or list(noted.pair_ids) != _ids(pairs) or not checkpoint.exists():
            write_note(checkpoint, _ids(pairs), 0, None)

    def note_progress(self, pairs: Sequence[PromptSeed], update: int, of: int) -> None:
        """Notes what the batch's checkpoint holds; to be called whenever the checkpoint has been written.

        Args:
            pairs: The batch.
            update: Updates that the checkpoint holds.
            of: Updates that the batch takes.

        Raises:
            SgoolError: The note cannot be written.
        """
        write_note(self.checkpoint(pairs), _ids(pairs), update, of)

    def end(self, pairs: Sequence[PromptSeed]) -> None:
        """Forgets a batch whose pairs are recorded: removes its checkpoint and its note."""
        checkpoint = self.checkpoint(pairs)
        _remove(checkpoint)
        _remove(checkpoint.with_suffix(".json"))

    def mates(self, batch: Sequence[PromptSeed], left: Sequence[PromptSeed]) -> tuple[PromptSeed, ...]:
        """What to run so that the ``left`` of a batch get done: those alone, or with mates they had begun with."""
        by_id = {pair.pair_id: pair for pair in batch}
        wanted = {pair.pair_id for pair in left}
        notes = [note.pair_ids for path in sorted(self._folder.glob("*.json")) if (note := _read_note(path))]
        begun = [names for names in notes if wanted <= set(names) <= by_id.keys()]
        # Where a batch has gone on in parts, for want of memory, its parts are noted too.
        return tuple(by_id[name] for name in max(begun, key=len)) if begun else tuple(left)


def write_note(checkpoint: Path, pair_ids: Sequence[str], update: int, of: int | None) -> None:
    """Writes the note beside a checkpoint, whole or not at all; `UnderWay` says what it means.

    Raises:
        SgoolError: It cannot be written.
    """
    path = checkpoint.with_suffix(".json")
    content = {"pairs": list(pair_ids), "update": update, "of": of}
    with explain_os_errors(f"write {path}", "Make room there and run the same command again."):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(content).encode())


def batches_under_way(run_dir: Path) -> list[BatchNote]:
    """The batches of all methods that have begun and not ended, by method and name; unreadable notes are left out."""
    files = sorted(run_dir.glob("checkpoints/*/*"))
    checkpoints = [path for path in files if path.suffix == ".ckpt" and not path.with_suffix(".json").exists()]
    notes = [_read_note(path) for path in files if path.suffix == ".json"]
    return [note for note in notes if note] + [note for path in checkpoints if (note := _single(path))]


def tidy(folder: RunFolder) -> None:
    """Removes what killed processes left: locks, half written files, checkpoints of pairs that are done.

    Does nothing more than the locks while others are at work in the folder: the last one to end does the rest. A file
    of theirs is found before their claim is looked for, so one who begins meanwhile loses nothing.
    """
    with explain_os_errors(f"remove what is left over in {folder.path}", "Use a run_dir where you may write."):
        found = list(folder.path.glob("checkpoints/*/*"))  # hidden ones too
        if not remove_dead_claims(folder.path):
            return
        # All are judged before one is removed: a checkpoint's pairs stand in the file beside it.
        for path in [path for path in found if path.suffix == ".tmp" or _is_done(folder, path)]:
            path.unlink(missing_ok=True)


def _is_done(folder: RunFolder, path: Path) -> bool:
    """Whether all pairs of a batch's file are done; one that failed may go on from its checkpoint."""
    names = _pair_ids(path)
    try:
        return bool(names) and all(folder.is_done(path.parent.name, name, retry_failed=True) for name in names)
    except ValueError:  # no name of a pair
        return False


def _pair_ids(path: Path) -> tuple[str, ...]:
    """The pairs of a checkpoint or of a note; empty where nobody can tell."""
    beside = path.with_suffix(".json")
    note = _read_note(beside) if beside.exists() else _single(path)
    return note.pair_ids if note else ()


def _single(checkpoint: Path) -> BatchNote | None:
    """For a checkpoint without a note: earlier releases wrote none for a single pair, whose id is the file's name."""
    return None if "+" in checkpoint.stem else BatchNote(checkpoint.parent.name, (checkpoint.stem,))


def _read_note(path: Path) -> BatchNote | None:
    """A note, also in the form of earlier releases, which is the list of pairs alone; None where there is no such."""
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
