"""Writes files so that a reader sees the old file or the new one, never a part of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgool.errors import SgoolError


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file beside it, then rename.

    The data reaches the disk before the rename, and the rename before this returns, so that after a power cut a file
    written earlier is never missing while one written later is there.

    Args:
        path: The file; its folder exists.
        data: Its whole content.

    Raises:
        OSError: The file system refuses. The temporary file is removed and an older ``path`` stays as it was.
    """
    # Not tempfile.mkstemp: its mode 0600 would lock out the group that shares a cluster's run folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames and removals in a folder durable, where the system can (Windows cannot open folders)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def explain_os_errors(action: str, mend: str) -> Iterator[None]:
    """Turn an ``OSError`` into an ``SgoolError``: ``cannot ACTION: REASON. MEND``."""
    try:
        yield
    except OSError as error:
        raise SgoolError(f"Cannot {action}: {error.strerror or error}. {mend}") from error
