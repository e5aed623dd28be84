"""``sgool status`` on run folders of every kind, with claims of real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sgool.cli import app
from sgool.errors import SgoolError
from sgool.prompts import load_pairs
from sgool.results import RunFolder
from sgool.results.claims import Claims
from sgool.results.under_way import BatchesUnderWay
from sgool.run.config import load_config, to_plain
from sgool.run.status import describe, duration, run_status
from sgool.types import PromptSeed
from tests.fake_run import fake_record

METHODS = ("vanilla", "doodl")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of eight pairs under two methods that has not got anywhere."""
    overrides = [f"run_dir={tmp_path / 'run'}", "methods=[vanilla,doodl]", "trainer.pairs_per_fit=2", "data.limit=8"]
    config = to_plain(load_config(["data.seeds=4", *overrides]))
    return RunFolder(tmp_path / "run").open(config, device="test device")


@pytest.fixture
def pairs(folder: RunFolder) -> list[PromptSeed]:
    return load_pairs(**folder.config()["data"])


def _end(folder: RunFolder, pair: PromptSeed, method: str, at: float, **changes: Any) -> None:
    """Records a pair as if it had ended at ``at``."""
    path = folder.write(fake_record(pair, method, **changes)) / "record.json"
    os.utime(path, (at, at))


def _rows(folder: RunFolder) -> dict[str, dict[str, Any]]:
    status = run_status(folder.path).as_json()
    return {row["method"]: row for row in status["methods"]}


