"""Batches under way in a run folder: their checkpoints, and who their mates are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sgool.results import RunFolder
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.results.claims import remove_dead_claims
from sgool.results.shards import batch_name
from sgool.types import PromptSeed


class UnderWay:
    """Checkpoints and batches of one method.

    A batch that was interrupted goes on with the same mates, also when some of them are recorded already: another
    batch size would round differently, and the checkpoint is that of the batch.

    Args:
        run_dir: The run folder.
        method: The method.
    """

    def __init__(self, run_dir: Path, method: str) -> None:
        self._folder = run_dir / "checkpoints" / method

    def checkpoint(self, pairs: Sequence[PromptSeed]) -> Path:
        """The batch's checkpoint file, which may not exist."""
        return self._folder / f"{_name(pairs)}.ckpt"

    def begin(self, pairs: Sequence[PromptSeed]) -> None:
        """Remembers a batch of several pairs."""
        if len(pairs) > 1:
            path = self._folder / f"{_name(pairs)}.json"
            with explain_os_errors(f"write {path}", "Make room there and run the same command again."):
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, json.dumps([pair.pair_id for pair in pairs]).encode())

    def end(self, pairs: Sequence[PromptSeed]) -> None:
        """Forgets a batch whose pairs are recorded, and its checkpoint."""
        self.drop_checkpoint(pairs)
        _remove(self._folder / f"{_name(pairs)}.json")

    def drop_checkpoint(self, pairs: Sequence[PromptSeed]) -> None:
        """Removes the batch's checkpoint, if there is one."""
        _remove(self.checkpoint(pairs))

    def mates(self, batch: Sequence[PromptSeed], left: Sequence[PromptSeed]) -> tuple[PromptSeed, ...]:
        """What to run so that the ``left`` of a batch get done: those alone, or with mates they had begun with."""
        by_id = {pair.pair_id: pair for pair in batch}
        wanted = {pair.pair_id for pair in left}
        for path in sorted(self._folder.glob("*.json")):
            try:
                names = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if wanted <= set(names) <= by_id.keys():
                return tuple(by_id[name] for name in names)
        return tuple(left)


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


def _pair_ids(path: Path) -> list[str]:
    """The pairs of a checkpoint or of a batch's list; a list lies beside the checkpoint of several pairs."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        return [path.stem]
    try:
        return [str(name) for name in json.loads(beside.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return []


def _remove(path: Path) -> None:
    with explain_os_errors(f"remove {path}", "Mend its permissions and run the same command again."):
        path.unlink(missing_ok=True)


def _name(pairs: Sequence[PromptSeed]) -> str:
    return batch_name([pair.pair_id for pair in pairs])
