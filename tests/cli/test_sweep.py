"""``sgool fit -m``: a run for each combination of values, by Hydra's own launcher and by others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sgool.cli import app
from sgool.cli.sweep import Command, choices, load_all
from sgool.errors import ConfigError, SgoolError
from sgool.run.config import to_plain
from sgool.run.fit import Outcome
from tests.fake_run import fake_pairs, fake_record

ROOT = Path(__file__).parents[2]


class Runs:
    """Stands in for `run_experiment`: keeps the configurations, and ends as it is told."""

    def __init__(self) -> None:
        self.configs: list[dict[str, Any]] = []
        self.ends: dict[str, Any] = {}

    def __call__(self, config: Any, progress: Any, *, accept_changes: bool) -> Outcome:
        self.configs.append(to_plain(config))
        end = self.ends.get(Path(config.run_dir).name, "done")
        if isinstance(end, Exception):
            raise end
        if end == "SIGTERM":
            return Outcome(Path(config.run_dir), (), 1, 1, "SIGTERM")
        return Outcome(Path(config.run_dir), (fake_record(fake_pairs()[0], status=end),), 1)

    @property
    def names(self) -> list[str]:
        return [Path(config["run_dir"]).name for config in self.configs]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    stand_in = Runs()
    monkeypatch.setattr("sgool.run.fit.run_experiment", stand_in)
    return stand_in


def fit(*args: str) -> Any:
    return CliRunner().invoke(app, ["fit", *args])


def test_a_run_for_each_combination_in_a_folder_of_its_own(runs: Runs, tmp_path: Path) -> None:
    result = fit("-m", "optimization.lr=1,2", "sampler=ddim,edict", f"run_dir={tmp_path}/all", "data.limit=1")
    assert result.exit_code == 0, result.output
    assert runs.names == [f"optimization.lr={lr},sampler={sampler}" for lr in (1, 2) for sampler in ("ddim", "edict")]
    assert [config["optimization"]["lr"] for config in runs.configs] == [1, 1, 2, 2]
    assert [config["sampler"]["name"] for config in runs.configs] == ["ddim", "edict"] * 2
    assert {config["data"]["limit"] for config in runs.configs} == {1}
    assert {str(Path(config["run_dir"]).parent) for config in runs.configs} == {str(tmp_path / "all")}
    assert all(config["run_dir"] in result.output for config in runs.configs)


def test_other_sweeps_of_the_grammar_and_the_name_in_the_folder() -> None:
    command = Command(("data.seeds=[0],[0,1]", "optimization.lr=range(1,3)", "run_dir='a b'"))
    configs = load_all(command)
    assert [list(config.data.seeds) for config in configs] == [[0], [0], [0, 1], [0, 1]]
    folders = [config.run_dir for config in configs]
    assert len(set(folders)) == 4 and all(folder.startswith("a b/data.seeds=-0") for folder in folders)
    assert [config.run_dir for config in load_all(command)] == folders  # so that the same command goes on with them


def test_several_run_dirs_are_the_folders_themselves(runs: Runs, tmp_path: Path) -> None:
    assert fit("-m", f"run_dir={tmp_path}/a,{tmp_path}/b").exit_code == 0
    assert [config["run_dir"] for config in runs.configs] == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_an_experiment_may_be_swept_and_names_its_own_folder(runs: Runs, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit("-m", "experiment=demo,paper").exit_code == 0
    assert [config["run_dir"] for config in runs.configs] == [
        "runs/demo/experiment=demo",
        "runs/paper/experiment=paper",
    ]


def test_all_problems_of_all_runs_before_any_starts(runs: Runs) -> None:
    result = fit("-m", "optimization.lr=1,-2", "sampler=ddim,nope", "datta.limit=1")
    assert result.exit_code == 2 and runs.configs == []
    for words in ("`optimization.lr`: expected", "there is no choice 'nope'", "unknown key `datta.limit`"):
        assert result.stderr.count(words) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["optimization.lr=interval(0,1)"], "expected values with commas, range(...) or glob(...)"),
        (["optimization.lr=1,1"], "a value stands there twice"),
    ],
)
def test_sweeps_that_cannot_be_made(lines: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choices(Command(tuple(lines)))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # Not submitit_slurm itself, which may be installed here.
        ("submitit_other", "it comes with a package: pip install hydra-submitit-launcher. Choices here: basic"),
        ("basik", "there is no choice 'basik'; did you mean `basic`? Choices here: basic"),
    ],
)
def test_a_launcher_that_is_not_installed(
    runs: Runs, name: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = fit("-m", "optimization.lr=1,-2", f"hydra/launcher={name}")
    assert (result.exit_code, result.stdout, runs.configs) == (2, "", [])
    assert words in result.stderr and "`optimization.lr`: expected" in result.stderr
    assert words in fit("-m", "--cfg", "optimization.lr=1,2", f"hydra/launcher={name}").stderr


def test_a_sweep_of_one_run_is_counted_as_one(runs: Runs, tmp_path: Path) -> None:
    assert fit("-m", "optimization.lr=1", f"run_dir={tmp_path}/one").stdout.startswith("1 run: ")


def test_the_folder_of_a_sweep_is_told_from_that_of_a_run(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit("-m", "optimization.lr=1,2", f"run_dir={tmp_path}/all").exit_code == 0
    (tmp_path / "empty").mkdir()
    for command in ("report", "study", "score", "status"):
        result = CliRunner().invoke(app, [command, "all"])
        assert result.exit_code == 2 and " It holds a sweep; " in result.stderr and "all/*/" in result.stderr
        assert f"sgool {command} " in result.stderr
        assert "sweep" not in CliRunner().invoke(app, [command, "empty"]).stderr, command


def test_the_exit_code_is_the_worst_of_the_runs(runs: Runs, tmp_path: Path) -> None:
    runs.ends = {"optimization.lr=1": "failed"}
    assert fit("-m", "optimization.lr=1,2", f"run_dir={tmp_path}").exit_code == 1
    assert runs.names == ["optimization.lr=1", "optimization.lr=2"]
    runs.ends = {"optimization.lr=1": SgoolError("the disk is full")}
    result = fit("-m", "optimization.lr=1,2", f"run_dir={tmp_path}")
    assert result.exit_code == 2 and "Error: the disk is full" in result.stderr and len(runs.names) == 4


def test_a_signal_ends_the_sweep(runs: Runs, tmp_path: Path) -> None:
    runs.ends = {"optimization.lr=1": "SIGTERM"}
    assert fit("-m", "optimization.lr=1,2", f"run_dir={tmp_path}").exit_code == 75
    assert runs.names == ["optimization.lr=1"]


def test_the_configurations_are_printed_on_request(runs: Runs) -> None:
    result = fit("-m", "--cfg", "optimization.lr=1,2")
    assert result.exit_code == 0 and runs.configs == []
    assert [config["optimization"]["lr"] for config in yaml.safe_load_all(result.stdout)] == [1, 2]


def test_prompts_with_commas_are_no_sweep(runs: Runs, tmp_path: Path) -> None:
    assert fit("-m", "data.prompts=text:a cat, asleep", "optimization.lr=1,2", f"run_dir={tmp_path}").exit_code == 0
    assert {config["data"]["prompts"] for config in runs.configs} == {"text:a cat, asleep"}


def test_jobs_of_another_launcher_are_whole_runs() -> None:
    """SLURM's number of a launcher's job is no part of a run."""
    command = Command(("optimization.lr=1,2", "hydra/launcher=submitit_slurm"))
    assert {config.trainer.shard for config in load_all(command)} == {"1/1"}
    assert {config.trainer.shard for config in load_all(Command(("optimization.lr=1,2",)))} == {"auto"}


LAUNCHER = """
import json, pickle, subprocess, sys
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.plugins.launcher import Launcher


