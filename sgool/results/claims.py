"""Claims on pairs: two runners on one run folder share the work and never do a pair twice.

A claim is a lock of the operating system on ``RUN/locks/METHOD/PAIR_ID.lock``, so it ends with the process that holds
it, whatever ends that. What the file says (who, since when) is for people alone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from sgool.errors import SgoolError
from sgool.results.atomic import atomic_write, explain_os_errors, remove_leftovers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger(__name__)

#: Seconds; longer than a look at a claim takes.
_GLANCE = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Claim:
    """Somebody's claim.

    Attributes:
        method: The method.
        pair_ids: The pairs.
        host: Machine of the process that claimed them.
        pid: Its number there.
        job: Its SLURM job (``ARRAY_TASK`` in an array), or None.
        started: When, in seconds since 1970.
        alive: Whether the process lives; None where the file system does not tell.
    """

    method: str
    pair_ids: tuple[str, ...]
    host: str
    pid: int
    job: str | None
    started: float
    alive: bool | None


class Claims:
    """Takes claims in a run folder.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "locks"

    @contextlib.contextmanager
    def take(self, method: str, pair_ids: Sequence[str]) -> Iterator[bool]:
        """Claims all of these pairs for the block, or none: yields whether it could.

        On a file system without locks it always can, and a warning says so.

        Raises:
            SgoolError: The folder cannot be written.
        """
        with ExitStack() as held:
            folder = self._folder / method
            free = all(held.enter_context(_lock(folder / f"{name}.lock", method, name)) for name in pair_ids)
            if not free:
                held.close()
            yield free


@contextlib.contextmanager
def _lock(path: Path, method: str, pair_id: str) -> Iterator[bool]:
    """Holds the lock of one file; yields whether it could be had."""
    with explain_os_errors(f"write {path}", "Use a run_dir where you may write."):
        descriptor = _locked(path)
    if descriptor is None:
        yield False
        return
    try:
        with explain_os_errors(f"write {path}", "Make room there and run the same command again."):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _text(method, pair_id).encode(), 0)
        yield True
    finally:
        # Removed while it is still locked: whoever opened it meanwhile sees that it is no longer there. Where it cannot
        # be removed any more it claims nothing, and what stopped the run must not be hidden by that.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """An open, locked file; None if somebody else holds the lock."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = _try_lock(descriptor)
            if free is False:  # perhaps only `active_claims`, which looks whether anybody holds it
                time.sleep(_GLANCE)
                free = _try_lock(descriptor)
            if free is False:
                os.close(descriptor)
                return None
            if free is None:
                _warn_of_no_locks()
            if _is_there(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it between our open and our lock


def _try_lock(descriptor: int, shared: bool = False) -> bool | None:
    """Whether the lock could be had; None: there are no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
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
def _warn_of_no_locks() -> None:
    """Once a process."""
    _logger.warning("the run folder's file system has no locks: start only one runner at a time there")


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return False


def _text(method: str, pair_id: str) -> str:
    claim = Claim(method, (pair_id,), socket.gethostname(), os.getpid(), slurm_job(), time.time(), None)
    return json.dumps({key: value for key, value in asdict(claim).items() if key != "alive"}) + "\n"


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Waits for a lock on a file and holds it for the block; yields False, at once, where there are no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        held = False
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
                held = True
        yield held


@contextlib.contextmanager
def sole_writer(run_dir: Path) -> Iterator[None]:
    """Makes a run folder and, for the block, lets nobody else write its own files; half written ones are removed.

    Tries to write there, so that hours of work are not lost at their end.

    Raises:
        SgoolError: It is a file, or cannot be made or written.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise SgoolError(f"run_dir must be a folder, but {run_dir} is a file. Use another run_dir.")
    mend = "Use a run_dir where you may write, or mend that and run the same command again: finished pairs are kept."
    with explain_os_errors(f"write to the run folder {run_dir}", mend), ExitStack() as held:
        if held.enter_context(alone(run_dir / "locks" / "folder.lock")):
            remove_leftovers(run_dir)
        probe = run_dir / ".write-test.tmp"
        atomic_write(probe, b"")
        probe.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def present(run_dir: Path) -> Iterator[None]:
    """For the block, others can tell that somebody is at work in the run folder, also before the first claim."""
    path = run_dir / "locks" / "runners.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        _try_lock(stream.fileno(), shared=True)
        yield


def somebody_works(run_dir: Path) -> bool:
    """Whether another process is within `present`, or claims a pair; also where that cannot be told."""
    path = run_dir / "locks" / "runners.lock"
    if path.exists():
        with path.open("ab") as stream:
            if _try_lock(stream.fileno()) is False:
                return True
    return any(claim.alive is not False for claim in active_claims(run_dir))


def remove_dead_claims(run_dir: Path) -> bool:
    """Removes the lock files of dead processes; whether no living process claims anything, as far as can be told."""
    nobody = True
    for path in run_dir.glob("locks/*/*.lock"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            free = _try_lock(descriptor)
            nobody &= free is True
            if free and _is_there(path, descriptor):
                path.unlink()
        finally:
            os.close(descriptor)
    return nobody


def slurm_job() -> str | None:
    """The SLURM job of this process, ``ARRAY_TASK`` in an array; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def active_claims(run_dir: Path) -> list[Claim]:
    """All claims in a run folder, by method and pair, those of dead processes too (``alive`` False)."""
    found = [_read(path) for path in sorted(run_dir.glob("locks/*/*.lock"))]
    return [claim for claim in found if claim is not None]


def _read(path: Path) -> Claim | None:
    """The claim in a file; None if it ends meanwhile or is just being made."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        free = _try_lock(descriptor, shared=True)
        alive = None if free is None else not free
        fields = json.loads(os.pread(descriptor, 1 << 16, 0))
        return Claim(**{**fields, "pair_ids": tuple(fields["pair_ids"]), "alive": alive})
    except (ValueError, TypeError, KeyError):
        return None
    finally:
        os.close(descriptor)
