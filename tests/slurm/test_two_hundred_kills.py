"""An array of four tasks whose processes are killed two hundred times: in the end it is a run like any other."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sgool.cli import app
from sgool.results.claims import read_claims
from sgool.run.config import load_config
from sgool.run.fit import run_experiment
from sgool.run.status import run_status
from tests.faults.folders import content, damaged_records, leftovers, rows
from tests.slurm.cluster import Cluster
from tests.tiny_run import tiny_overrides

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("SGOOL_TEST_KILLS", "200"))
TASKS = 4
PROMPTS = 48
PAIRS = 3 * PROMPTS
#: Seconds of one call of the objective: a batch of pairs then takes longer than a start leaves it alive, most times.
#: It sleeps, since two processors have enough to do with the starts.
SECONDS_A_CALL = 0.05
#: A process is killed at a moment of its life; the longest of these, over the seconds of a start.
LONGEST = 1.5

_TERM = '''
import os
import time


class Slow:
    """A term of the user's own that takes its time."""

    input_size = None

    def __init__(self, name):
        self.name = name

    def targets(self, pairs):
        import torch

        return torch.zeros(len(pairs), 1)

    def __call__(self, views, targets):
        time.sleep(float(os.environ.get("SECONDS_A_CALL", "0")))
        return views.mean(dim=(1, 2, 3))