@dataclass
class Conf:
    _target_: str = "hydra_plugins.toy_launcher.ToyLauncher"
    label: str = "none"


ConfigStore.instance().store(group="hydra/launcher", name="toy", node=Conf, provider="toy")


class ToyLauncher(Launcher):
    def __init__(self, label):
        self.label = label

    def setup(self, *, hydra_context, task_function, config):
        self.context, self.config = hydra_context, config
        self.task = pickle.loads(pickle.dumps(task_function))  # as a job on another machine gets it

    def launch(self, job_overrides, initial_job_idx):
        Path("launched.json").write_text(json.dumps([self.label, [list(lines) for lines in job_overrides]]))
        returned = []
        for lines in job_overrides:
            config = self.context.config_loader.load_sweep_config(self.config, list(lines))
            returned.append(run_job(self.task, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context))
        return returned
"""

SCRIPT = """
import sys
from pathlib import Path
import sgool.run.fit
from sgool.run.fit import Outcome


def run(config, progress, *, accept_changes):
    with open("runs.txt", "a") as file:
        print(config.run_dir, config.optimization.lr, file=file)
    return Outcome(Path(config.run_dir), (), 0)


sgool.run.fit.run_experiment = run
from sgool.cli import main
main()
"""


def test_a_launcher_of_a_package_gets_the_runs(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "toy_launcher.py").write_text(LAUNCHER)
    (tmp_path / "script.py").write_text(SCRIPT)
    words = ["fit", "-m", "optimization.lr=1,2", "run_dir=all", "hydra/launcher=toy", "hydra.launcher.label=here"]
    done = subprocess.run(
        [sys.executable, "script.py", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    label, jobs = json.loads((tmp_path / "launched.json").read_text())
    assert (label, jobs) == ("here", [["optimization.lr=1", "run_dir=all"], ["optimization.lr=2", "run_dir=all"]])
    assert (tmp_path / "runs.txt").read_text() == "all/optimization.lr=1 1\nall/optimization.lr=2 2\n"
