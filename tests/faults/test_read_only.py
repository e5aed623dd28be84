"""A run folder in which nothing can be written, from the start or suddenly."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Run
from tests.faults.folders import content, leftovers
from tests.faults.server import At, Server, small_disk

Undisturbed = Callable[..., dict[str, Any]]
METHODS = ("doodl", "best_of_n")


def test_a_file_system_mounted_read_only(server: Server, fit: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk", "4m") as disk:
            run_dir = disk / "run"
            assert server.run(*fit(run_dir, 2, METHODS), at=At("os.rename", "record.json", "kill", 3))[0] == -9
            for way, code, text in (("ro", 2, "Read-only file system"), ("rw", 0, "results.csv")):
                subprocess.run(["mount", "-o", f"remount,{way}", str(disk)], check=True)
                status, table = server.run("status", str(run_dir))
                assert status == 0 and table.splitlines()[1].split()[:2] == ["doodl", "2"]
                found, output = server.run(*fit(run_dir, 2, METHODS))
                assert found == code and text in output and "Traceback" not in output, output
                assert str(run_dir) in output
            assert content(run_dir) == undisturbed(2, METHODS)
            assert leftovers(run_dir) == []
    except PermissionError as error:
        pytest.skip(f"only root may mount a file system: {error.strerror}")


#: Before which events all folders of the run become read-only.
MOMENTS = [
    At("open", r"locks/doodl/three-00000", "seal"),
    At("open", r"checkpoints/doodl/.*\.ckpt", "seal", 2),
    At("open", r"three-00001.*/\.record\.json", "seal"),
    At("os.remove", r"locks/doodl/three-00001", "seal"),
    At("os.remove", r"checkpoints/doodl/three-00002.*\.ckpt", "seal"),
    At("open", r"best_of_n/three-00000.*/\.initial\.png", "seal"),
    At("open", r"best_of_n/pairs\.csv", "seal"),
]


def test_folders_that_lose_their_permissions(
    server: Server, fit: Run, undisturbed: Undisturbed, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    run_dir = tmp_path / "run"
    for moment in MOMENTS:
        with subtests.test(moment.pattern):
            code, output = server.run(*fit(run_dir, 2, METHODS), at=moment, plain_user=True)
            assert code == 2 and "Traceback" not in output, output
            (message,) = [line for line in output.splitlines() if line.startswith("Error: ")]
            assert str(run_dir) in message and "Permission denied" in message
            code, output = server.run(*fit(run_dir, 2, METHODS), plain_user=True)
            assert code == 2 and "Traceback" not in output, output
            (message,) = [line for line in output.splitlines() if line.startswith("Error: ")]
            assert f"Cannot write to the run folder {run_dir}: Permission denied. Use a run_dir where" in message
        for folder in [run_dir, *(entry for entry in run_dir.rglob("*") if entry.is_dir())]:
            folder.chmod(0o755)
    code, output = server.run(*fit(run_dir, 2, METHODS), plain_user=True)
    assert code == 0, output
    assert content(run_dir) == undisturbed(2, METHODS)
    assert leftovers(run_dir) == []
