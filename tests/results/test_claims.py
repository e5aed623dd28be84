from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgool.errors import SgoolError
from sgool.results.claims import Claims, read_claims

_HOLDER = """
import sys
from pathlib import Path
from sgool.results.claims import Claims
with Claims(Path(sys.argv[1])).take("doodl", sys.argv[2:]) as free:
    print(free, flush=True)
    sys.stdin.read()
"""


def _holder(run_dir: Path, *names: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(run_dir), *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    return process


def test_what_another_process_claims_is_not_free(tmp_path: Path) -> None:
    with _holder(tmp_path, "a", "b") as other:
        with Claims(tmp_path).take("doodl", ["b", "c"]) as free:
            assert not free
        assert not (tmp_path / "locks/doodl/c.lock").exists()  # all or none
        with Claims(tmp_path).take("sgool", ["b"]) as free:
            assert free  # another method
        (first, second) = read_claims(tmp_path)
        assert (first.pair_ids, second.pair_ids) == (("a",), ("b",))
        assert (first.method, first.pid, first.alive) == ("doodl", other.pid, True)
        other.communicate("")
    assert read_claims(tmp_path) == []
    with Claims(tmp_path).take("doodl", ["a", "b"]) as free:
        assert free


def test_a_killed_process_claims_nothing(tmp_path: Path) -> None:
    with _holder(tmp_path, "a") as other:
        other.kill()
        other.wait(10)
        (claim,) = read_claims(tmp_path)
        assert claim.alive is False
        with Claims(tmp_path).take("doodl", ["a"]) as free:
            assert free
            (mine,) = read_claims(tmp_path)
            assert mine.pid == os.getpid() and mine.alive is True


def test_two_takers_in_one_process(tmp_path: Path) -> None:
    with Claims(tmp_path).take("doodl", ["a"]) as first, Claims(tmp_path).take("doodl", ["a"]) as second:
        assert first and not second
    assert not list(tmp_path.glob("locks/*/*.lock"))


def test_slurm_tells_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with Claims(tmp_path).take("doodl", ["a"]):
        assert read_claims(tmp_path)[0].job == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with Claims(tmp_path).take("doodl", ["a"]):
        assert read_claims(tmp_path)[0].job == "10_3"


def test_a_claim_that_is_just_being_made_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "locks/doodl").mkdir(parents=True)
    for name, text in (("a", ""), ("b", "{"), ("c", json.dumps({"method": "doodl"}))):
        (tmp_path / f"locks/doodl/{name}.lock").write_text(text)
    assert read_claims(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("in the way")
    with pytest.raises(SgoolError, match=r"Cannot write .*a\.lock: "), Claims(tmp_path).take("doodl", ["a"]):
        pass
