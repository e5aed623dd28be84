"""What the README says is true: its Python runs, its commands parse, its files and targets exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sgool.cli import app
from sgool.errors import ConfigError
from sgool.run.config import load_config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.split(" #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line
]


def test_the_python_example_runs() -> None:
    code = next(text for kind, text in BLOCKS if kind == "python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    image = names["image"]
    assert isinstance(image, torch.Tensor) and image.shape == (1, 3, 64, 64)
    best = names["best"]
    assert isinstance(best, torch.Tensor) and best.shape == (3, 64, 64)
    assert float(image.min()) >= 0 and float(image.max()) <= 1 and float(image.std()) > 0.02


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
            "/path/to/stable-diffusion-v1-4": str(model),
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
