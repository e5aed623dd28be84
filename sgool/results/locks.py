"""Locks of the operating system on open files. No other module of sgool calls ``flock``.

A lock belongs to an open file. It ends when that file is closed, and so with the process that holds it, whatever ends
the process.

The package ``filelock`` was looked at and does not fit. `sgool.results.claims` needs shared locks, which its native
locks do not have; its locks for several readers are SQLite databases, or marker files that heartbeats keep alive. Where
a file system has no locks it takes to marker files by default, and these outlive a killed process. What would be left
is its ``lock_descriptor``: the one call of ``flock`` below, without shared locks and without the errors of NFS.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger(__name__)

#: Seconds before the second try; a process that only looks whether a lock is free holds it for less.
_GLANCE = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool | None:
    """Locks an open file until it is closed.

    Args:
        descriptor: The open file. On NFS it has to be open for writing, or for reading if the lock is shared.
        shared: Whether others may hold a shared lock on the file at the same time.
        wait: Whether to wait until the lock is free.

    Returns:
        True: the lock is held now. False: somebody else holds it, perhaps another open file of this process. None:
        the file system or the operating system has no locks.

    Raises:
        OSError: The file cannot be locked for another reason.
    """
    if fcntl is None:
        return None
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, operation if wait else operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.ESTALE:  # removed on another machine, and NFS has noticed
            return True
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


@functools.cache
def warn_of_no_locks(whose: str, advice: str) -> None:
    """Warns, once in a process, that a file system has no locks, and what to do about it."""
    _logger.warning("%s file system has no locks: %s", whose, advice)


@contextlib.contextmanager
def locked_file(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[bool | None]:
    """Opens a file, locks it for the block and leaves it there; yields what `lock` returns.

    Args:
        path: The file; made if it is missing, with its folder.
        shared: As for `lock`.
        wait: As for `lock`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:  # for reading as well: NFS asks that of shared locks
        yield lock(stream.fileno(), shared=shared, wait=wait)


@contextlib.contextmanager
def temporary_lock(path: Path) -> Iterator[int | None]:
    """Locks a file for the block and removes it afterwards.

    A lock file that nobody holds was left by a process that has died; it is taken over. Where the file system has no
    locks the file is made as well, and `warn_of_no_locks` says so.

    Args:
        path: The file; made with its folder.

    Yields:
        The descriptor of the open file, or None if somebody else holds the lock.
    """
    descriptor = _open_locked(path)
    if descriptor is None:
        yield None
        return
    try:
        yield descriptor
    finally:
        # Removed while it is still locked: whoever opened it meanwhile sees that it is no longer there. Where it cannot
        # be removed any more it locks nothing, and what ended the block must not be hidden by that.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def remove_if_free(path: Path) -> bool:
    """Removes a file of `temporary_lock` that a dead process left.

    Returns:
        Whether nobody holds its lock; False also where that cannot be told.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        free = lock(descriptor) is True
        if free and _is_there(path, descriptor):
            path.unlink()
        return free
    finally:
        os.close(descriptor)


def _open_locked(path: Path) -> int | None:
    """Opens and locks a file; returns its descriptor, or None if somebody else holds the lock."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = lock(descriptor)
            if free is False:  # perhaps only somebody who looks whether it is held
                time.sleep(_GLANCE)
                free = lock(descriptor)
            if free is False:
                os.close(descriptor)
                return None
            if free is None:
                warn_of_no_locks("the run folder's", "start only one runner at a time there")
            if _is_there(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it between our open and our lock


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return False
