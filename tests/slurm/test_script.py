"""The batch script: what SLURM is told, words that survive the shell, and what follows each exit code, in real bash."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sgool.errors import ConfigError
from sgool.run.slurm.script import Resources, batch_script, seconds_of

ODD_WORDS = [
    "run_dir=/data/my runs/$HOME/`id`/a",
    "data.negative_prompt='it''s \"quoted\"; rm -rf *'",
    "data.prompts=/tmp/ünïcode\\ (1) [x] {a,b} ~ ! # & | < >",
    "",
    "-leading dash",
    "two\nlines",
]


def _script(resources: Resources | None = None, arguments: list[str] | None = None, **paths: Path) -> str:
    return batch_script(
        resources or Resources(),
        arguments or ["fit", "experiment=demo"],
        python="/opt/my venv/python",
        chdir=paths.get("chdir", Path("/project")),
        logs=paths.get("logs", Path("/project/run/slurm")),
    )


def _directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def _program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def _run(
    script: str, folder: Path, srun: str = "exit 0", scontrol: str = "exit 0", **variables: str
) -> subprocess.CompletedProcess[str]:
    """The script in bash, with programs in place of SLURM's that note their arguments in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rest in (("srun", srun), ("scontrol", scontrol)):
        _program(folder, name, f"printf '%s\\0' \"$@\" > {folder}/{name}.arguments\n{rest}")
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment = own | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"} | variables
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30)


