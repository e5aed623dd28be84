"""`models.family=replay` from the command line: pipelines of classes that have no family."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sgool.callbacks import BatchCheckpoint
from sgool.cli import app
from sgool.errors import ConfigError, Interrupted
from sgool.objectives import CropSettings, Objective
from sgool.objectives.pixels import Color
from sgool.run.config import load_config
from sgool.types import PromptSeed
from tests.diffusion.test_replay import CALLS, GUIDANCE, STEPS, chain_of
from tests.fits import assert_same, optimise
from tests.run.test_families import SMALL
from tests.tiny_families import tiny_family
from tests.tiny_replay import REPLAYED

METHODS = ("vanilla", "doodl", "reno", "sgool", "best_of_n")


def saved(name: str, folder: Path) -> Path:
    tiny_family(name, builders=REPLAYED).save_pretrained(folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["aura_flow", "chroma"])
def test_methods_run_on_any_pipeline(name: str, tmp_path: Path) -> None:
    path, run = saved(name, tmp_path), tmp_path / "run"
    call = ", ".join(f"{key}: {value}" for key, value in CALLS[name].items())
    settings = [f"sampler.num_inference_steps={STEPS}", f"sampler.guidance_scale={GUIDANCE}", "models.family=replay"]
    settings += [f"models.call={{{call}}}", f"models.path='{path}'", "method.best_of_n.num_candidates=2"]
    command = ["fit", *SMALL, *settings, f"methods=[{','.join(METHODS)}]", f"run_dir='{run}'"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for method in METHODS:
        records = [json.loads(file.read_text()) for file in (run / "pairs" / method).glob("*/record.json")]
        assert [record["status"] for record in records] == ["done"] * 2
        if method == "reno":
            one = STEPS * (2 if name == "chroma" else 1)
            assert {record["network_evaluations"] for record in records} == {2 * 2 * one + one}
            assert {record["network_backward_passes"] for record in records} == {2 * one}
    pipeline = tiny_family(name, builders=REPLAYED)
    for file in (run / "pairs" / "vanilla").glob("*/record.json"):
        record = json.loads(file.read_text())
        own = pipeline(
            prompt=record["prompt"],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=32,
            width=32,
            generator=torch.Generator().manual_seed(record["seed"]),
            output_type="np",
            **CALLS[name],
        ).images[0]
        kept = np.asarray(Image.open(file.parent / "final.png"), dtype=np.float64)
        assert np.abs(kept - 255 * own).max() <= 0.51  # a pixel between two 8-bit values may be rounded to either


def test_what_the_configuration_refuses(tmp_path: Path) -> None:
    path = f"models.path='{saved('aura_flow', tmp_path)}'"
    with pytest.raises(ConfigError) as caught:
        load_config([path, "models.height=32", "models.width=32", "sampler=native"])
    assert "and there is no model family for that" in str(caught.value)
    assert "models.family=replay runs any other pipeline's own call" in str(caught.value)
    wrong = ["sampler=edict", "engine=reversible", "engine.gradient_steps=2", "engine.split_guidance=true"]
    wrong += ["models.call={guidance_scale: 3, output_type: np}", "methods=[sgool,clip_guidance,fk_steering]"]
    with pytest.raises(ConfigError) as caught:
        load_config([path, "models.family=replay", *wrong])
    for said in (
        "`sampler`: expected native with models.family=replay, which runs the pipeline's own scheduler, got edict",
        "`engine`: expected checkpoint or direct with models.family=replay, whose loop cannot be run backwards, ",
        "`engine.gradient_steps`: expected null with models.family=replay, got 2",
        "`engine.split_guidance`: expected false with models.family=replay, got True",
        "`models.call.guidance_scale`: set sampler.guidance_scale instead",
        "`models.call.output_type`: expected no such argument",
        "`method.clip_guidance`: ",
        "`method.fk_steering`: ",
    ):
        assert said in str(caught.value)


PAIRS = (PromptSeed("a red cat", 3), PromptSeed("trees", 1), PromptSeed("a blue house", 2, negative_prompt="trees"))
SETTINGS = {"num_optimization_steps": 3, "lr": 1.0, "grad_clip_value": None, "perturb_std": 1e-2, "keep": "last"}


def goal() -> Objective:
    return Objective({"color": Color([0.9, 0.1, 0.2])}, {"color": 1.0}, CropSettings(num=0))


def test_batches_and_resumes(tmp_path: Path) -> None:
    """A pair is what it is alone, to the last bit, since prompts are run one by one; and goes on to the same bits."""
    chain, file = chain_of("aura_flow"), tmp_path / "it.ckpt"
    expected = optimise(chain, goal(), PAIRS, **SETTINGS)
    for index, pair in enumerate(PAIRS):
        (alone,) = optimise(chain, goal(), [pair], **SETTINGS)
        assert alone.final_latents.equal(expected[index].final_latents)
        assert not alone.final_latents.equal(alone.initial_latents)
    asked = iter([False, True, *[False] * 99])
    with contextlib.suppress(Interrupted):
        optimise(chain, goal(), PAIRS, [BatchCheckpoint(lambda _: file, interrupted=asked.__next__)], **SETTINGS)
    assert file.exists()
    assert_same(optimise(chain, goal(), PAIRS, [BatchCheckpoint(lambda _: file)], **SETTINGS), expected)
