from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from sgool import Chain, PromptDataModule
from sgool.methods import LatentPairModule, Vanilla
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.results.checkpoint import eight_bit
from sgool.run.train import train
from sgool.saliency import SpectralResidual
from sgool.types import PairResult, PromptSeed, Start
from tests.fits import chain_of, optimisation, optimise, run

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2), PromptSeed("a panda", 3))
CHAIN: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0}
MIXED = {"precision": "bf16-mixed"}


def goal(clip: ClipTower, *, salient: bool = False, crops: int = 4) -> Objective:
    saliency = SaliencySettings(SpectralResidual()) if salient else None
    return Objective({"text": TextAlignment(clip)}, {"text": 1.0}, CropSettings(num=crops), saliency)


def optimised(chain: Chain, objective: Objective, **settings: Any) -> list[PairResult]:
    return optimise(chain, objective, PAIRS, **{"num_optimization_steps": 4, "lr": 30.0, **settings})


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_vanilla_is_plain_sampling(models: StableDiffusion, clip_tower: ClipTower, sampler: str) -> None:
    chain = chain_of(models, sampler, **CHAIN)
    results = run(Vanilla(chain), PAIRS)
    module = LatentPairModule(chain, goal(clip_tower), pairs=PAIRS)
    images = module.sample()
    for index, (pair, result) in enumerate(zip(PAIRS, results, strict=True)):
        assert result.pair is pair and result.error is None and result.history == []
        assert result.final_image.equal(eight_bit(images[index])) and result.initial_image.equal(result.final_image)
        assert result.final_image.equal(result.final_image.mul(255).round() / 255)
        assert result.initial_latents.equal(module.latents.detach()[:, index])
        assert (result.best_step, result.num_optimization_steps) == (0, 0)
        assert result.network_evaluations == 3 * len(module.latents)


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
@pytest.mark.parametrize("salient", [False, True])
def test_optimisation_starts_at_vanilla_and_keeps_the_best(
    models: StableDiffusion, clip_tower: ClipTower, sampler: str, salient: bool
) -> None:
    chain = chain_of(models, sampler, **CHAIN)
    results = optimised(chain, goal(clip_tower, salient=salient), gradient_rms=1e-3)
    vanilla = run(Vanilla(chain), PAIRS)
    for base, result in zip(vanilla, results, strict=True):
        torch.testing.assert_close(result.initial_image, base.final_image, rtol=0, atol=1e-6)
        assert result.initial_latents.equal(base.initial_latents)
        selections = [row["selection"] for row in result.history]
        assert len(selections) == 5 and selections[result.best_step] == min(selections) <= selections[0]
        assert (result.saliency_map is None) == (not salient)
        # 4 updates with recomputation, and the evaluation of the last latents without.
        assert result.network_evaluations == (4 * 2 + 1) * 3 * len(result.initial_latents)
    assert any(result.best_step > 0 for result in results)
    if salient:
        assert all(r.saliency_map is not None and r.saliency_map.shape == (1, 32, 32) for r in results)


def test_final_image_belongs_to_the_final_latents(models: StableDiffusion, clip_tower: ClipTower) -> None:
    chain, objective = chain_of(models, **CHAIN), goal(clip_tower)
    results = optimised(chain, objective, keep="last", snapshot_every=2)
    there = [replace(result.pair, start=Start(result.final_latents[0])) for result in results]
    module = LatentPairModule(chain, objective, pairs=there)
    # The half of one of 256 values more.
    final = torch.stack([result.final_image for result in results])
    torch.testing.assert_close(module.sample(), final, rtol=0, atol=1e-5 + 0.5 / 255)
    assert [result.best_step for result in results] == [4, 4, 4]
    for result in results:
        assert [update for update, _ in result.snapshots] == [0, 2, 4]
        assert result.snapshots[0][1].equal(result.initial_image)
        assert result.snapshots[-1][1].equal(result.final_image)


