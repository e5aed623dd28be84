"""`sgool fit` from the command line on tiny pipelines of other families, with the sampler `native`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from PIL import Image
from typer.testing import CliRunner

from sgool.cli import app
from tests.tiny_families import BETAS, tiny_family

METHODS = ("vanilla", "reno", "sgool")
SMALL = (
    "experiment=demo",
    "budget.calls=null",
    "models.device=cpu",
    "models.height=32",
    "models.width=32",
    "data.limit=2",
    "trainer.threads=1",
    "trainer.pairs_per_fit=2",
    "logger=none",
    "sampler=native",
    "optimization.num_optimization_steps=2",
    "objective.crops.num=2",
    "method.sgool.optimization.candidates=2",
)


def pipeline_of(name: str) -> Any:
    if name != "sdxl_turbo":
        return tiny_family(name)
    pipeline = tiny_family("sdxl")
    pipeline.scheduler = EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    return pipeline


@pytest.mark.parametrize(
    ("name", "steps", "guidance"), [("sdxl_turbo", 2, 0.0), ("sd3_without_t5", 2, 3.0), ("lcm", 2, 8.5)]
)
def test_methods_run_on_a_family(name: str, steps: int, guidance: float, tmp_path: Path) -> None:
    pipeline = pipeline_of(name)
    pipeline.save_pretrained(tmp_path / name)
    overrides = [f"sampler.num_inference_steps={steps}", f"sampler.guidance_scale={guidance}"]
    run = tmp_path / "run"
    command = ["fit", *SMALL, *overrides, f"models.path='{tmp_path / name}'", f"methods=[{','.join(METHODS)}]"]
    result = CliRunner().invoke(app, [*command, f"run_dir='{run}'"])
    assert result.exit_code == 0, result.output
    for method in METHODS:
        records = [json.loads(file.read_text()) for file in (run / "pairs" / method).glob("*/record.json")]
        assert [record["status"] for record in records] == ["done"] * 2
    for file in (run / "pairs" / "vanilla").glob("*/record.json"):
        record = json.loads(file.read_text())
        own = pipeline(
            prompt=record["prompt"],
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=32,
            width=32,
            generator=torch.Generator().manual_seed(record["seed"]),
            output_type="np",
        ).images[0]
        saved = np.asarray(Image.open(file.parent / "final.png"), dtype=np.float64)
        # A pixel that lies between two 8-bit values may be rounded to either.
        assert np.abs(saved - 255 * own).max() <= 0.51
