"""What the README says is true: its Python runs, its commands parse, its files and targets exist."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sgool.cli import app
from sgool.errors import ConfigError
from sgool.run.config import load_config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)
PROMPTS = ("a green cat", "two red stars", "a blue house", "a fish above a purple mushroom")
COMMANDS = [
    line.split(" #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line
]


def run_the_example(folder: Path, monkeypatch: pytest.MonkeyPatch, **numbers: int) -> dict[str, Any]:
    """Runs the README's script over four prompts in a folder; ``numbers`` replace arguments of these names."""
    code = next(text for kind, text in BLOCKS if kind == "python" and "import lightning" in text)
    for name, number in numbers.items():
        code, count = re.subn(rf"\b{name}=\d+", f"{name}={number}", code)
        assert count == 1
    monkeypatch.chdir(folder)
    (folder / "prompts.csv").write_text("prompt\n" + "".join(f"{prompt}\n" for prompt in PROMPTS))
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def check_the_example(folder: Path, names: dict[str, Any], updates: int) -> None:
    records = [json.loads(path.read_text()) for path in folder.glob("runs/mine/pairs/doodl/*/record.json")]
    assert sorted(record["prompt"] for record in records) == sorted(PROMPTS)
    assert {record["status"] for record in records} == {"done"}
    mean = sum(record["metrics"]["judge/clip_score"] for record in records) / len(records)
    assert float(names["trainer"].callback_metrics["judge/clip_score"]) == pytest.approx(mean, abs=1e-9)
    (log,) = folder.glob("logs/**/metrics.csv")
    with log.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["loss"]]
    assert [float(row["update"]) for row in rows] == list(range(updates))  # one batch of four pairs


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_the_example(tmp_path, monkeypatch, num_inference_steps=2, num_optimization_steps=3)
    check_the_example(tmp_path, names, 3)


def test_the_pipeline_example_runs() -> None:
    code = next(text for kind, text in BLOCKS if kind == "python" and "SGOOLPipeline" in text)
    code, count = re.subn(r'method="sgool"', 'method="sgool", candidates=2, num_optimization_steps=1', code)
    assert count == 1
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    result = names["result"]
    assert [image.size for image in result.images] == [(64, 64)] == [image.size for image in result.initial_images]
    assert {"update", "loss"} <= set(result.history) and len(result.saliency) == len(result.scores) == 1


@pytest.mark.slow
def test_the_python_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_the_example(tmp_path, monkeypatch)
    check_the_example(tmp_path, names, 16)
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/mine/pairs/doodl/*/record.json")]
    gains = [record["metrics"]["objective_initial"] - record["metrics"]["objective"] for record in records]
    assert min(gains) >= 0 and sum(gains) > 0.1  # the objective, a distance, has fallen


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_exists(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        made = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
    elif words[:2] in (["sgool", "fit"], ["sgool", "submit"]):
        prompts = tmp_path / "prompts.csv"
        prompts.write_text("prompt\na cat\n")
        model = tmp_path / "model"
        model.mkdir()
        (model / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
        # Files of the reader's own stand in for the placeholders.
        places = {
            "prompts.csv": str(prompts),
            "drawbench.csv": str(prompts),
            "FOLDER": str(model),
        }
        overrides = [_replace(old, places) for old in words[2:]]
        if words[1] == "submit":  # its own options come after those of fit
            first = next(index for index, word in enumerate(overrides) if word.startswith("--"))
            overrides, options = overrides[:first], overrides[first:]
            text = CliRunner().invoke(app, ["submit", "--help"]).output
            assert all(word in text for word in options if word.startswith("--"))
        try:
            config = load_config(overrides)
        except ConfigError as error:
            pytest.fail(f"{command}: {error}")
        assert config.methods
    elif words[:2] == ["sgool", "edit"]:
        assert load_config(["experiment=edit", *words[3:]]).methods
    elif words[0] == "sgool":
        assert words[1] in ("report", "models", "doctor", "score", "status")
    else:
        assert words[0] == "python" and (ROOT / Path(*words[2].split("."))).with_suffix(".py").exists()


def _replace(word: str, places: dict[str, str]) -> str:
    for old, new in places.items():
        word = word.replace(old, new)
    return word


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    local = [link for link in links if not link.startswith("http")]
    assert len(local) >= 5
    assert [link for link in local if not (ROOT / link).exists()] == []
