"""Reading records back, and the table collated from them."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sgool.results import RunFolder
from tests.fake_run import blob, fake_config, fake_pairs, fake_record, make_fake_run, random_image

PAIR = fake_pairs()[0]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").open(fake_config(), device="test device")


def write(run: RunFolder, **changes: object) -> Path:
    return run.write(
        fake_record(PAIR, **changes),
        {"initial": random_image(PAIR, "vanilla"), "final": random_image(PAIR, "sgool")},
        blob(),
        [{"step": 0, "loss": 1.5}, {"step": 1, "loss": 0.1, "salient": 0.25}],
        {"initial": np.zeros((1, 4, 2, 2)), "best": np.full((1, 4, 2, 2), 0.1)},
    )


class TestRecords:
    @pytest.mark.parametrize("keep", [0, 1, 100])
    def test_a_truncated_record_is_not_done_and_reported(
        self, run: RunFolder, keep: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(run) / "record.json"
        path.write_bytes(path.read_bytes()[:keep])
        with caplog.at_level(logging.WARNING):
            assert run.records() == []
            assert not run.is_done("sgool", PAIR.pair_id)
        assert len(caplog.records) == 1  # once a record
        assert "pair is not done: not valid JSON, probably cut off" in caplog.text
        write(run)
        assert run.is_done("sgool", PAIR.pair_id)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": "0"}, "seed must be int, got '0'"),
            ({"seed": True}, "seed must be int, got True"),
            ({"status": "running"}, "status must be one of"),
            ({"error": 3}, "error must be str or null"),
            ({"metrics": {"judge/clip_score": "high"}}, "judge/clip_score must be a number"),
            ({"metrics": []}, "metrics must be dict"),
            ({"phrases": {"phrase": "a cat"}}, "phrases must be a list of phrases with boxes"),
            ({"phrases": [{"phrase": "a cat", "distance": "near"}]}, "distance must be a number"),
            ({"phrases": [{"box": None, "distance": 1.0}]}, "phrases must be a list of phrases with boxes"),
            (
                {"phrases": [{"phrase": "a", "distance": 1.0, "box": [1, 2]}]},
                "phrases must be a list of phrases with boxes",
            ),
            ({"phrases": ["a cat"]}, "phrases must be a list of phrases with boxes"),
            ({"pair_id": "other-00000-0-s0"}, "it is the record of sgool/other"),
        ],
    )
    def test_an_invalid_record_is_not_done_and_reported(self, run: RunFolder, change: dict, message: str) -> None:
        path = write(run) / "record.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert not run.is_done("sgool", PAIR.pair_id)
        (problem,) = run.scan().problems
        assert message in problem
        assert str(path) in problem

    def test_a_missing_key_is_reported_and_an_unknown_one_ignored(self, run: RunFolder) -> None:
        path = write(run) / "record.json"
        payload = json.loads(path.read_text())
        path.write_text(json.dumps(payload | {"of_a_newer_sgool": 1}))
        assert run.records() == [fake_record(PAIR)]
        del payload["prompt"]
        path.write_text(json.dumps(payload))
        assert "'prompt' is missing" in run.scan().problems[0]

    def test_records_of_versions_that_counted_no_backward_passes(self, run: RunFolder) -> None:
        folder = write(run, network_backward_passes=7)
        record = json.loads((folder / "record.json").read_text())
        assert record["network_backward_passes"] == 7
        del record["network_backward_passes"]
        (folder / "record.json").write_text(json.dumps(record))
        assert [found.network_backward_passes for found in run.records()] == [0]

    def test_not_utf8_is_invalid(self, run: RunFolder) -> None:
        path = write(run) / "record.json"
        path.write_bytes(b"\xff" + path.read_bytes())
        assert "not done" in run.scan().problems[0]

    def test_nan_survives_as_nan(self, run: RunFolder) -> None:
        path = write(run, metrics={"x": float("nan"), "y": float("inf")}, seconds=float("nan")) / "record.json"
        assert json.loads(path.read_text())["metrics"]["x"] is None
        record = run.records()[0]
        assert np.isnan([record.metrics["x"], record.metrics["y"], record.seconds]).all()

    def test_failed_is_done_unless_retried(self, run: RunFolder) -> None:
        write(run, status="failed", error="NaN")
        assert run.is_done("sgool", PAIR.pair_id)
        assert not run.is_done("sgool", PAIR.pair_id, retry_failed=True)
        with pytest.raises(ValueError, match="needs an error"):
            write(run, status="failed")
        with pytest.raises(ValueError, match="must be one of"):
            write(run, status="started")

    def test_reading_does_not_import_torch(self, run: RunFolder) -> None:
        write(run)
        script = (
            "import sys\n"
            "from sgool.results import RunFolder\n"
            "run = RunFolder(sys.argv[1])\n"
            "assert len(run.records()) == 1\n"
            "run.collate(), run.config(), run.environments()\n"
            "assert 'torch' not in sys.modules, 'torch was imported'\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(run.path)], cwd=Path(__file__).parents[2], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


class TestCollate:
    def test_one_row_per_method_and_pair_sorted(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", methods=("vanilla", "doodl"), failed={("doodl", 1): 'why, "so"\nlines'})
        rows = list(csv.DictReader(run.results_path.open(newline="")))
        keys = [(row["method"], row["pair_id"]) for row in rows]
        assert keys == sorted(keys)
        assert len(keys) == 2 * len(fake_pairs())
        failed = [row for row in rows if row["status"] == "failed"]
        assert [row["error"] for row in failed] == ['why, "so"\nlines']
        assert failed[0]["judge/clip_score"] == ""
        record = run.record("vanilla", rows[-1]["pair_id"])
        assert record is not None
        assert float(rows[-1]["judge/clip_score"]) == record.metrics["judge/clip_score"]  # repr reads back exactly

    def test_idempotent_and_independent_of_order(self, tmp_path: Path) -> None:
        pairs = fake_pairs()
        one = make_fake_run(tmp_path / "one", pairs=pairs)
        other = make_fake_run(tmp_path / "other", pairs=pairs[::-1], methods=("sgool", "doodl", "vanilla"))
        first = one.results_path.read_bytes()
        stamp = one.results_path.stat().st_mtime_ns
        assert one.collate().read_bytes() == first
        assert one.results_path.stat().st_mtime_ns == stamp
        assert other.results_path.read_bytes() == first

    def test_absent_metrics_are_empty(self, run: RunFolder) -> None:
        write(run, metrics={"only": 1.0, "nan": float("nan")})
        run.write(fake_record(fake_pairs()[1]))
        rows = list(csv.DictReader(run.collate().open(newline="")))
        assert [row["only"] for row in rows] == ["1.0", ""]
        assert [row["nan"] for row in rows] == ["", ""]

    def test_without_records_only_a_head(self, run: RunFolder) -> None:
        assert run.collate().read_text().startswith("pair_id,method,prompt")
        assert run.collate().read_text().count("\n") == 1
