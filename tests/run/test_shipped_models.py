"""`sgool fit models=NAME models.path=FOLDER` of every shipped model runs on a tiny pipeline of its class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sgool.cli import app
from sgool.config.paths import config_folder
from tests.tiny_families import BETAS, tiny_family

METHODS = ("vanilla", "reno", "sgool")
#: Shipped model -> tiny pipeline, side of its images, and what the command needs beside its folder.
MODELS: dict[str, tuple[str, int, list[str]]] = {
    "sd14": ("sd", 32, []),
    "sd15": ("sd", 32, []),
    "sd21": ("sd", 32, []),
    "sd_turbo": ("sd", 32, []),
    "sdxl": ("sdxl", 32, []),
    "sdxl_turbo": ("sdxl", 32, []),
    "sdxl_lcm": ("sdxl_lcm", 32, ["models.components=null"]),
    "hyper_sdxl": ("sdxl", 32, ["models.components=null"]),
    "sd35_medium": ("sd3_without_t5", 32, []),
    "flux_schnell": ("flux_schnell", 32, ["models.call={max_sequence_length: 16}"]),
    "flux_dev": ("flux_dev", 32, ["models.call={max_sequence_length: 16}"]),
    "pixart_alpha_dmd": ("pixart_dmd", 32, ["models.components=null"]),
    "pixart_sigma": ("pixart_sigma", 32, []),
    "sana_sprint": ("sana_sprint", 32, []),
    "wan21": ("wan", 32, []),
}
#: The guide and the judge of a real model are downloaded; embedded ones stand for them.
CLIPS = ("models.guide={model: emoji_world/guide, pretrained: null}",)
SMALL = (
    "models.device=cpu",
    "data.prompts=emoji_world/demo",
    "data.limit=1",
    "trainer.threads=1",
    "logger=none",
    "optimization.num_optimization_steps=1",
    "objective.crops.num=2",
)


def save(name: str, folder: Path) -> None:
    pipeline = tiny_family(MODELS[name][0])
    if name == "sd_turbo":
        from diffusers import EulerDiscreteScheduler

        # As in the folder of stabilityai/sd-turbo.
        pipeline.scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    pipeline.save_pretrained(folder)


def test_the_table_has_every_shipped_model() -> None:
    shipped = {file.stem for file in (config_folder() / "models").glob("*.yaml")}
    assert shipped == set(MODELS) | {"emoji_world", "emoji_world_turbo"}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_newcomers_command_runs(name: str, tmp_path: Path) -> None:
    _, side, beside = MODELS[name]
    save(name, tmp_path / "model")
    size = [f"models.height={side}", f"models.width={side}"]
    steps = ["sampler.num_inference_steps=2"] if _many_steps(name) else []
    judge = ["models.judges={judge: {model: emoji_world/judge, pretrained: null}}"]
    command = ["fit", f"models={name}", f"models.path='{tmp_path / 'model'}'", f"methods=[{','.join(METHODS)}]"]
    run = tmp_path / "run"
    result = CliRunner().invoke(app, [*command, *SMALL, *CLIPS, *judge, *size, *steps, *beside, f"run_dir='{run}'"])
    assert result.exit_code == 0, result.output
    for method in METHODS:
        (record,) = [json.loads(file.read_text()) for file in (run / "pairs" / method).glob("*/record.json")]
        assert record["status"] == "done", record


def _many_steps(name: str) -> bool:
    from sgool.run.config import load_config

    steps: Any = load_config([f"models={name}"]).sampler.num_inference_steps
    return int(steps) > 4
