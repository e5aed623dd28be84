"""Jobs on a real private SLURM cluster: each ends with all records, to the bit those of a single process.

A process spends most of its time importing, so that there are as few jobs as can be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sgool.cli import app
from sgool.run.status import run_status
from tests.slurm.cluster import Cluster

ROOT = Path(__file__).parents[2]
METHODS = ("vanilla", "doodl")
PAIRS = 4
#: Facts of the process that made a record.
PROCESS = ("seconds", "peak_memory_mib", "host", "job")
#: Enough updates for a signal to arrive in the middle of a pair.
OVERRIDES = [
    "experiment=demo",
    "budget.calls=null",
    "models.device=cpu",
    "sampler.num_inference_steps=3",
    "optimization.num_optimization_steps=6",
    f"methods=[{','.join(METHODS)}]",
    "trainer.pairs_per_fit=1",
    "trainer.threads=1",
    "trainer.save_every_n_updates=1",
    "logger=none",
]

#: The nodes' names are made up: the first process's address cannot be found by them.
HERE = ("--setup", "export MASTER_ADDR=127.0.0.1")


def _submit(cluster: Cluster, run: Path, *options: str, limit: int = PAIRS) -> str:
    """The job's number."""
    arguments = ["submit", *OVERRIDES, f"run_dir='{run}'", f"data.limit={limit}", "--time", "30", *options]
    done = CliRunner().invoke(app, arguments, env=cluster.environment | {"PYTHONPATH": str(ROOT)})
    assert done.exit_code == 0, done.output
    return done.stdout.split()[1].rstrip(":")


def _logs(run: Path) -> str:
    return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted((run / "slurm").glob("*.out")))


def _results(run: Path, limit: int = PAIRS) -> dict[str, bytes | str]:
    """All that a run made of its first ``limit`` pairs, file by file, but for what differs between processes."""
    found: dict[str, bytes | str] = {}
    for folder in sorted(run.glob("pairs/*/*")):
        if int(folder.name.split("-")[-3]) >= limit:
            continue
        for path in sorted(folder.rglob("*.*")):
            content: bytes | str = path.read_bytes()
            if path.name == "record.json":
                record = json.loads(content)
                content = json.dumps({key: value for key, value in record.items() if key not in PROCESS})
            found[str(path.relative_to(run))] = content
    return found


def _assert_same(run: Path, reference: Path, limit: int = PAIRS) -> None:
    expected, found = _results(reference, limit), _results(run, limit)
    assert len([name for name in expected if name.endswith("record.json")]) == limit * len(METHODS)
    assert sorted(found) == sorted(expected), _logs(run)
    assert [name for name in expected if found[name] != expected[name]] == []
    status = run_status(run)
    assert [(row.done, row.left, row.interrupted) for row in status.methods] == [(limit, 0, 0)] * len(METHODS)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in a single process, without SLURM."""
    run = tmp_path_factory.mktemp("reference") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "sgool", "fit", *OVERRIDES, f"run_dir='{run}'", f"data.limit={PAIRS}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return run


def _checkpoints(run: Path) -> list[Path]:
    return list(run.glob("checkpoints/doodl/*.ckpt"))


def test_what_sbatch_refuses_is_said(cluster: Cluster, tmp_path: Path) -> None:
    arguments = ["submit", *OVERRIDES, f"run_dir={tmp_path / 'run'}", "--partition", "nowhere"]
    done = CliRunner().invoke(app, arguments, env=cluster.environment)
    assert done.exit_code == 2
    assert "sbatch refused the job: " in done.stderr
    assert "invalid partition specified: nowhere" in done.stderr


def test_an_array_of_four(cluster: Cluster, tmp_path: Path, reference: Path) -> None:
    run = tmp_path / "a run, 100% of $HOME"
    job = _submit(cluster, run, "--array", "4")
    assert cluster.wait(job, 240) == ["COMPLETED"] * 4, _logs(run)
    assert len(list((run / "slurm").glob(f"{job}_*.out"))) == 4
    _assert_same(run, reference)


def test_two_processes_in_one_job(cluster: Cluster, tmp_path: Path, reference: Path) -> None:
    run = tmp_path / "run"
    job = _submit(cluster, run, "--tasks-per-node", "2", *HERE)
    assert cluster.wait(job, 240) == ["COMPLETED"], _logs(run)
    _assert_same(run, reference)


def test_a_job_on_two_nodes_that_is_asked_to_stop_goes_back_into_the_queue_and_continues(
    cluster: Cluster, tmp_path: Path, reference: Path
) -> None:
    run = tmp_path / "run"
    job = _submit(cluster, run, "--nodes", "2", *HERE, limit=2)
    cluster.poll(lambda: _checkpoints(run), "the first checkpoint")
    cluster.call("scancel", "--signal=USR1", job)
    cluster.poll(lambda: cluster.job(job).get("Restarts") == "1", "the requeue")
    assert _checkpoints(run)
    _, doodl = run_status(run).methods
    assert doodl.interrupted >= 1
    assert doodl.running == 0
    assert cluster.wait(job, 240) == ["COMPLETED"], _logs(run)
    assert "goes back into the queue" in _logs(run)
    assert cluster.job(job)["Restarts"] == "1"
    _assert_same(run, reference, 2)


def test_a_killed_job_is_submitted_again_and_continues(cluster: Cluster, tmp_path: Path, reference: Path) -> None:
    run = tmp_path / "run"
    job = _submit(cluster, run, limit=2)
    cluster.poll(lambda: _checkpoints(run), "the first checkpoint")
    # To the step, since with a job alone scancel takes KILL for a cancellation, which begins with SIGTERM.
    cluster.call("scancel", "--signal=KILL", f"{job}.0")
    assert cluster.wait(job, 60) == ["FAILED"]
    assert cluster.job(job)["ExitCode"] == "137:0"
    assert _checkpoints(run)
    assert [row.interrupted for row in run_status(run).methods] == [0, 1]
    again = _submit(cluster, run, limit=2)
    assert cluster.wait(again, 240) == ["COMPLETED"], _logs(run)
    _assert_same(run, reference, 2)


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    """The script's half of it, in a real job step of a process that ends as an interrupted run does."""
    ready, programs = tmp_path / "ready", tmp_path / "programs"
    programs.mkdir()
    body = f"trap 'sleep 0.5; exit 75' TERM; touch {ready}; for i in {{1..300}}; do sleep 0.1; done"
    (programs / "srun").write_text(f'#!/bin/bash\nexec {shutil.which("srun")} bash -c "{body}"\n')
    (programs / "srun").chmod(0o755)
    job = _submit(cluster, tmp_path / "run", "--setup", f"export PATH={programs}:$PATH")
    cluster.poll(ready.exists, "the job to run")
    cluster.call("scancel", job)
    assert cluster.wait(job, 60) == ["CANCELLED"]
    assert cluster.job(job)["Restarts"] == "0"
