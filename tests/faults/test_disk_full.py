"""A disk that is full: the run stops with a message, what is finished can be read, and with room it goes on."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sgool.errors import SgoolError
from sgool.loggers.csv_logger import GrowingCsv
from sgool.results.compare import config_text, read_config
from sgool.run.status import run_status
from tests.faults.conftest import Run
from tests.faults.folders import content, leftovers
from tests.faults.server import FILLER, At, Server, small_disk

Undisturbed = Callable[..., dict[str, Any]]
FULL = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, which a run of three pairs does not fill."""
    try:
        with small_disk(tmp_path / "disk", "4m") as folder:
            yield folder
    except PermissionError as error:
        pytest.skip(f"only root may mount a small file system: {error.strerror}")


#: The file whose writing finds the disk full, in the order of a run: a start for each, all in one run folder.
WRITES = [
    ("config.yaml", r"/\.config\.yaml"),
    ("environment.json", r"/\.environment\.json"),
    (".lock", r"locks/doodl/three-00000"),
    ("updates.csv", r"doodl/updates\.csv"),
    (".json", r"checkpoints/doodl/\..*\.json"),
    (".ckpt", r"checkpoints/doodl/\..*\.ckpt"),
    ("initial.png", r"doodl/three-00000.*/\.initial\.png"),
    ("latents.safetensors", r"doodl/three-00001.*/\.latents"),
    ("record.json", r"doodl/three-00002.*/\.record\.json"),
    ("pairs.csv", r"best_of_n/pairs\.csv"),
    ("final.png", r"best_of_n/three-00002.*/\.final\.png"),
    ("results.csv", r"\.results\.csv"),
]


def test_each_kind_of_file(
    disk: Path, server: Server, fit: Run, undisturbed: Undisturbed, subtests: pytest.Subtests
) -> None:
    methods = ("doodl", "best_of_n")
    run_dir, finished = disk / "run", set[Path]()
    for name, pattern in WRITES:
        with subtests.test(name):
            code, output = server.run(*fit(run_dir, 2, methods), at=At("open", pattern, "fill"))
            assert code == 2 and "Traceback" not in output, output
            assert_message(output, FULL, run_dir)
            if (run_dir / "config.yaml").exists():
                assert run_status(run_dir).problems == ()
            before, finished = finished, set(run_dir.glob("pairs/*/*/record.json"))
            assert before <= finished
            assert not list(run_dir.rglob("*.tmp"))
        (disk / FILLER).unlink()
    assert len(finished) == 6
    code, output = server.run(*fit(run_dir, 2, methods))
    assert code == 0, output
    assert content(run_dir) == undisturbed(2, methods)
    assert leftovers(run_dir) == []


def test_a_disk_that_grows(disk: Path, server: Server, fit: Run, undisturbed: Undisturbed) -> None:
    run_dir, methods, stopped = disk / "run", ("doodl", "best_of_n"), 0
    for size in ("16k", "48k", "72k", "120k", "4m"):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
        code, output = server.run(*fit(run_dir, 1, methods))
        if code == 0:
            break
        stopped += 1
        assert code == 2 and "Traceback" not in output, output
        assert_message(output, FULL, run_dir)
        if (run_dir / "config.yaml").exists():
            code, output = server.run("status", str(run_dir))
            assert code == 0 and "doodl" in output, output
    assert code == 0 and stopped >= 3, output
    assert content(run_dir) == undisturbed(1, methods)
    assert leftovers(run_dir) == []


def test_status_and_report_of_what_is_finished(disk: Path, server: Server, fit: Run) -> None:
    run_dir = disk / "run"
    place = At("open", r"best_of_n/three-00000.*/\.initial\.png", "fill")
    assert server.run(*fit(run_dir, 2, ("doodl", "best_of_n")), at=place)[0] == 2
    code, output = server.run("status", str(run_dir))
    assert code == 0
    assert [line.split()[:2] for line in output.splitlines()[1:3]] == [["doodl", "3"], ["best_of_n", "0"]]
    code, output = server.run("report", str(run_dir))
    assert code == 2 and "Traceback" not in output, output
    assert_message(output, FULL, run_dir)
    (disk / FILLER).unlink()
    code, output = server.run("report", str(run_dir))
    assert code == 0 and Path(output.strip().splitlines()[-1]).read_text().count("three-0000") >= 3


def test_files_that_may_not_grow(server: Server, fit: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """As under a quota; this needs no root. An image takes 2,600 bytes here, a checkpoint more than 9,000."""
    both = ("doodl", "vanilla")
    limits = ((2_000, both, "config.yaml"), (9_000, both, "checkpoints/doodl"), (2_000, ("vanilla",), "pairs/vanilla"))
    for limit, methods, name in limits:
        if methods != both:  # a start that made nothing is forgotten: the configuration would be written anew
            config = tmp_path / "config.yaml"
            config.write_text(config_text({**read_config(config), "methods": list(methods)}), encoding="utf-8")
        code, output = server.run(*fit(tmp_path, 2, methods), file_limit=limit)
        assert code == 2 and "Traceback" not in output, output
        assert_message(output, "File too large", tmp_path / name)
    code, output = server.run(*fit(tmp_path, 2, both))
    assert code == 0, output
    assert content(tmp_path) == undisturbed(2, both)
    assert leftovers(tmp_path) == []


def test_a_row_that_is_cut_off_is_said(tmp_path: Path) -> None:
    """The system writes as much of a row as there is room for, and calls that no error."""
    table = GrowingCsv(tmp_path, "table")
    table.append({"name": "one", "value": 1})
    before, limits = (tmp_path / "table.csv").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 3, limits[1]))
    try:
        with pytest.raises(SgoolError, match=rf"Cannot write {tmp_path / 'table.csv'}: .*logger=none"):
            table.append({"name": "two", "value": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    table = GrowingCsv(tmp_path, "table")
    table.append({"name": "two", "value": 2})
    assert (tmp_path / "table.csv").read_bytes() == before + b"two,2\n"


def assert_message(output: str, reason: str, run_dir: Path) -> None:
    """One error, with the reason, a path and what to do."""
    (message,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert reason in message and str(run_dir) in message, message
    assert "again." in message or "Use a run_dir" in message, message
