"""Files of a run folder that are damaged or left behind: found, said, and made again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import METHODS, Run
from tests.faults.folders import content, leftovers
from tests.faults.server import At, Server

Undisturbed = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def finished(server: Server, fit: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder."""
    run_dir = tmp_path_factory.mktemp("finished")
    assert server.run(*fit(run_dir, 1))[0] == 0
    return run_dir


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def test_checkpoints(server: Server, fit: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    for method, pair, spoil in (("doodl", "three-00000", cut_off), ("best_of_n", "three-00002", flip_a_bit)):
        # Killed while it writes its second checkpoint: the first one is whole.
        place = At("os.rename", rf"checkpoints/{method}/{pair}.*\.ckpt$", "kill", 2)
        code, output = server.run(*fit(tmp_path), at=place)
        assert code == -9 and "damaged" not in output.split(METHODS[1])[-1], output
        (file,) = tmp_path.glob(f"checkpoints/{method}/{pair}*.ckpt")
        spoil(file)
        # Taken up by a run that is killed as well, so that both the note and what follows are of the next start.
        code, output = server.run(*fit(tmp_path), at=At("os.rename", rf"{method}/{pair}.*/record\.json$", "kill"))
        assert code == -9
        note = f"note: the checkpoint {file} cannot be read, it is cut off or damaged ("
        assert output.count(note) == 1 and "): the fit starts anew" in output, output
    code, output = server.run(*fit(tmp_path))
    assert code == 0 and "damaged" not in output, output
    assert content(tmp_path) == undisturbed()
    assert leftovers(tmp_path) == []


def test_records(server: Server, fit: Run, undisturbed: Undisturbed, finished: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    first, second, third = (sorted((run_dir / "pairs" / method).glob("*/record.json")) for method in METHODS)
    cut_off(first[0])
    first[1].write_bytes(b"")
    second[0].write_bytes(b"\x89PNG\r\n\xff\xfe")
    second[2].write_bytes(second[1].read_bytes())
    third[1].write_text("[1, 2]")
    third[2].unlink()
    kept = {path: path.stat().st_mtime_ns for path in (first[2], second[1], third[0])}
    (run_dir / "results.csv").unlink()
    code, output = server.run(*fit(run_dir, 1))
    assert code == 0 and "9 to do" not in output and "6 to do, 3 done already" in output, output
    for path, reason in (
        (first[0], "not valid JSON, probably cut off"),
        (first[1], "not valid JSON, probably cut off"),
        (second[0], "codec can't decode byte 0x89"),
        (second[2], f"it is the record of best_of_n/{second[1].parent.name}"),
        (third[1], "expected a JSON object, got list"),
    ):
        (said,) = [line for line in output.splitlines() if f"{path} does not count, the pair is not done" in line]
        assert reason in said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_equal_but_for_second_curves(content(run_dir), undisturbed(1))
    assert leftovers(run_dir) == []


def test_what_a_dead_process_left(server: Server, fit: Run, undisturbed: Undisturbed, finished: Path) -> None:
    """Of a machine that went down: no lock is held any more, whoever the files name."""
    one, other = sorted((finished / "pairs/doodl").iterdir())[:2]
    (other / "record.json").unlink()
    claim = {"method": "doodl", "host": "elsewhere", "pid": 1, "job": None, "started": 0.0}
    for pair in (one, other):
        lock = finished / "locks/doodl" / f"{pair.name}.lock"
        lock.write_text(json.dumps({**claim, "pair_ids": [pair.name]}))
    for name in (f"pairs/doodl/{other.name}/.final.png", "checkpoints/doodl/.x.ckpt", ".results.csv", ".config.yaml"):
        (finished / f"{name}.4711-0123abcd.tmp").parent.mkdir(parents=True, exist_ok=True)
        (finished / f"{name}.4711-0123abcd.tmp").write_bytes(b"half")
    (finished / "locks/doodl/empty.lock").touch()
    status, table = server.run("status", str(finished))
    assert status == 0 and re.search(r"(?m)^doodl +2 +0 +1 +0 +1 +3 ", table), table
    code, output = server.run(*fit(finished, 1))
    assert code == 0 and "8 done already" in output, output
    assert_equal_but_for_second_curves(content(finished), undisturbed(1))
    assert leftovers(finished) == []
    # Also where nothing is left to do.
    (finished / f"locks/doodl/{one.name}.lock").touch()
    (finished / "results.csv").unlink()
    assert server.run(*fit(finished, 1))[0] == 0
    assert_equal_but_for_second_curves(content(finished), undisturbed(1))
    assert leftovers(finished) == []


def assert_equal_but_for_second_curves(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """A log is not rewritten: what is done again is logged again, in the same words."""
    assert {key: sorted(set(value)) if "logs/" in key else value for key, value in found.items()} == expected
