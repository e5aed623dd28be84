"""Claims on pairs: two runners on one run folder share the work and never do a pair twice.

A claim is a lock of the operating system on ``RUN/locks/METHOD/PAIR_ID.lock``. So it ends with the process that holds
it, whatever ends that process. What the file says (who, since when) is only for people to read.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from sgool.errors import SgoolError
from sgool.results.atomic import atomic_write, explain_os_errors, remove_leftovers
from sgool.results.locks import lock, locked_file, remove_if_free, temporary_lock


@dataclass(frozen=True)
class Claim:
    """A runner's claim on pairs of a method.

    Attributes:
        method: The method.
        pair_ids: The pairs.
        host: The machine of the runner.
        pid: The number of the runner's process on that machine.
        job: The runner's SLURM job (``ARRAY_TASK`` in an array); None outside of SLURM.
        started: When the pairs were claimed, in seconds since 1970.
        alive: Whether the runner's process lives; None where the file system cannot tell.
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
        """Claims all of these pairs for the block, or none of them, and yields whether they are claimed.

        On a file system without locks they always are, and a warning says so.

        Raises:
            SgoolError: The folder cannot be written.
        """
        with ExitStack() as held:
            folder = self._folder / method
            free = all(held.enter_context(_claim(folder / f"{name}.lock", method, name)) for name in pair_ids)
            if not free:
                held.close()
            yield free


@contextlib.contextmanager
def _claim(path: Path, method: str, pair_id: str) -> Iterator[bool]:
    """Claims one pair for the block and yields whether it is claimed."""
    with ExitStack() as held:
        with explain_os_errors(f"write {path}", "Use a run_dir where you may write."):
            descriptor = held.enter_context(temporary_lock(path))
        if descriptor is not None:
            with explain_os_errors(f"write {path}", "Make room there and run the same command again."):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _text(method, pair_id).encode(), 0)
        yield descriptor is not None


def _text(method: str, pair_id: str) -> str:
    claim = Claim(method, (pair_id,), socket.gethostname(), os.getpid(), slurm_job(), time.time(), None)
    return json.dumps({key: value for key, value in asdict(claim).items() if key != "alive"}) + "\n"


@contextlib.contextmanager
def sole_writer(run_dir: Path) -> Iterator[None]:
    """Makes a run folder and, for the block, lets only this process write the files that belong to no single pair.

    Half written files, which a killed process left, are removed. A test file is written and removed again, so that a
    run does not lose hours of work at its end because it cannot write.

    Raises:
        SgoolError: ``run_dir`` is a file, or cannot be made or written.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise SgoolError(f"run_dir must be a folder, but {run_dir} is a file. Use another run_dir.")
    mend = "Use a run_dir where you may write, or mend that and run the same command again: finished pairs are kept."
    with explain_os_errors(f"write to the run folder {run_dir}", mend), ExitStack() as held:
        if held.enter_context(locked_file(run_dir / "locks" / "folder.lock", wait=True)):
            remove_leftovers(run_dir)
        probe = run_dir / ".write-test.tmp"
        atomic_write(probe, b"")
        probe.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def announce_runner(run_dir: Path) -> Iterator[None]:
    """Shows other processes, for the block, that a runner works in the run folder, also before its first claim."""
    # The wait is short: `has_active_runner` holds the lock only while it looks.
    with locked_file(run_dir / "locks" / "runners.lock", shared=True, wait=True):
        yield


def has_active_runner(run_dir: Path) -> bool:
    """Whether a runner is announced in the run folder or holds a claim there; True also where that cannot be told."""
    path = run_dir / "locks" / "runners.lock"
    if path.exists():
        with locked_file(path) as free:
            if free is False:
                return True
    return any(claim.alive is not False for claim in read_claims(run_dir))


def remove_dead_claims(run_dir: Path) -> bool:
    """Removes the lock files of dead processes.

    Returns:
        Whether no claim is left; False also where it cannot be told whether a process lives.
    """
    return all([remove_if_free(path) for path in run_dir.glob("locks/*/*.lock")])  # a list: all files are visited


def slurm_job() -> str | None:
    """Returns the SLURM job of this process, ``ARRAY_TASK`` in an array; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def read_claims(run_dir: Path) -> list[Claim]:
    """Reads all claims in a run folder, by method and pair; those of dead processes have ``alive`` False."""
    found = [_read(path) for path in sorted(run_dir.glob("locks/*/*.lock"))]
    return [claim for claim in found if claim is not None]


def _read(path: Path) -> Claim | None:
    """Reads the claim in a file; None if the claim ends meanwhile or is just being made."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        free = lock(descriptor, shared=True)
        alive = None if free is None else not free
        fields = json.loads(os.pread(descriptor, 1 << 16, 0))
        return Claim(**{**fields, "pair_ids": tuple(fields["pair_ids"]), "alive": alive})
    except (ValueError, TypeError, KeyError):
        return None
    finally:
        os.close(descriptor)