class Unlike(TextAlignment):
    """Text alignment that is NaN for one prompt."""

    def __init__(self, clip: ClipTower, prompt: str) -> None:
        super().__init__(clip)
        self._bad = super().targets([PromptSeed(prompt)])

    def __call__(self, views: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.where((targets == self._bad).all(dim=1), torch.nan, super().__call__(views, targets))


#: Names and settings of the shipped methods that optimise.
OPTIMISERS: dict[str, dict[str, Any]] = {
    "doodl": {},
    "sgool": {"salient": True},
    "reno": {"nesterov": True, "norm_regularizer": 0.01, "grad_clip_norm": 0.1, "renormalize": False, "perturb_std": 0},
}


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("failing", [None, "a panda"])
def test_pairs_of_one_fit_end_as_each_alone(
    models64: StableDiffusion, clip64: ClipTower, sampler: str, name: str, failing: str | None
) -> None:
    """Three pairs in a fit give each what it gets in a fit of its own; one that fails changes nothing for the rest."""
    options = dict(OPTIMISERS[name])
    saliency = SaliencySettings(SpectralResidual()) if options.pop("salient", False) else None
    text = TextAlignment(clip64) if failing is None else Unlike(clip64, failing)
    objective = Objective({"text": text}, {"text": 1.0}, CropSettings(num=2), saliency)
    module, callbacks = optimisation(
        chain_of(models64, sampler, **CHAIN), objective, num_optimization_steps=2, lr=30.0, **options
    )
    together = run(module, PAIRS, callbacks)
    for pair, result in zip(PAIRS, together, strict=True):
        (alone,) = run(module, [pair], callbacks)
        if pair.prompt == failing:
            assert result.error == alone.error == "non-finite loss at update 0"
        else:
            assert result.error is None and alone.error is None
        # float64: only the order of sums differs, amplified by the updates.
        torch.testing.assert_close(result.final_latents, alone.final_latents, rtol=0, atol=1e-8)
        torch.testing.assert_close(result.final_image, alone.final_image, rtol=0, atol=1e-8)
        numbers = [[list(row.values()) for row in one.history] for one in (result, alone)]
        torch.testing.assert_close(*map(torch.tensor, numbers), rtol=1e-7, atol=1e-9, equal_nan=True)
        assert (result.best_step, result.network_evaluations) == (alone.best_step, alone.network_evaluations)
        assert result.num_optimization_steps == alone.num_optimization_steps


def test_engines_give_the_same_result(models64: StableDiffusion, clip64: ClipTower) -> None:
    results = []
    for engine in ("direct", "checkpoint"):
        chain = chain_of(models64, "edict", engine, **CHAIN)
        results += optimise(chain, goal(clip64), PAIRS[:1], num_optimization_steps=2, lr=30.0)
    torch.testing.assert_close(results[0].final_latents, results[1].final_latents, rtol=0, atol=1e-10)
    assert results[0].network_evaluations == (2 + 1) * 6 and results[1].network_evaluations == (2 * 2 + 1) * 6


@pytest.mark.parametrize("salient", [False, True])
def test_mixed_bfloat16(models: StableDiffusion, clip_tower: ClipTower, salient: bool) -> None:
    chain = chain_of(models, **CHAIN)
    results = optimised(chain, goal(clip_tower, salient=salient), trainer=MIXED)
    vanilla = run(Vanilla(chain), PAIRS, **MIXED)
    exact = run(Vanilla(chain), PAIRS)
    for result, base, full in zip(results, vanilla, exact, strict=True):
        assert result.error is None
        tensors = [result.final_image, result.final_latents, result.initial_image, base.final_image]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
        # The same autocast in training and in prediction.
        torch.testing.assert_close(result.initial_image, base.final_image, rtol=0, atol=1e-6)
        assert not base.final_image.equal(full.final_image)  # it did run in bfloat16
        # Eight bits of mantissa through three steps and the decoder.
        torch.testing.assert_close(base.final_image, full.final_image, rtol=0, atol=0.1)
        assert result.history[result.best_step]["selection"] <= result.history[0]["selection"]


def test_an_objective_that_is_never_finite_fails_the_pair(models: StableDiffusion, clip_tower: ClipTower) -> None:
    class Broken(TextAlignment):
        def __call__(self, views: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return super().__call__(views, targets) * torch.nan

    objective = Objective({"text": Broken(clip_tower)}, {"text": 1.0}, CropSettings(num=1))
    results = optimise(chain_of(models, **CHAIN), objective, PAIRS[:1], num_optimization_steps=2)
    assert results[0].error == "non-finite loss at update 0"
    assert results[0].final_image.equal(results[0].initial_image)
    assert results[0].final_latents.equal(results[0].initial_latents)


def test_fits_are_quiet(models: StableDiffusion, clip_tower: ClipTower, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain, trainer = chain_of(models, **CHAIN), {"accelerator": "cpu", "logger": False}
        module, callbacks = optimisation(chain, goal(clip_tower), num_optimization_steps=1)
        train(module, PromptDataModule(PAIRS[:1]), callbacks=callbacks, **trainer)
        train(Vanilla(chain), PromptDataModule(PAIRS[:1]), callbacks=[], **trainer)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""
