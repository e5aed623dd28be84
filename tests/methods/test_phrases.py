"""Methods whose objective matches salient regions with phrases: results, histories and records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sgool.callbacks import RunWriter
from sgool.methods import BestOfN, ClipGuidance, LatentPairModule, PairModule, Vanilla
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.results import RunFolder
from sgool.saliency import SpectralResidual
from sgool.types import PairResult, PromptSeed
from tests.fits import chain_of, run

PAIRS = (PromptSeed("a red cat and a dog", 1), PromptSeed("x", 2, phrases=("two trees",)), PromptSeed("a panda", 3))
PHRASES = [["a red cat", "a dog"], ["two trees"], ["a panda"]]
CHAIN: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}


def objective(clip: ClipTower, match: Any = "phrases") -> Objective:
    saliency = SaliencySettings(SpectralResidual(), min_side=0.2, match=match)
    return Objective({"text": TextAlignment(clip)}, {"text": 1.0}, CropSettings(num=2), saliency)


def module_of(name: str, models: StableDiffusion, goal: Objective) -> PairModule:
    chain = chain_of(models, **CHAIN)
    if name == "sgool":
        return LatentPairModule(chain, goal, num_optimization_steps=2, lr=100.0)
    if name == "clip_guidance":
        return ClipGuidance(chain, goal, clip_guidance_scale=10.0)
    return BestOfN(chain, goal, 2, num_candidates=3)


@pytest.mark.parametrize("name", ["sgool", "best_of_n", "clip_guidance"])
def test_a_result_says_where_phrases_are_in_the_final_image(
    name: str, models: StableDiffusion, clip_tower: ClipTower
) -> None:
    goal = objective(clip_tower)
    results = run(module_of(name, models, goal), PAIRS)
    for pair, phrases, result in zip(PAIRS, PHRASES, results, strict=True):
        assert [found.phrase for found in result.phrases] == phrases
        # By a detection of its own in the image as it is saved, to the last bit.
        assert result.phrases == goal.bind([pair]).find_phrases(result.final_image[None])[0]
    plain = run(module_of(name, models, objective(clip_tower, "prompt")), PAIRS)
    assert all(result.phrases == () for result in plain)
    assert all("worst_phrase" not in row for result in plain for row in result.history)


def test_the_history_has_the_worst_phrase(models: StableDiffusion, clip_tower: ClipTower) -> None:
    goal = objective(clip_tower)
    results = run(LatentPairModule(chain_of(models, **CHAIN), goal, num_optimization_steps=2, lr=100.0), PAIRS)
    for pair, result in zip(PAIRS, results, strict=True):
        assert [set(row) >= {"regions", "worst_phrase"} for row in result.history] == [True] * 3
        first = goal.bind([pair]).find_phrases(result.initial_image[None])[0]
        # The update saw the image before it was rounded to 8 bits, half of one of 256 values.
        assert result.history[0]["worst_phrase"] == pytest.approx(max(f.distance for f in first), abs=0.02)


def test_batch_mates_do_not_change_a_pair(models64: StableDiffusion, clip64: ClipTower) -> None:
    def results(pairs: tuple[PromptSeed, ...]) -> list[PairResult]:
        module = LatentPairModule(chain_of(models64, **CHAIN), objective(clip64), num_optimization_steps=2, lr=100.0)
        return run(module, pairs)

    together = results(PAIRS)
    for pair, one in zip(PAIRS, together, strict=True):
        (alone,) = results((pair,))
        # float64: only the order of sums differs.
        torch.testing.assert_close(alone.final_latents, one.final_latents, rtol=0, atol=1e-9)
        assert [found.region for found in alone.phrases] == [found.region for found in one.phrases]


def test_records(models: StableDiffusion, clip_tower: ClipTower, tmp_path: Path) -> None:
    chain, folder = chain_of(models, **CHAIN), tmp_path / "run"
    results = run(LatentPairModule(chain, objective(clip_tower), num_optimization_steps=1), PAIRS, [RunWriter(folder)])
    run(Vanilla(chain), PAIRS, [RunWriter(tmp_path / "plain")])
    for pair, result in zip(PAIRS, results, strict=True):
        record = RunFolder(folder).record("sgool", pair.pair_id)
        assert record is not None
        for found, expected in zip(record.phrases, result.phrases, strict=True):
            box = expected.region and [getattr(expected.region, name) for name in ("top", "left", "height", "width")]
            assert found == {"phrase": expected.phrase, "distance": expected.distance, "box": box}
        plain = json.loads((tmp_path / "plain/pairs/vanilla" / pair.pair_id / "record.json").read_text())
        assert "phrases" not in plain  # as before there were any
    header = (folder / "results.csv").read_text().splitlines()[0].split(",")
    assert "phrases" not in header and "best_step" in header


def test_a_checkpoint_of_other_phrases_does_not_fit(models: StableDiffusion, clip_tower: ClipTower) -> None:
    modules = [BestOfN(chain_of(models, **CHAIN), objective(clip_tower), 2, num_candidates=1) for _ in range(3)]
    for module, phrases in zip(modules, [("a cat",), ("a dog",), None], strict=True):
        module.pairs = (PromptSeed("a cat", phrases=phrases),)
    settings = [module.checkpoint_settings()[-4:] for module in modules]
    assert settings[0] != settings[1] != settings[2] != settings[0]
