"""A new component is one Python file and one YAML file in a folder of the user's own, and nothing else.

The files are those in tests/toys. Each kind is copied alone into a folder outside the package and run from the command
line. Another kind is an entry in `TOYS` and two files in tests/toys.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from sgool.cli import app

HERE = Path(__file__).parent / "toys"
SMALL = (
    "experiment=demo",
    "budget.calls=null",
    "data.limit=1",
    "models.device=cpu",
    "trainer.threads=1",
    "logger=none",
    "optimization.num_optimization_steps=2",
    "objective.crops.num=2",
)
SHORT = "sampler.num_inference_steps=2"


@dataclass(frozen=True)
class Toy:
    """The two files of a component, the overrides that choose it, and where its settings stand in the configuration."""

    files: tuple[str, str]
    overrides: tuple[str, ...]
    key: str


TOYS = {
    "sampler": Toy(("toy_sampler.py", "sampler/toy.yaml"), ("sampler=toy", "methods=[doodl]"), "sampler"),
    "engine": Toy(("toy_engine.py", "engine/toy.yaml"), ("engine=toy", "methods=[doodl]", SHORT), "engine"),
    "term": Toy(
        ("toy_term.py", "objective/toy.yaml"), ("objective=toy", "methods=[doodl]", SHORT), "objective.terms.toy"
    ),
    "detector": Toy(
        ("toy_detector.py", "saliency/toy.yaml"), ("saliency=toy", "methods=[sgool]", SHORT), "saliency.detector"
    ),
    "judge": Toy(("toy_judge.py", "judges/toy.yaml"), ("judges=toy", "methods=[vanilla]", SHORT), "models.judges.toy"),
    "method": Toy(
        ("toy_method.py", "method/toy.yaml"), ("+method@method.toy=toy", "methods=[toy]", SHORT), "method.toy"
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder; what is put on Python's path for it goes away again, and the current directory is another."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "own"


def copied(folder: Path, toy: Toy) -> Path:
    for file in toy.files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / file, folder / file)
    return folder


def run(folder: Path, *overrides: str) -> Path:
    """The folder of the one pair that ``sgool fit`` made."""
    command = ["fit", "--config-dir", str(folder), *SMALL, f"run_dir='{folder.parent / 'run'}'", *overrides]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (record,) = folder.parent.glob("run/pairs/*/*/record.json")
    return record.parent


def at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize("kind", TOYS)
def test_a_component_is_one_python_file_and_one_yaml_file(kind: str, folder: Path) -> None:
    toy = TOYS[kind]
    pair = run(copied(folder, toy), *toy.overrides)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.suffix != ".pyc")
    assert files == sorted(toy.files) and [Path(name).suffix for name in toy.files] == [".py", ".yaml"]
    record = json.loads((pair / "record.json").read_text())
    assert record["status"] == "done"
    config = yaml.safe_load((folder.parent / "run" / "config.yaml").read_text())
    settings = at(config, toy.key)
    assert settings["_target_"].startswith(f"toy_{kind}.") and len(settings["arguments"]) == 1
    EFFECTS[kind](pair, record)


def _sampler(pair: Path, record: dict[str, Any]) -> None:
    # Two of three steps: both updates forward and again in backward, and the last image.
    assert record["network_evaluations"] == 2 * (2 + 2) + 2


def _engine(pair: Path, record: dict[str, Any]) -> None:
    # Nothing is computed again.
    assert record["network_evaluations"] == 2 * 2 + 2


def _term(pair: Path, record: dict[str, Any]) -> None:
    header, *rows = (pair / "history.csv").read_text().splitlines()
    column = header.split(",").index("toy")
    assert 0 <= float(rows[0].split(",")[column]) <= 1


def _detector(pair: Path, record: dict[str, Any]) -> None:
    with Image.open(pair / "saliency.png") as image:
        assert image.convert("L").getextrema()[1] == 255


def _judge(pair: Path, record: dict[str, Any]) -> None:
    with Image.open(pair / "final.png") as image:
        values = image.convert("RGB").tobytes()
    assert record["metrics"]["toy/brightness"] == pytest.approx(100 * sum(values) / len(values) / 255, rel=1e-4)


def _method(pair: Path, record: dict[str, Any]) -> None:
    # Two candidates of two denoising steps.
    assert record["method"] == "toy" and record["network_evaluations"] == 4
    scores = [float(line.split(",")[2]) for line in (pair / "history.csv").read_text().splitlines()[1:]]
    assert len(scores) == 2 and record["best_step"] == scores.index(min(scores))
    assert record["metrics"]["objective"] == min(scores)


EFFECTS = {
    "sampler": _sampler, "engine": _engine, "term": _term, "detector": _detector, "judge": _judge, "method": _method,
}  # fmt: skip


def test_what_only_the_built_component_knows_is_checked_then(folder: Path) -> None:
    """Nobody can know before the module is imported that this sampler cannot be run backwards."""
    toy = TOYS["sampler"]
    overrides = [*SMALL, *toy.overrides, "engine=reversible", f"run_dir='{folder.parent / 'run'}'"]
    result = CliRunner().invoke(app, ["fit", "--config-dir", str(copied(folder, toy)), *overrides])
    assert "reversible needs a sampler with an exact inverse" in result.output and "hasty has none" in result.output
