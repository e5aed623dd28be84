"""The command line: fast help, one-paragraph errors, exit codes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import sgool
from sgool.cli import app
from sgool.errors import ConfigError, SgoolError
from sgool.prompts import load_pairs
from sgool.run.config import load_config, to_plain
from sgool.run.outcome import Outcome
from sgool.types import PairRecord
from tests.fake_run import fake_pairs, fake_record

ROOT = Path(__file__).parents[2]
HEAVY = {
    "torch",
    "lightning",
    "diffusers",
    "transformers",
    "open_clip",
    "torchmetrics",
    "pandas",
    "hydra",
    "wandb",
    "numpy",
}


def _run(*args: str, code: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; ``code`` runs after it."""
    script = f"""
import sys, atexit
sys.argv = ["sgool", *{list(args)!r}]
from sgool.cli import main
try:
    main()
finally:
    {code or "pass"}
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "args", [["--help"], ["fit", "--help"], ["--version"], ["fit", "--no-such-option"], ["nothing"]]
)
def test_help_and_argument_errors_import_nothing_heavy(args: list[str]) -> None:
    result = _run(*args, code=f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)")
    assert result.stderr.splitlines()[-1] == "HEAVY []"


def test_configuration_errors_import_no_network_library() -> None:
    result = _run(
        "fit", "lr=1", code=f"print('HEAVY', sorted({HEAVY - {'hydra'}!r} & set(sys.modules)), file=sys.stderr)"
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "HEAVY []"


def test_help_takes_half_a_second() -> None:
    """Processor time, the best of three: wall time would measure what else the machine is doing."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "fit" in _run("--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert [name for name in ("fit", "report", "models", "doctor") if name not in result.stdout] == []


def test_no_arguments_show_the_help() -> None:
    assert "Commands:" in CliRunner().invoke(app, []).output


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"sgool {sgool.__version__}\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["fit", "optimization.lrr=1"],
            "did you mean `optimization.lr`? Valid keys of `optimization`: num_optimization_steps",
        ),
        (["fit", "methods=[sgol]"], "unknown method 'sgol'; did you mean `sgool`?"),
        (["fit", "data.prompts=none.csv"], "got 'none.csv', which is neither a file nor a built-in prompt set"),
        (["fit", "data.seeds=0,1"], "a list is written 'data.seeds=[0,1]'"),
        (["fit", "--config-dir", "/no/such/folder"], "--config-dir: expected a folder, got '/no/such/folder'"),
    ],
)
def test_mistakes_are_one_paragraph_and_exit_code_two(args: list[str], words: str) -> None:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and words in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["data.prompts=FOLDER/empty.csv"], "expected at least one prompt, found none"),
        (["models.path=FOLDER"], "is a folder without model_index.json"),
        (["models.height=30", "models.width=64"], "expected a multiple of 8 pixels"),
        (["run_dir=FOLDER/empty.csv/run"], "Use a run_dir where you may write"),
        (["sampler.name=edict"], "use `sampler=edict`"),
    ],
)
def test_a_run_that_cannot_start_is_one_paragraph(tmp_path: Path, args: list[str], words: str) -> None:
    (tmp_path / "empty.csv").write_text("prompt\n", encoding="utf-8")
    overrides = [f"run_dir={tmp_path / 'run'}", *(arg.replace("FOLDER", str(tmp_path)) for arg in args)]
    result = CliRunner().invoke(app, ["fit", *overrides])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and words in result.stderr
    assert "Traceback" not in result.output and result.stdout.strip() == ""
    assert len(result.stderr.strip().splitlines()) == 1


