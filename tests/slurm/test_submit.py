"""``sgool submit`` up to the cluster: mistakes are said before anything is submitted, and sbatch's answers are read."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from sgool.cli import app
from sgool.errors import ConfigError, SgoolError
from sgool.results import RunFolder
from sgool.run.config import load_config, to_plain
from sgool.run.slurm import Resources, prepare, submit
from sgool.types import PromptSeed
from tests.fake_run import fake_record

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / "slurm").glob("*.sbatch"))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _sgool(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["submit", *arguments])


def _program(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Puts an sbatch of this body, and nothing else of SLURM, in the way."""
    programs = Path("programs").absolute()
    programs.mkdir()
    (programs / "sbatch").write_text(f"#!/bin/bash\n{body}\n")
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


def _overrides(script: str) -> list[str]:
    """The words after ``sgool fit``, a line each."""
    lines = script.splitlines()
    start = next(index for index, line in enumerate(lines) if " -m sgool fit" in line)
    words = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        words.append(line.strip().removesuffix(" \\"))
    return words


def test_dry_run_prints_the_script_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = _sgool("experiment=demo", "run_dir=run", "--array", "4", "--time", "60", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.startswith("#!/bin/bash\n")
    assert f"{sys.executable} -m sgool fit" in result.stdout
    assert f"#SBATCH --output={tmp_path}/run/slurm/%A_%a.out" in result.stdout
    assert _overrides(result.stdout) == ["experiment=demo", f"run_dir={tmp_path}/run"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["my runs", "it's", 'a "quoted" one', "$HOME", "a,b[1]{2}=(3)#é", "%j"])
def test_odd_run_folders_stay_what_they_are(tmp_path: Path, name: str) -> None:
    """Through Hydra's grammar; the shell's is the script's matter."""
    quoted = name.replace("'", "\\'")
    job = prepare([f"run_dir='{quoted}'", "experiment=demo"], Resources(time="60"))
    assert job.run_dir == tmp_path / name
    assert job.path == tmp_path / name / "slurm" / "sgool-demo.sbatch"


def test_a_folder_of_an_earlier_version_is_submitted_again(tmp_path: Path) -> None:
    wishes = ["experiment=demo", f"run_dir={tmp_path}", "models.device=cpu"]
    known = to_plain(load_config(wishes))
    del known["data"]["phrases"]  # a key that it did not have
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(known), encoding="utf-8")
    record = tmp_path / "pairs" / "doodl" / "a" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}", encoding="utf-8")
    assert prepare(wishes, Resources(time="60")).run_dir == tmp_path
    with pytest.raises(ConfigError, match="made by another configuration"):
        prepare([*wishes, "optimization.lr=7"], Resources(time="60"))


def test_several_processes_share_the_pairs() -> None:
    script = prepare(["run_dir=run", "data.seeds=4"], Resources(time="60", gpus=4), nodes=2).text
    assert _overrides(script)[-4:-1] == ["trainer.devices=4", "trainer.num_nodes=2", "trainer.strategy=pair_parallel"]
    assert "#SBATCH --ntasks-per-node=4" in script
    assert "#SBATCH --gres=gpu:4" in script


def test_the_configuration_can_say_how_many_processes() -> None:
    script = prepare(["trainer.devices=2", "trainer.num_nodes=3"], Resources(time="60")).text
    assert "#SBATCH --ntasks-per-node=2" in script
    assert "#SBATCH --nodes=3" in script
    assert "trainer.strategy=pair_parallel" in _overrides(script)


def test_a_config_dir_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "own" / "sampler").mkdir(parents=True)
    (tmp_path / "own" / "sampler" / "mine.yaml").write_text("name: ddim\nnum_inference_steps: 3\nguidance_scale: 2.0\n")
    script = prepare(["sampler=mine"], Resources(time="60"), config_dir=Path("own")).text
    assert _overrides(script)[-2:] == ["--config-dir", str(tmp_path / "own")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sampler.steps=3", "methods=[nothing]"], "2 problems in the configuration"),
        (["data=file", "data.prompts=gone.csv"], "expected a prompt file"),
        (["trainer.shard=1/2", "--array", "2"], "`trainer.shard`: expected auto with --array"),
        (["trainer.devices=4", "--tasks-per-node", "2"], "`trainer.devices`: expected 2, as --tasks-per-node"),
        (["trainer.num_nodes=4", "--nodes", "2"], "`trainer.num_nodes`: expected 2, as --nodes says, got 4"),
        (["--array", "0"], "--array: expected a whole number of at least 1"),
        (
            ["--array", "0,3,4"],
            "--array: expected a whole number of at least 1 for as many tasks",
        ),
        (["--array", "7-0"], "such as 0-7%4; got '7-0'"),
        (["--array=-7"], "--array: expected a whole number of at least 1"),
        (["--array", "0-7%4", "--max-running", "2"], "--max-running: expected 4, as --array 0-7%4 says, got 2"),
        (["run_dir='a\\b'"], "`run_dir`: expected a path without backslashes"),
    ],
)
def test_mistakes_are_said_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    _program(monkeypatch, f"touch {tmp_path}/submitted; echo 1")
    result = _sgool(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "submitted").exists()


