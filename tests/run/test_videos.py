"""Videos from the command line: Wan 2.1, and LTX-Video by its own call; their files, scores and report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sgool.callbacks import BatchCheckpoint
from sgool.cli import app
from sgool.methods import BestOfN
from sgool.objectives import CropSettings, Objective, SaliencySettings
from sgool.objectives.pixels import Color
from sgool.results.sheets import cut_sheet
from sgool.run.rescore import rescore
from sgool.saliency import SpectralResidual
from sgool.types import PromptSeed
from tests.diffusion.families import chain_of as family_chain
from tests.diffusion.test_replay import chain_of as replay_chain
from tests.fits import assert_same, optimise, run
from tests.run.test_families import SMALL
from tests.tiny_families import tiny_family
from tests.tiny_replay import REPLAYED

METHODS = ("vanilla", "reno", "sgool")
STEPS, GUIDANCE = 2, 3.0
CASES = {
    "wan": ("call={num_frames: 5}", 5),
    "ltx": ("call={num_frames: 9, max_sequence_length: 16}", 9),
}


@pytest.mark.parametrize("name", CASES)
def test_methods_make_videos_and_a_report(name: str, tmp_path: Path) -> None:
    call, frames = CASES[name]
    pipeline = tiny_family(name, builders=REPLAYED if name in REPLAYED else None)
    pipeline.save_pretrained(tmp_path / name)
    folder = tmp_path / "run"
    settings = [f"models.path='{tmp_path / name}'", f"models.{call}", f"sampler.num_inference_steps={STEPS}"]
    settings += [f"sampler.guidance_scale={GUIDANCE}", "objective.frames=3", "data.limit=1", f"run_dir='{folder}'"]
    settings += ["models.family=replay"] if name in REPLAYED else []
    result = CliRunner().invoke(app, ["fit", *SMALL, *settings, f"methods=[{','.join(METHODS)}]"])
    assert result.exit_code == 0, result.output
    for method in METHODS:
        (file,) = (folder / "pairs" / method).glob("*/record.json")
        record = json.loads(file.read_text())
        assert record["status"] == "done" and np.isfinite(record["metrics"]["judge/clip_score"])
        with Image.open(file.parent / "final.gif") as animation:
            assert getattr(animation, "n_frames", 1) == frames
        with Image.open(file.parent / "final.png") as sheet:
            assert sheet.info["sgool_frames"] == str(frames) and sheet.size == (96, 32 * -(-frames // 3))
            pixels = np.asarray(sheet.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)
        assert (file.parent / "saliency.png").exists() == (method == "sgool")
        if method == "vanilla":
            own = pipeline(
                prompt=record["prompt"],
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                height=32,
                width=32,
                generator=torch.Generator().manual_seed(record["seed"]),
                output_type="np",
                num_frames=frames,
                max_sequence_length=16 if name == "ltx" else 512,
            ).frames[0]
            kept = cut_sheet(pixels, frames).transpose(1, 2, 3, 0)
            assert np.abs(kept - 255 * own).max() <= 0.51  # a pixel between two 8-bit values may be rounded to either
    before = {file: json.loads(file.read_text())["metrics"] for file in folder.glob("pairs/*/*/record.json")}
    rescore(folder)  # from the contact sheets
    for file, metrics in before.items():
        again = json.loads(file.read_text())["metrics"]
        # Of 100, in float32, and here in a batch of three.
        assert again["judge/clip_score"] == pytest.approx(metrics["judge/clip_score"], abs=1e-4)
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0
    page = (folder / "report" / "index.html").read_text()
    shown = set(re.findall(r'"(\d+-\d+\.gif)"', page))
    assert len(shown) == len(METHODS)
    for animation_file in shown:
        with Image.open(folder / "report" / "images" / animation_file) as animation:
            assert getattr(animation, "n_frames", 1) == frames


PAIRS = (PromptSeed("a red cat", 3), PromptSeed("three purple butterflies", 1))
RULES = {"num_optimization_steps": 3, "lr": 1.0, "gradient_rms": 0.02, "grad_clip_value": None, "saliency_mask": True}


def goal() -> Objective:
    saliency = SaliencySettings(SpectralResidual(), every_n_steps=2)
    return Objective({"color": Color([0.9, 0.1, 0.2])}, {"color": 1.0}, CropSettings(num=0), saliency, frames=3)


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_videos_go_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    chain = family_chain("wan", steps=2) if name == "wan" else replay_chain(name)
    rules = {**RULES, "saliency_mask": name == "wan", "candidates": 2, "snapshot_every": 1}
    expected = optimise(chain, goal(), PAIRS, **rules)
    assert all(result.saliency_map is not None for result in expected)
    for stop_after in (1, 2, 3):
        file = tmp_path / f"{stop_after}.ckpt"
        asked = iter([False] * (stop_after - 1) + [True] * 99)
        try:
            optimise(
                chain, goal(), PAIRS, [BatchCheckpoint(lambda _, own=file: own, interrupted=asked.__next__)], **rules
            )
        except Exception as error:
            assert "stopped after" in str(error)
        assert_same(optimise(chain, goal(), PAIRS, [BatchCheckpoint(lambda _, own=file: own)], **rules), expected)


def test_a_video_does_not_depend_on_its_batch() -> None:
    chain = family_chain("wan", torch.float64, steps=2)
    together = optimise(chain, goal(), PAIRS, **RULES)
    for pair, result in zip(PAIRS, together, strict=True):
        (alone,) = optimise(chain, goal(), [pair], **RULES)
        # float64; some layers of diffusers' networks work in float32.
        torch.testing.assert_close(alone.final_latents, result.final_latents, rtol=0, atol=1e-5)
    (searched,) = run(BestOfN(chain, goal(), num_candidates=2), PAIRS[:1])
    assert searched.final_image.shape == (3, 5, 16, 32) == searched.initial_image.shape
