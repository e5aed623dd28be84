"""Batches under way in a run folder: their checkpoints, and who their mates are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sgool.atomic import atomic_write, explain_os_errors
from sgool.shards import batch_name
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
        self.checkpoint(pairs).unlink(missing_ok=True)
        (self._folder / f"{_name(pairs)}.json").unlink(missing_ok=True)

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


def _name(pairs: Sequence[PromptSeed]) -> str:
    return batch_name([pair.pair_id for pair in pairs])
