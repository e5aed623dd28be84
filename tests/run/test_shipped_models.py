"""`sgool fit models=NAME models.path=FOLDER` of every shipped model runs on a tiny pipeline of its class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler
from safetensors.torch import save_file
from typer.testing import CliRunner

from sgool.cli import app
from sgool.config.paths import config_folder
from sgool.run.config import load_config
from tests.tiny_families import BETAS, tiny_family

METHODS = ("vanilla", "reno", "sgool")
#: Shipped model -> tiny pipeline of its folder, and what the command needs beside its folder. PARTS is a folder of the
#: test's own with the parts that the model takes from another hub id.
MODELS: dict[str, tuple[str, list[str]]] = {
    "sd14": ("sd", []),
    "sd15": ("sd", []),
    "sd21": ("sd", []),
    "sd_turbo": ("sd", []),
    "sdxl": ("sdxl", []),
    "sdxl_turbo": ("sdxl", []),
    "sdxl_lcm": ("sdxl", ["models.components.unet='PARTS/unet'"]),
    "hyper_sdxl": ("sdxl", ["models.components.unet.path='PARTS'"]),
    "sd35_medium": ("sd3_without_t5", []),
    "flux_schnell": ("flux_schnell", ["models.call.max_sequence_length=16"]),
    "flux_dev": ("flux_dev", ["models.call.max_sequence_length=16"]),
    "pixart_alpha_dmd": ("pixart_sigma", ["models.components.transformer.path='PARTS'"]),
    "pixart_sigma": ("pixart_sigma", []),
    "sana_sprint": ("sana_sprint", []),
    "wan21": ("wan", []),
    "folder": ("sana_sprint", []),
}
SIZE = ("models.height=32", "models.width=32")
#: The guide and the judge of a real model are downloaded; embedded ones stand for them.
CLIPS = (
    "models.guide={model: emoji_world/guide, pretrained: null}",
    "models.judges={judge: {model: emoji_world/judge, pretrained: null}}",
)
SMALL = (
    "models.device=cpu",
    "data.prompts=emoji_world/demo",
    "data.limit=1",
    "trainer.threads=1",
    "logger=none",
    "optimization.num_optimization_steps=1",
    "objective.crops.num=2",
    "method.sgool.optimization.candidates=2",
)


def save(name: str, folder: Path) -> None:
    """Saves a tiny pipeline, and in ``parts`` beside it what the model takes from elsewhere."""
    pipeline, parts = tiny_family(MODELS[name][0]), folder.parent / "parts"
    if name == "sd_turbo":
        # As in the folder of stabilityai/sd-turbo.
        pipeline.scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    pipeline.save_pretrained(folder)
    if name == "sdxl_lcm":
        tiny_family("sdxl_lcm").unet.save_pretrained(parts / "unet")
    elif name == "hyper_sdxl":
        parts.mkdir()
        state = {key: tensor.contiguous() for key, tensor in tiny_family("sdxl", seed=1).unet.state_dict().items()}
        save_file(state, parts / "Hyper-SDXL-1step-Unet.safetensors")
    elif name == "pixart_alpha_dmd":
        tiny_family("pixart_dmd").transformer.save_pretrained(parts / "transformer")


def test_the_table_has_every_shipped_model() -> None:
    shipped = {file.stem for file in (config_folder() / "models").glob("*.yaml")}
    assert shipped == set(MODELS) | {"emoji_world", "emoji_world_turbo"}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_newcomers_command_runs(name: str, tmp_path: Path) -> None:
    save(name, tmp_path / "model")
    beside = [line.replace("PARTS", str(tmp_path / "parts")) for line in MODELS[name][1]]
    steps = ["sampler.num_inference_steps=2"] if _many_steps(name) else []
    command = ["fit", f"models={name}", f"models.path='{tmp_path / 'model'}'", f"methods=[{','.join(METHODS)}]"]
    run = tmp_path / "run"
    result = CliRunner().invoke(app, [*command, *SMALL, *CLIPS, *SIZE, *steps, *beside, f"run_dir='{run}'"])
    assert result.exit_code == 0, result.output
    for method in METHODS:
        (record,) = [json.loads(file.read_text()) for file in (run / "pairs" / method).glob("*/record.json")]
        assert record["status"] == "done", record


def _many_steps(name: str) -> bool:
    if name == "folder":  # those of the pipeline's call: 2 of Sana-Sprint's
        return False
    steps: Any = load_config([f"models={name}"]).sampler.num_inference_steps
    return int(steps) > 4
