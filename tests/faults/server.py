"""Starts real ``sgool`` commands at a fork's price: one process imports everything, each command is a fork of it.

Importing torch, lightning and diffusers takes longer than the runs that these tests disturb. A forked child loads its
models, writes its files and is killed as any other process; nothing in it is replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: No library may start threads of its own: a fork would have their locks without them.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_SETTINGS = {**_ONE_THREAD, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}

#: The filler of a full disk; beside the run folder, on the same file system.
FILLER = "filler"


@dataclass(frozen=True)
class At:
    """A disturbance just before a command touches a file.

    Attributes:
        event: Python's name of the event: open, os.rename (to the file) or os.remove.
        pattern: Regular expression that the file's path has to hold.
        then: "kill" the process; "fill" the file system; "seal" the run folder, so that nothing in it can be written.
        count: At which such event.
    """

    event: str
    pattern: str
    then: str
    count: int = 1


@dataclass
class Command:
    """A command under way."""

    server: Server
    pid: int
    output_path: Path

    def kill(self) -> None:
        """SIGKILL. A command that has ended stays a zombie until it is waited for: the number is no other's."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code, or minus the number of the signal that ended it."""
        code: int = self.server.ask(wait=self.pid)
        return code

    @property
    def output(self) -> str:
        """What it has printed so far, errors too."""
        return self.output_path.read_text()


class Server:
    """The client's side: a context manager.

    Args:
        folder: For the commands' output.
        warm_up: Overrides of a run that imports what a run imports; without gradients, whose threads survive no fork.
    """

    def __init__(self, folder: Path, warm_up: Sequence[str]) -> None:
        self._folder, self._started = folder, 0
        command = [sys.executable, "-m", "tests.faults.server", *warm_up]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=ROOT, env=os.environ | _SETTINGS, text=True, **pipes)
        self.threads: int = self._answer()["threads"]

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server has ended"
        return json.loads(line)

    def start(
        self, *arguments: str, at: At | None = None, file_limit: int | None = None, plain_user: bool = False
    ) -> Command:
        """Starts ``sgool ARGUMENTS``.

        Args:
            arguments: Of the command.
            at: Where it is disturbed.
            file_limit: Largest file in bytes that it may write.
            plain_user: Without root's right to ignore the modes of files.
        """
        self._started += 1
        output = self._folder / f"{self._started}.txt"
        request: dict[str, Any] = {"start": arguments, "output": str(output), "at": at and vars(at)}
        return Command(self, self.ask(**request, file_limit=file_limit, plain_user=plain_user), output)

    def run(self, *arguments: str, **disturbed: Any) -> tuple[int, str]:
        """Exit code and output of a command; takes what ``start`` takes."""
        command = self.start(*arguments, **disturbed)
        return command.wait(), command.output

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def serve(warm_up: Sequence[str]) -> None:
    """The server's side: answers each line with one."""
    from sgool.run.fit import fit

    with contextlib.redirect_stdout(sys.stderr):
        fit(*warm_up)
        _import_the_rest()
    print(json.dumps({"threads": len(os.listdir("/proc/self/task"))}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(_wait(request["wait"]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _be_the_command(request)
        print(pid, flush=True)


def _import_the_rest() -> None:
    import sgool.cli
    import sgool.cli.console
    import sgool.loggers.csv_logger
    import sgool.loggers.updates
    import sgool.run.status  # noqa: F401


def _wait(pid: int, limit: float = 120) -> int:
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"a command took more than {limit} s")


def _be_the_command(request: dict[str, Any]) -> None:
    code = 1
    try:
        _redirect(request["output"])
        if request["file_limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], request["file_limit"]))
        if request["plain_user"]:
            _drop_capabilities()
        if request["at"]:
            _disturb(At(**request["at"]))
        sys.argv = ["sgool", *request["start"]]
        from sgool.cli import main

        main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(output: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, source in ((0, null), (1, file), (2, file)):
        os.dup2(source, number)


def _drop_capabilities() -> None:
    """Leaves root's user, who owns the files, without root's rights."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def _disturb(at: At) -> None:
    """Listens to Python's audit events, which come before the call to the operating system."""
    seen = iter(range(1, 1_000_000))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != at.event:
            return
        path = arguments[1 if event == "os.rename" else 0]
        if not isinstance(path, (str, os.PathLike)) or not re.search(at.pattern, os.fspath(path)):
            return
        if next(seen) == at.count:
            _DEEDS[at.then](Path(os.fspath(path)))

    sys.addaudithook(hook)


def _kill(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(10)


def _fill(path: Path) -> None:
    """Somebody else takes the last byte of the file system."""
    mount = next(folder for folder in path.parents if folder.is_mount())
    with (mount / FILLER).open("ab", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while stream.write(bytes(size)) == size:
                    pass


def _seal(path: Path) -> None:
    run_dir = next(folder for folder in path.parents if (folder / "config.yaml").exists())
    for folder in [run_dir, *(entry for entry in run_dir.rglob("*") if entry.is_dir())]:
        folder.chmod(0o555)


_DEEDS = {"kill": _kill, "fill": _fill, "seal": _seal}


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own size; OSError where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(errno.EPERM, done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
