"""`optimization.streams: all` from the command line, on a tiny SDXL-Turbo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from sgool.cli import app
from sgool.errors import ConfigError
from sgool.run.config import load_config
from tests.run.test_families import SMALL, pipeline_of

METHODS = ("vanilla", "reno", "sgool", "best_of_n", "zero_order", "evolution")


def test_every_method_runs_on_all_noises(tmp_path: Path) -> None:
    pipeline_of("sdxl_turbo").save_pretrained(tmp_path / "model")
    steps = ["sampler.num_inference_steps=2", "sampler.guidance_scale=0", "optimization.streams=all", "data.limit=1"]
    run = tmp_path / "run"
    command = ["fit", *SMALL, *steps, f"models.path='{tmp_path / 'model'}'", f"methods=[{','.join(METHODS)}]"]
    searches = [f"method.{name}.num_candidates=3" for name in METHODS[3:]]
    result = CliRunner().invoke(app, [*command, *searches, f"run_dir='{run}'"])
    assert result.exit_code == 0, result.output
    for method in METHODS:
        (file,) = (run / "pairs" / method).glob("*/record.json")
        assert json.loads(file.read_text())["status"] == "done"
        latents = load_file(file.parent / "latents.safetensors")
        # One noise between two steps; vanilla keeps the first latents alone.
        assert latents["initial"].shape == latents["best"].shape == (1 if method == "vanilla" else 2, 4, 16, 16)


def test_a_sampler_without_noise_is_refused_before_torch() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(["optimization.streams=all", "methods=[vanilla,sgool,best_of_n]", "sampler=ddim"])
    for method in ("sgool", "best_of_n"):
        assert f"all (with {method}) needs a sampler that adds noise on the way, native, and ddim" in str(caught.value)
    assert "vanilla" not in str(caught.value)
