from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sgool.loggers.slots import Slot
from sgool.results import locks
from sgool.results.claims import (
    Claims,
    announce_runner,
    has_active_runner,
    read_claims,
    remove_dead_claims,
    sole_writer,
)
from sgool.results.locks import locked_file, remove_if_free, temporary_lock

_HOLDER = """
import sys
from pathlib import Path
from sgool.results.locks import locked_file
with locked_file(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def _refusing(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every lock fail with this error, until it is called."""

    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    real = locks.fcntl
    monkeypatch.setattr(locks, "fcntl", SimpleNamespace(**{**vars(real), "flock": flock}))
    return lambda: monkeypatch.setattr(locks, "fcntl", real)


def test_files_are_open_in_the_way_that_nfs_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS makes `flock` a lock of bytes, as `lockf` is: a shared one needs a file that can be read."""
    real = locks.fcntl
    monkeypatch.setattr(locks, "fcntl", SimpleNamespace(**{**vars(real), "flock": real.lockf}))
    with sole_writer(tmp_path), announce_runner(tmp_path), locked_file(tmp_path / "a.lock") as held:
        assert held is True


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.lock"
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with locked_file(path) as free:
            assert free is False
        with locked_file(path, shared=True) as free:
            assert free is False
        other.kill()
        other.wait(10)
    with locked_file(path) as free:
        assert free is True
    assert path.exists()


def test_shared_locks_keep_out_others_only(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with locked_file(path, shared=True) as one, locked_file(path, shared=True) as two, locked_file(path) as three:
        assert (one, two, three) == (True, True, False)


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    path, held = tmp_path / "a.lock", threading.Event()

    def wait() -> None:
        with locked_file(path, wait=True):
            held.set()

    with locked_file(path):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not held.wait(0.2)
    assert held.wait(10)
    thread.join(10)


def test_a_temporary_lock_is_gone_afterwards_and_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a.lock"
    path.parent.mkdir()
    path.write_text("of a dead process")
    with temporary_lock(path) as mine, temporary_lock(path) as other:
        assert mine is not None and other is None
        assert not remove_if_free(path) and path.exists()
    assert not path.exists() and remove_if_free(path)
    path.touch()
    assert remove_if_free(path) and not path.exists()


def test_a_file_removed_between_open_and_lock_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, calls = tmp_path / "a.lock", locks.lock, []

    def lock(descriptor: int, **options: bool) -> bool | None:
        if not calls:
            path.unlink()  # as its last holder does
        calls.append(descriptor)
        return real(descriptor, **options)

    monkeypatch.setattr(locks, "lock", lock)
    with temporary_lock(path) as descriptor:
        assert descriptor is not None and len(calls) == 2
        assert os.path.samestat(os.stat(path), os.fstat(descriptor))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, None])
def test_without_locks_all_goes_on_and_says_so_once(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    locks.warn_of_no_locks.cache_clear()
    if number is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        _refusing(number, monkeypatch)
    with sole_writer(tmp_path), announce_runner(tmp_path):
        for name in ("a", "b"):
            with Claims(tmp_path).take("doodl", [name]) as free:
                assert free
                (claim,) = read_claims(tmp_path)
                assert claim.alive is None and has_active_runner(tmp_path)
                assert not remove_dead_claims(tmp_path)  # nobody can tell whether it is dead
    assert read_claims(tmp_path) == []
    (said,) = caplog.messages
    assert said == "the run folder's file system has no locks: start only one runner at a time there"
    assert Slot(tmp_path, "log").name == "log"


def test_stale_files_of_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS answers ESTALE where the open file was removed on another machine: the file is opened again."""
    path, again, real = tmp_path / "a.lock", _refusing(errno.ESTALE, monkeypatch), locks._is_there
    answers = iter([False])

    def is_there(path: Path, descriptor: int) -> bool:
        if next(answers, True):
            return real(path, descriptor)
        again()
        return False

    monkeypatch.setattr(locks, "_is_there", is_there)
    with temporary_lock(path) as descriptor:
        assert descriptor is not None
        with locked_file(path) as free:
            assert free is False


def test_other_errors_are_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refusing(errno.EIO, monkeypatch)
    with pytest.raises(OSError, match="Input/output"), temporary_lock(tmp_path / "a.lock"):
        pass
    with pytest.raises(OSError, match="Input/output"), locked_file(tmp_path / "b.lock", wait=True):
        pass