def _sgool(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", *arguments])


@contextmanager
def _other_process(folder: RunFolder, method: str, pair_ids: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a claim for as long as it lives."""
    code = (
        "import sys, time; from pathlib import Path; from sgool.results.claims import Claims\n"
        "with Claims(Path(sys.argv[1])).take(sys.argv[2], sys.argv[3:]) as taken:\n"
        "    print(taken, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path), method, *pair_ids],
        env=os.environ | {"SLURM_JOB_ID": "12", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_run_that_has_not_begun(folder: RunFolder) -> None:
    rows = _rows(folder)
    assert list(rows) == list(METHODS)
    assert rows["doodl"] == {
        "method": "doodl",
        "done": 0,
        "failed": 0,
        "running": 0,
        "interrupted": 0,
        "left": 8,
        "total": 8,
        "seconds_left": None,
    }
    assert describe(run_status(folder.path)) == ["nothing is running"]


def test_done_failed_running_interrupted_and_left(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    _end(folder, pairs[0], "doodl", 100)
    _end(
        folder, pairs[1], "doodl", 200, status="failed", error="Traceback\n  deep\nValueError: the loss is not finite\n"
    )
    folder.pair_folder("doodl", pairs[2].pair_id).mkdir(parents=True)  # killed while it wrote
    with _other_process(folder, "doodl", [pairs[3].pair_id, pairs[4].pair_id]):
        row = _rows(folder)["doodl"]
        lines = describe(run_status(folder.path))
    assert {key: row[key] for key in ("done", "failed", "running", "interrupted", "left", "total")} == {
        "done": 1,
        "failed": 1,
        "running": 2,
        "interrupted": 1,
        "left": 6,
        "total": 8,
    }
    assert lines[0].startswith("at work: ") and lines[0].endswith(", job 12: 2 pairs")
    assert lines[1:] == [f"failed: doodl {pairs[1].pair_id}: ValueError: the loss is not finite"]


def test_a_killed_runner_leaves_interrupted_pairs(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    with _other_process(folder, "doodl", [pairs[0].pair_id]) as process:
        process.kill()
        process.wait()
        row = _rows(folder)["doodl"]
    assert (row["running"], row["interrupted"], row["left"]) == (0, 1, 8)


def test_a_batch_under_way_tells_its_pairs_and_its_progress(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    under_way = BatchesUnderWay(folder.path, "doodl")
    under_way.begin(pairs[:3])
    assert _rows(folder)["doodl"]["interrupted"] == 3
    assert describe(run_status(folder.path)) == ["nothing is running"]  # no update is saved yet
    under_way.note_progress(pairs[:3], 40, 100)
    under_way.note_progress(pairs[4:5], 100, 100)
    assert describe(run_status(folder.path))[:2] == [
        f"under way: doodl {pairs[0].pair_id} and 2 more: 40 of 100 updates are saved",
        f"under way: doodl {pairs[4].pair_id}: 100 of 100 updates are saved",
    ]
    first = run_status(folder.path).as_json()["under_way"][0]
    ids = tuple(pair.pair_id for pair in pairs[:3])
    assert first == {"method": "doodl", "pair_ids": ids, "update": 40, "of": 100}
    _end(folder, pairs[0], "doodl", 100)
    _end(folder, pairs[4], "doodl", 100)
    assert _rows(folder)["doodl"]["interrupted"] == 2
    with Claims(folder.path).take("doodl", [pairs[1].pair_id]):
        row, lines = _rows(folder)["doodl"], describe(run_status(folder.path))
    assert (row["running"], row["interrupted"]) == (1, 1)
    assert lines[1:] == [f"under way: doodl {pairs[0].pair_id} and 2 more: 40 of 100 updates are saved"]


def test_checkpoints_of_earlier_releases_tell_their_pairs(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    under_way = BatchesUnderWay(folder.path, "doodl")
    for batch in (pairs[:2], pairs[2:3]):
        under_way.checkpoint(batch).parent.mkdir(parents=True, exist_ok=True)
        under_way.checkpoint(batch).write_bytes(b"")
    assert _rows(folder)["doodl"]["interrupted"] == 1  # of a single pair, by its name
    names = [pair.pair_id for pair in pairs[:2]]
    under_way.checkpoint(pairs[:2]).with_suffix(".json").write_text(json.dumps(names))
    assert _rows(folder)["doodl"]["interrupted"] == 3


def test_a_cut_off_note_or_a_strange_file_stops_nobody(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    BatchesUnderWay(folder.path, "doodl").begin(pairs[:2])
    (note,) = folder.path.glob("checkpoints/doodl/*.json")
    (note.parent / "anything.ckpt").write_bytes(b"PK\x03\x04 and then nothing")
    for text in ('{"pairs": [', '{"update": 3}', '{"pairs": "a"}', '{"pairs": [], "update": "k"}', "3", ""):
        note.write_text(text)
        assert _rows(folder)["doodl"]["interrupted"] == 0
    note.write_bytes(b"\xff\xfe")
    assert _rows(folder)["doodl"]["interrupted"] == 0


def test_a_failed_pair_that_is_tried_again_is_running(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    _end(folder, pairs[0], "doodl", 100, status="failed", error="out of memory")
    with Claims(folder.path).take("doodl", [pairs[0].pair_id]):
        row = _rows(folder)["doodl"]
    assert (row["failed"], row["running"], row["left"]) == (0, 1, 8)


def test_the_pace_is_that_of_all_runners_together(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    # Two runners, fits of two pairs that take 10 s each: four records every 20 s.
    for place, at in enumerate((1020, 1020, 1021, 1021)):
        _end(folder, pairs[place], "doodl", at, seconds=10.0)
    with Claims(folder.path).take("doodl", [pairs[5].pair_id]):
        row = _rows(folder)["doodl"]
    assert row["seconds_left"] == pytest.approx(4 * 21 / 4)  # four left; four in the 21 s since the first fit began


def test_a_pause_is_no_part_of_the_pace(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    for place, at in enumerate((1020, 1020, 90020, 90020, 90040, 90040)):  # a night between the first and the second
        _end(folder, pairs[place], "doodl", at, seconds=10.0)
    with Claims(folder.path).take("doodl", [pairs[6].pair_id]):
        row = _rows(folder)["doodl"]
    assert row["seconds_left"] == pytest.approx(2 * 10)


def test_in_the_middle_of_a_long_run_the_latest_records_count(
    folder: RunFolder, pairs: list[PromptSeed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgool.run.status.RECENT", 4)
    for place, at in enumerate((100, 150, 160, 170, 180, 190)):  # faster now than at the beginning
        _end(folder, pairs[place], "doodl", at, seconds=10.0)
    with Claims(folder.path).take("doodl", [pairs[6].pair_id]):
        row = _rows(folder)["doodl"]
    assert row["seconds_left"] == pytest.approx(2 * 10)


def test_the_whole_time_is_unknown_while_a_method_has_not_begun(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    _end(folder, pairs[0], "vanilla", 100, seconds=5.0)
    with Claims(folder.path).take("vanilla", [pairs[1].pair_id]):
        status = run_status(folder.path)
    assert [row.seconds_left is None for row in status.methods] == [False, True]
    assert status.seconds_left is None


def test_a_finished_run_takes_no_more_time(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    for method in METHODS:
        for pair in pairs:
            _end(folder, pair, method, 100)
    status = run_status(folder.path)
    assert status.seconds_left == 0
    assert describe(status) == []


def test_pairs_that_the_configuration_no_longer_names_do_not_count(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    for pair in pairs:
        _end(folder, pair, "doodl", 100)
    fewer = folder.config()
    fewer["data"]["limit"] = 3
    folder.open(fewer, device="test device")
    row = _rows(folder)["doodl"]
    assert (row["done"], row["total"], row["left"]) == (3, 3, 0)


def test_without_its_prompts_a_run_tells_what_it_has(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt\na red cat\ntwo dogs\n")
    config = to_plain(load_config([f"run_dir={tmp_path / 'run'}", "data=file", f"data.prompts={prompts}"]))
    folder = RunFolder(tmp_path / "run").open(config, device="test device")
    _end(folder, load_pairs(**config["data"])[0], "doodl", 100)
    folder.pair_folder("doodl", "prompts-00001-01234567-s0").mkdir()
    prompts.unlink()
    row = _rows(folder)["doodl"]
    assert (row["done"], row["interrupted"], row["left"], row["total"]) == (1, 1, None, None)
    result = _sgool(str(folder.path))
    assert "the number of pairs is unknown" in result.stdout
    assert result.exit_code == 0


def test_damaged_records_are_said_and_do_not_count(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    _end(folder, pairs[0], "doodl", 100)
    path = folder.pair_folder("doodl", pairs[0].pair_id) / "record.json"
    path.write_text(path.read_text()[:50])
    status = run_status(folder.path)
    assert status.methods[1].done == 0
    assert "probably cut off" in status.problems[0]


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match="holds no run"):
        run_status(tmp_path)
    (tmp_path / "slurm").mkdir()
    with pytest.raises(SgoolError, match="Its jobs have not begun"):
        run_status(tmp_path)
    assert _sgool(str(tmp_path)).exit_code == 2


def test_the_table_and_json_agree(folder: RunFolder, pairs: list[PromptSeed]) -> None:
    _end(folder, pairs[0], "vanilla", 100)
    _end(folder, pairs[1], "doodl", 100, status="failed", error="no")
    lines = _sgool(str(folder.path)).stdout.splitlines()
    assert lines[0].split() == ["METHOD", "DONE", "RUNNING", "INTERRUPTED", "FAILED", "LEFT", "TOTAL", "ETA"]
    assert lines[1].split() == ["vanilla", "1", "0", "0", "0", "7", "8", "-"]
    assert lines[2].split() == ["doodl", "0", "0", "0", "1", "7", "8", "-"]
    plain = json.loads(_sgool(str(folder.path), "--json").stdout)
    assert plain["failures"] == [{"method": "doodl", "pair_id": pairs[1].pair_id, "error": "no"}]
    assert (plain["done"], plain["left"], plain["run_dir"]) == (1, 14, str(folder.path))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (59.2, "60 s"),
        (61, "2 min"),
        (3600, "1 h 0 min"),
        (12000, "3 h 20 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_times_are_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_status_imports_no_torch(folder: RunFolder) -> None:
    code = "import sys; from sgool.run.status import run_status; run_status(sys.argv[1]); print('torch' in sys.modules)"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "False\n", done.stderr