'''


@dataclass(frozen=True)
class Setting:
    """A run of pairs that take some seconds, and what it makes when nothing happens to it."""

    options: list[str]
    modules: Path
    expected: dict[str, Any]

    def submit(self, cluster: Cluster, run: Path) -> str:
        """The number of an array of `TASKS`."""
        path = os.pathsep.join([str(ROOT), str(self.modules)])
        environment = cluster.environment | {"PYTHONPATH": path, "SECONDS_A_CALL": str(SECONDS_A_CALL)}
        arguments = ["submit", *self.options, f"run_dir={run}", "--array", str(TASKS), "--time", "120"]
        done = CliRunner().invoke(app, arguments, env=environment | {"OMP_NUM_THREADS": "1"})
        assert done.exit_code == 0, done.output
        return done.stdout.split()[1].rstrip(":")


@pytest.fixture(scope="module")
def setting(pipeline_folder: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "term_of_kills.py").write_text(_TERM)
    nouns, colours = ("cat", "dog", "car", "tree", "house", "panda"), ("red", "blue", "green", "black")
    prompts = [f"{count} {colour} {noun}" for count in ("a", "two") for colour in colours for noun in nouns]
    (folder / "many.txt").write_text("\n".join(prompts[:PROMPTS]) + "\n")
    own = ["methods=[doodl]", "logger=csv", "trainer.save_every_n_updates=1", "trainer.pairs_per_fit=2"]
    own += [f"data.seeds={PAIRS // PROMPTS}"]
    own += ["+objective.terms.mine={_target_: term_of_kills.Slow, weight: 0.5}"]
    options = [*tiny_overrides(pipeline_folder, clip_folder, folder / "many.txt"), *own]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        assert run_experiment(load_config([*options, f"run_dir={folder / 'undisturbed'}"])).exit_code == 0
        yield Setting(options, folder, by_pair(folder / "undisturbed"))


def by_pair(run: Path) -> dict[str, Any]:
    """All files of all pairs and ``results.csv`` without what is the machine's; curves of all processes in one."""
    found = {name: value for name, value in content(run).items() if not name.startswith("logs/")}
    curves = [row for path in run.glob("logs/*/updates*.csv") for row in rows(path)]
    return found | {"curves": sorted(map(str, curves))}


@dataclass
class Killer:
    """Kills the processes of one array, each at a moment of its life that chance has chosen.

    Args:
        cluster: Where the array runs.
        job: Its number.
        moments: Chance.
        seconds: How long a process lives at most.
        most: Kills, at most.
    """

    cluster: Cluster
    job: str
    moments: random.Random
    seconds: float
    most: int
    killed: int = 0
    in_a_fit: int = 0
    _ends: dict[tuple[int, str], float] = field(default_factory=dict)
    _dead: set[tuple[int, str]] = field(default_factory=set)

    def until_done(self, run: Path, limit: float) -> None:
        """Kills, and puts what was killed back into the queue, until all tasks have ended well."""
        until, looked = time.monotonic() + limit, 0.0
        while True:
            assert time.monotonic() < until, f"{self.killed} kills\n{self.cluster.last_words()}"
            for process in _processes(self.cluster, self.job) - self._dead:
                ends = self._ends.setdefault(process, time.monotonic() + self.moments.uniform(0, self.seconds))
                if self.killed < self.most and time.monotonic() > ends:
                    self._kill(process, run)
            if time.monotonic() - looked > 1:
                looked, states = time.monotonic(), self._states()
                if len(states) == TASKS and set(states.values()) == {"COMPLETED"}:
                    return
                for task, state in states.items():
                    if state == "FAILED":
                        self.cluster.call("scontrol", "requeue", f"{self.job}_{task}", check=False)
            time.sleep(0.05)

    def _kill(self, process: tuple[int, str], run: Path) -> None:
        pid = process[0]
        claims = any(claim.pid == pid for claim in read_claims(run))
        self._dead.add(process)
        os.kill(pid, signal.SIGKILL)
        self.killed += 1
        self.in_a_fit += claims
        assert damaged_records(run) == []

    def _states(self) -> dict[str, str]:
        """Task -> state, of the tasks that are no summary of several."""
        lines = self.cluster.call("squeue", "-h", "--array", "--states=all", f"--jobs={self.job}", "--format=%K %T")
        return dict(line.split() for line in lines.splitlines())


def _processes(cluster: Cluster, job: str) -> set[tuple[int, str]]:
    """(pid, when it started) of the processes of an array that run ``sgool fit``."""
    # Job numbers are small: another cluster on this machine has the same ones.
    marks, found = {f"SLURM_ARRAY_JOB_ID={job}".encode(), f"SLURM_CONF={cluster.config}".encode()}, set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[1:4] != [b"-m", b"sgool", b"fit"]:
                continue
            if not marks <= set((folder / "environ").read_bytes().split(b"\0")):
                continue
            found.add((int(folder.name), (folder / "stat").read_text().rpartition(")")[2].split()[19]))
        except OSError:  # it has ended
            continue
    return found


def _seconds_of_a_start(cluster: Cluster, setting: Setting, run: Path) -> float:
    """From four processes' beginning to their first claims, on this machine now; the array is cancelled then."""
    job = setting.submit(cluster, run)
    cluster.poll(lambda: len(_processes(cluster, job)) == TASKS, "the first processes")
    began = time.monotonic()
    cluster.poll(lambda: len({claim.pid for claim in read_claims(run)}) == TASKS, "the first claims", 240)
    seconds = time.monotonic() - began
    cluster.call("scancel", job)
    cluster.wait(job, 120)
    return seconds


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_pair_is_lost_doubled_or_different(
    cluster: Cluster, setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = _seconds_of_a_start(cluster, setting, tmp_path / "0")
    moments, folders, killed, in_a_fit, began = random.Random(0), [tmp_path / "0"], 0, 0, time.monotonic()
    while killed < KILLS:  # a run that ends before makes place for another one; the first one was cancelled already
        job = setting.submit(cluster, folders[-1])
        killer = Killer(cluster, job, moments, LONGEST * start, KILLS - killed)
        killer.until_done(folders[-1], 3000)
        killed, in_a_fit = killed + killer.killed, in_a_fit + killer.in_a_fit
        folders.append(tmp_path / str(len(folders)))
    for folder in folders[:-1]:
        found = by_pair(folder)
        assert sorted(found) == sorted(setting.expected)
        assert [name for name in found if found[name] != setting.expected[name]] == []
        assert len(found["results.csv"]) == len(set(found["results.csv"])) == PAIRS
        assert leftovers(folder) == []
        (doodl,) = run_status(folder).methods
        assert (doodl.done, doodl.left, doodl.interrupted, doodl.failed) == (PAIRS, 0, 0, 0)
    assert killed == KILLS and in_a_fit > KILLS // 10
    with capsys.disabled():
        print(f"\n{killed} kills, {in_a_fit} of them in a fit, {len(folders) - 1} runs of {PAIRS} pairs, ", end="")
        print(f"{time.monotonic() - began:.0f} s; a start took {start:.1f} s")