@pytest.mark.parametrize(
    ("array", "line", "tasks"),
    [
        ("8", "--array=0-7", 8),
        ("0-7", "--array=0-7", 8),
        ("1-8%4", "--array=1-8%4", 8),
        ("0-14:2", "--array=0-14:2", 8),
        ("0-15:2", "--array=0-15:2", 8),
        ("3-3", "--array=3-3", 1),
        ("8%2", "--array=0-7%2", 8),
    ],
)
def test_an_array_is_a_number_of_tasks_or_slurms_range(array: str, line: str, tasks: int) -> None:
    result = _sgool("--array", array, "--dry-run", "run_dir=run", "data.limit=1", "trainer.pairs_per_fit=1")
    assert result.exit_code == 0, result.stderr
    assert f"#SBATCH {line}\n" in result.stdout
    expected = f"{tasks} processes for 1 pair in"
    assert (expected in result.stderr) == (tasks > 1)


def test_a_folder_of_another_configuration_is_refused_with_the_difference() -> None:
    config = to_plain(load_config(["run_dir=run"]))
    RunFolder("run").open(config, device="test device").write(fake_record(PromptSeed("a red cat")))
    result = _sgool("run_dir=run", "sampler.guidance_scale=3")
    assert result.exit_code == 2
    assert "sampler.guidance_scale: was 4.0, is 3" in result.stderr
    assert _sgool("run_dir=run", "data.limit=1", "--dry-run").exit_code == 0
    accepted = _sgool("run_dir=run", "sampler.guidance_scale=3", "--resume-with-changes", "--dry-run")
    assert _overrides(accepted.stdout)[-1] == "--resume-with-changes"


def test_notes_say_what_may_surprise() -> None:
    wishes = ["data.limit=6", "trainer.pairs_per_fit=2", "run_dir=run"]
    notes = prepare(wishes, Resources(array=2, requeue=False), tasks_per_node=2).notes
    assert [note.partition(" (")[0].partition(":")[0] for note in notes] == [
        "the model is emoji_world",
        "4 processes for 6 pairs in 3 batches",
        "no --time",
        "--no-requeue",
    ]
    (embedded,) = prepare(["data.limit=8", "trainer.pairs_per_fit=2"], Resources(array=4, time="60")).notes
    assert embedded.endswith("draws emoji only; models=sd14 takes Stable Diffusion")
    others = ["models=sd14", "data.prompts=emoji_world/demo", "data.limit=8", "trainer.pairs_per_fit=2"]
    assert prepare(others, Resources(array=4, time="60")).notes == ()


def test_a_job_resumes() -> None:
    with pytest.raises(SgoolError, match="`resume`: expected true"):
        prepare(["resume=false", "run_dir=run"], Resources(time="60"))


def test_without_sbatch_the_script_is_there_to_be_taken_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = _sgool("run_dir=run", "--job-name", "first try")
    path = tmp_path / "run" / "slurm" / "first-try.sbatch"
    assert result.exit_code == 2
    assert re.search(rf"There is no sbatch here.*{path}", result.stderr)
    assert path.read_text().startswith("#!/bin/bash")


def test_what_sbatch_says_when_it_refuses_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    _program(monkeypatch, "echo 'sbatch: error: invalid account' >&2; exit 1")
    result = _sgool("run_dir=run")
    assert result.exit_code == 2
    assert "sbatch refused the job: sbatch: error: invalid account" in result.stderr


def test_a_silent_cluster_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    _program(monkeypatch, "exec sleep 60")
    with pytest.raises(SgoolError, match=r"sbatch did not answer within 0\.2 s"):
        submit(prepare(["run_dir=run"], Resources()), seconds=0.2)


def test_the_job_number_and_how_to_watch_it_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(
        monkeypatch, f"env > {tmp_path}/environment; printf '%s ' \"$@\" > {tmp_path}/arguments; echo '17;cluster'"
    )
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    result = _sgool("run_dir=my run", "data.limit=2", "methods=[vanilla,doodl]", "--time", "60")
    assert result.exit_code == 0
    script = tmp_path / "my run" / "slurm" / "sgool-default.sbatch"
    assert result.stdout.splitlines() == [
        f"job 17: 2 pairs × vanilla, doodl, script {script}",
        f"watch it: sgool status '{tmp_path}/my run'   squeue --job 17",
    ]
    assert (tmp_path / "arguments").read_text() == f"--parsable {script} "
    environment = (tmp_path / "environment").read_text().splitlines()
    assert "SLURM_CONF=/somewhere/slurm.conf" in environment
    assert not [line for line in environment if line.startswith("SLURM_ARRAY")]  # of the job that this may run in


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_the_templates_are_what_submit_writes(tmp_path: Path, template: Path) -> None:
    """Made with the options that slurm/README.md gives, but for the interpreter and the folder."""
    readme = (ROOT / "slurm" / "README.md").read_text(encoding="utf-8")
    command = re.search(rf"\nsgool submit ((?:.*\\\n)*.*--dry-run) > {re.escape(template.name)}\n", readme)
    assert command is not None, f"slurm/README.md does not say how {template.name} was made"
    (tmp_path / "prompts.csv").write_text("prompt\na red fox\n", encoding="utf-8")
    result = _sgool(*shlex.split(command[1].replace("\\\n", " ")))
    assert result.exit_code == 0, result.stderr
    made = result.stdout.replace(sys.executable, "/path/to/.venv/bin/python").replace(str(tmp_path), "/path/to/project")
    assert template.read_text(encoding="utf-8") == made


def test_there_are_two_templates() -> None:
    assert [path.name for path in TEMPLATES] == ["array.sbatch", "pair_parallel.sbatch"]