def _arguments(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.arguments"
    return path.read_text().split("\0")[:-1] if path.exists() else []


def test_every_word_reaches_the_command_as_it_was(tmp_path: Path) -> None:
    assert _run(_script(arguments=["fit", *ODD_WORDS]), tmp_path).returncode == 0
    words = _arguments(tmp_path, "srun")
    command = words[words.index("/opt/my venv/python") :]
    assert command == ["/opt/my venv/python", "-m", "sgool", "fit", *ODD_WORDS]


def test_a_process_that_ends_leaves_the_others_alone(tmp_path: Path) -> None:
    _run(_script(Resources(tasks_per_node=2)), tmp_path)
    options = _arguments(tmp_path, "srun")
    assert options[:4] == ["--export=ALL", "--kill-on-bad-exit=0", "--wait=0", "--label"]


def test_resources_become_directives() -> None:
    script = _script(
        Resources(
            array=4,
            max_running=2,
            nodes=2,
            tasks_per_node=8,
            gpus=8,
            cpus_per_task=6,
            mem="64G",
            time="1-00:00:00",
            partition="gpu",
            account="me",
            job_name="my run",
            signal_before=300,
            options=("constraint=a100", "exclusive", "comment=it's $5"),
        )
    )
    assert _directives(script) == [
        '--job-name="my run"',
        "--chdir=/project",
        "--output=/project/run/slurm/%A_%a.out",
        "--open-mode=append",
        "--array=0-3%2",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--cpus-per-task=6",
        "--gres=gpu:8",
        "--mem=64G",
        "--time=1-00:00:00",
        "--partition=gpu",
        "--account=me",
        "--signal=USR1@300",
        "--requeue",
        "--constraint=a100",
        "--exclusive",
        '--comment="it\'s $5"',
    ]


def test_without_resources_only_what_requeueing_needs_is_asked_for() -> None:
    assert _directives(_script()) == [
        "--job-name=sgool",
        "--chdir=/project",
        "--output=/project/run/slurm/%j.out",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--signal=USR1@120",
        "--requeue",
    ]


def test_percent_signs_and_spaces_in_paths_are_kept_from_sbatch() -> None:
    script = _script(chdir=Path('/a "b"'), logs=Path("/runs/100%jobs/slurm"))
    assert '--chdir="/a \\"b\\""' in _directives(script)
    assert "--output=/runs/100%%jobs/slurm/%j.out" in _directives(script)


@pytest.mark.parametrize("code", [75, 138, 143])
def test_an_interrupted_job_is_requeued(tmp_path: Path, code: int) -> None:
    done = _run(_script(), tmp_path, srun=f"exit {code}")
    assert done.returncode == code
    assert _arguments(tmp_path, "scontrol") == ["requeue", "7"]


def test_an_array_task_is_requeued_alone(tmp_path: Path) -> None:
    """The bare number of one of an array's tasks is the number of the whole array."""
    _run(_script(), tmp_path, srun="exit 75", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert _arguments(tmp_path, "scontrol") == ["requeue", "7_3"]


@pytest.mark.parametrize("code", [0, 1, 2, 137, 139])
def test_other_exit_codes_are_final(tmp_path: Path, code: int) -> None:
    done = _run(_script(), tmp_path, srun=f"exit {code}")
    assert done.returncode == code
    assert _arguments(tmp_path, "scontrol") == []


@pytest.mark.parametrize(("restarts", "requeued"), [("2", True), ("3", False), ("4", False)])
def test_requeues_are_bounded(tmp_path: Path, restarts: str, requeued: bool) -> None:
    done = _run(_script(Resources(max_requeues=3)), tmp_path, srun="exit 75", SLURM_RESTART_COUNT=restarts)
    assert done.returncode == 75
    assert bool(_arguments(tmp_path, "scontrol")) == requeued
    assert ("submit it again" in done.stderr) != requeued


def test_no_requeue_passes_the_code_through(tmp_path: Path) -> None:
    script = _script(Resources(requeue=False))
    assert "--no-requeue" in _directives(script)
    assert _run(script, tmp_path, srun="exit 75").returncode == 75
    assert _arguments(tmp_path, "scontrol") == []


def test_a_requeue_that_is_refused_is_said(tmp_path: Path) -> None:
    done = _run(_script(), tmp_path, srun="exit 75", scontrol="exit 1")
    assert done.returncode == 75
    assert "could not be requeued" in done.stderr


def test_the_shell_outlives_the_signal_that_asks_for_a_checkpoint(tmp_path: Path) -> None:
    """``scancel --full --signal=USR1`` signals the shell too."""
    done = _run(_script(), tmp_path, srun="kill -USR1 $PPID; sleep 0.2; exit 75")
    assert done.returncode == 75
    assert _arguments(tmp_path, "scontrol") == ["requeue", "7"]


def test_a_cancelled_job_is_not_requeued(tmp_path: Path) -> None:
    """``scancel`` signals processes and shell with SIGTERM."""
    done = _run(_script(), tmp_path, srun="kill -TERM $PPID; sleep 0.2; exit 75")
    assert done.returncode == -15
    assert _arguments(tmp_path, "scontrol") == []


def test_setup_lines_run_before_and_stop_the_job_if_they_fail(tmp_path: Path) -> None:
    setup = Resources(setup=('export GREETING="hello you"', f'echo "$GREETING" > {tmp_path}/greeting'))
    assert _run(_script(setup), tmp_path).returncode == 0
    assert (tmp_path / "greeting").read_text() == "hello you\n"
    failing = _run(_script(Resources(setup=("no-such-module-command",))), tmp_path / "failing")
    assert failing.returncode == 127
    assert _arguments(tmp_path / "failing", "srun") == []


def test_threads_follow_the_processors_unless_they_are_given(tmp_path: Path) -> None:
    script, tell = _script(Resources(cpus_per_task=6)), "echo $SRUN_CPUS_PER_TASK $OMP_NUM_THREADS"
    assert _run(script, tmp_path, tell, OMP_NUM_THREADS="").stdout == "6 6\n"
    assert _run(script, tmp_path, tell, OMP_NUM_THREADS="2").stdout == "6 2\n"


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(array=0), "--array: expected a whole number of at least 1, got 0"),
        (Resources(nodes=0), "--nodes: expected"),
        (Resources(max_running=2), "--max-running: expected together with --array"),
        (Resources(gpus=-1), "--gpus-per-task: expected"),
        (Resources(gpus=4, tasks_per_node=2), "--tasks-per-node: expected one process for each of the 4 GPUs"),
        (Resources(max_requeues=-1), "--max-requeues: expected"),
        (Resources(job_name="bash"), "--job-name: Lightning takes a job named bash"),
        (Resources(job_name="--"), "--job-name: expected at least one letter"),
        (Resources(partition="a\nb"), "--partition: expected plain text"),
        (Resources(account=" "), "--account: expected plain text"),
        (Resources(setup=("a\nb",)), "--setup: expected one line"),
        (Resources(options=("--qos=high",)), "--sbatch-option: expected KEY=VALUE"),
        (Resources(options=("qos=a\n#SBATCH --x",)), "--sbatch-option: expected KEY=VALUE"),
        (Resources(signal_before=0), "--signal-before: expected seconds from 1 to 65535"),
        (Resources(time="soon"), "--time: expected MINUTES"),
        (Resources(time="2", signal_before=120), "--signal-before: 120 s leave nothing of a time limit of 120 s"),
    ],
)
def test_unusable_resources_are_refused(resources: Resources, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _script(resources)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(ConfigError, match="3 problems") as caught:
        _script(Resources(array=0, nodes=0, time="soon"))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("path", ["/back\\slash", "/new\nline"])
def test_paths_that_sbatch_would_misread_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="sbatch cannot read this path"):
        _script(chdir=Path(path))


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("01:02:03", 3723),
        ("1-2", 93600),
        ("1-02:03", 93780),
        ("1-00:00:01", 86401),
        ("1h", None),
        ("", None),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(time: str, seconds: int | None) -> None:
    assert seconds_of(time) == seconds
