"""Tells the folder of a sweep from that of a run."""

from __future__ import annotations

import shlex
from pathlib import Path


def sweep_hint(path: Path, command: str, *, several: bool = True) -> str:
    """Returns a sentence, with a space before it, for messages about a folder that holds no run but those of a sweep.

    Args:
        path: The folder.
        command: What reads the runs, such as ``sgool report``.
        several: Whether the command reads several runs at once.

    Returns:
        The sentence; an empty text if ``sgool fit -m`` has not made the folder.
    """
    if not (path / "multirun.yaml").is_file():
        return ""
    folder = shlex.quote(str(path))
    if several:
        return f" It holds a sweep; give its runs: {command} {folder}/*/"
    return f' It holds a sweep; for each of its runs: for run in {folder}/*/; do {command} "$run"; done'