def test_scores_of_nothing_are_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["score", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and f"{tmp_path / 'none'} is no run folder" in result.stderr


def test_the_traceback_is_shown_on_request() -> None:
    result = _run("fit", "lr=1", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "ConfigError: unknown key `lr`" in result.stderr


class _Runner:
    """Stands in for `run_experiment`, whose own tests run real pairs: here only what is made of its end matters."""

    def __init__(self, result: PairRecord | Exception | None) -> None:
        self.result, self.config = result, None

    def __call__(self, config: Any, progress: Any, *, accept_changes: bool) -> Outcome:
        self.config = config
        if isinstance(self.result, Exception):
            raise self.result
        records = () if self.result is None else (self.result,)
        return Outcome(Path("runs/none"), records, len(records))


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> _Runner:
    """The stand-in with the result that the test asks for."""
    stand_in = _Runner(getattr(request, "param", None))
    monkeypatch.setattr("sgool.run.fit.run_experiment", stand_in)
    return stand_in


DONE = fake_record(fake_pairs()[0])
FAILED = fake_record(fake_pairs()[0], status="failed", error="the loss is not finite")


@pytest.mark.parametrize(("runner", "code"), [(DONE, 0), (FAILED, 1)], indirect=["runner"])
def test_the_exit_code_is_that_of_the_run(runner: _Runner, code: int) -> None:
    assert CliRunner().invoke(app, ["fit", "experiment=demo"]).exit_code == code


def test_fit_hands_over_the_checked_configuration(runner: _Runner) -> None:
    result = CliRunner().invoke(app, ["fit", "experiment=paper", "data.limit=4", "methods=[vanilla,doodl]"])
    assert result.exit_code == 0
    config = to_plain(runner.config)  # type: ignore[arg-type]
    assert (config["name"], config["data"]["limit"], config["methods"]) == ("paper", 4, ["vanilla", "doodl"])
    assert config["debug"] is False


@pytest.mark.parametrize(
    "runner", [SgoolError("expected [a, b]; got c"), ConfigError(["expected [a, b]; got c"])], indirect=True
)
def test_errors_of_the_run_are_shown_word_for_word(runner: _Runner) -> None:
    result = CliRunner().invoke(app, ["fit"])
    assert (result.exit_code, result.stderr) == (2, "Error: expected [a, b]; got c\n")


@pytest.mark.parametrize("runner", [SgoolError("no")], indirect=True)
@pytest.mark.parametrize("args", [["--debug"], ["debug=true"]])
def test_debug_lets_errors_of_the_run_through(runner: _Runner, args: list[str]) -> None:
    result = CliRunner().invoke(app, ["fit", *args])
    assert isinstance(result.exception, SgoolError)
    assert runner.config.debug is True  # type: ignore[attr-defined]


@pytest.mark.parametrize("runner", [RuntimeError("a defect of ours")], indirect=True)
def test_other_errors_are_not_hidden(runner: _Runner) -> None:
    assert isinstance(CliRunner().invoke(app, ["fit"]).exception, RuntimeError)


def test_a_report_of_nothing_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and "none" in result.stderr


def test_models_lists_what_is_embedded() -> None:
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    for name in ("emoji_world/guide", "emoji_world/judge", "emoji_world/reader", "emoji_world/demo", "models.path="):
        assert name in result.stdout


def test_doctor_tells_versions_and_devices() -> None:
    import torch

    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line)
    assert lines["sgool"] == sgool.__version__
    assert torch.__version__.startswith(lines["torch"])
    assert int(lines["cores"]) >= 1 and lines["memory"].endswith("GiB") and "device" in lines


# --cfg, --prompt, --config-dir, ~


def test_the_composed_configuration_is_printed_before_anything_heavy_is_imported() -> None:
    heavy = HEAVY - {"hydra", "numpy"}
    result = _run(
        "fit", "--cfg", "experiment=demo", code=f"print('HEAVY', sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    assert result.stderr.splitlines()[-1] == "HEAVY []"
    assert yaml.safe_load(result.stdout) == to_plain(load_config(["experiment=demo"]))


@pytest.mark.parametrize("args", [["--cfg", "job"], ["--cfg"]])
def test_cfg_is_typed_as_hydra_s_too(runner: _Runner, args: list[str]) -> None:
    result = CliRunner().invoke(app, ["fit", *args, "sampler=edict"])
    assert result.exit_code == 0 and yaml.safe_load(result.stdout)["sampler"]["name"] == "edict"
    assert runner.config is None


def test_cfg_of_an_edit() -> None:
    result = CliRunner().invoke(app, ["edit", "photo.png", "--cfg"])
    assert yaml.safe_load(result.stdout) == to_plain(load_config(["experiment=edit"]))


def test_cfg_of_a_configuration_with_problems() -> None:
    result = CliRunner().invoke(app, ["fit", "--cfg", "lr=1"])
    assert (result.exit_code, result.stdout) == (2, "") and "unknown key `lr`" in result.stderr


PROMPTS = ['a green cat, (it\'s "big") [x] ${a} ~', "two red\nstars"]


def test_prompts_from_the_command_line(runner: _Runner) -> None:
    result = CliRunner().invoke(app, ["fit", "--prompt", PROMPTS[0], "--prompt", PROMPTS[1]])
    assert result.exit_code == 0, result.output
    pairs = load_pairs(**to_plain(runner.config)["data"])  # type: ignore[arg-type]
    assert [pair.prompt for pair in pairs] == [PROMPTS[0], "two red stars"]
    assert {pair.dataset for pair in pairs} == {"text"} and pairs[0].pair_id.startswith("text-00000-")


@pytest.mark.parametrize("override", ["data.prompts=text:a cat, (asleep)", 'data.prompts="text:a cat, (asleep)"'])
def test_a_prompt_as_an_override(runner: _Runner, override: str) -> None:
    assert CliRunner().invoke(app, ["fit", override]).exit_code == 0
    assert [pair.prompt for pair in load_pairs(**to_plain(runner.config)["data"])] == [  # type: ignore[arg-type]
        "a cat, (asleep)"
    ]


def test_prompts_twice() -> None:
    result = CliRunner().invoke(app, ["fit", "--prompt", "a", "data.prompts=b.csv"])
    assert result.exit_code == 2 and "--prompt and `data.prompts`: expected one of the two, got both" in result.stderr
    result = CliRunner().invoke(app, ["fit", "--prompt", "a", "data=drawbench"])
    assert result.exit_code == 2 and "--prompt and `data`: expected one of the two, got both" in result.stderr
    result = CliRunner().invoke(app, ["fit", "--prompt", "a", "experiment=text_guidance", "--cfg"])
    data = yaml.safe_load(result.output)["data"]
    assert (data["prompts"], data["name"], data["categories"]) == ("text:a", None, None)


def test_score_finds_modules_in_the_folder_of_config_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = CliRunner().invoke(app, ["score", str(tmp_path / "none"), "--config-dir", str(tmp_path)])
    assert str(tmp_path) in sys.path and "is no run folder" in result.stderr
    result = CliRunner().invoke(app, ["score", "x", "--config-dir", "/no/such/folder"])
    assert result.exit_code == 2 and "--config-dir: expected a folder" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["report", "~/none"],
        ["score", "~/none"],
        ["status", "~/none"],
        ["study", "~/none"],
        ["study-results", "~/none", "--key=~/none"],
        ["fit", "--config-dir=~/none"],
        ["edit", "~/none", "--text", "a cat"],
        ["report", "x", "--out=~/none"],
    ],
)
def test_a_tilde_in_a_command_s_path_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2 and "~" not in result.stderr
    assert not (tmp_path / "~").exists() and not (tmp_path / "none").exists()
    if "--out=~/none" not in args:
        assert str(tmp_path / "none") in result.stderr
