from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from sgool.methods.optimize import LatentOptimization
from torch import Tensor

from sgool.diffusion import build_engine, build_sampler
from sgool.methods.base import FitSettings
from sgool.methods.best_of_n import BestOfN
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.vanilla import Vanilla
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.prompts.seeding import pair_generator
from sgool.saliency import SpectralResidual
from sgool.types import PromptSeed
from tests.reference import scheduler64

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2), PromptSeed("a panda", 3))
STEPS = 3


def settings(sampler: str = "ddim", engine: Any = None, sampler_options: Any = None, **module: Any) -> FitSettings:
    options = {"sampler": build_sampler(sampler, **(sampler_options or {})), "num_inference_steps": STEPS}
    return FitSettings(
        {**options, "engine": build_engine(**(engine or {"name": "checkpoint"})), "guidance_scale": 3.0, **module},
        {"accelerator": "cpu"},
    )


def objective(clip: ClipTower, salient: bool = False) -> Objective:
    saliency = SaliencySettings(SpectralResidual()) if salient else None
    return Objective({"text": TextAlignment(clip)}, {"text": 1.0}, CropSettings(num=2), saliency)


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
@pytest.mark.parametrize("salient", [False, True])
def test_the_candidate_that_the_objective_likes_best(
    models: StableDiffusion, clip_tower: ClipTower, sampler: str, salient: bool
) -> None:
    told: list[tuple[int, int]] = []
    options = replace(settings(sampler), on_update=lambda *update: told.append(update))
    goal = objective(clip_tower, salient)
    results = BestOfN("best_of_n", models, goal, 2, num_candidates=4).run(PAIRS, options)
    vanilla = Vanilla(models).run(PAIRS, settings(sampler))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for pair, base, result in zip(PAIRS, vanilla, results, strict=True):
        # Candidate 0 is vanilla's image: the same prompt, seed and first latents.
        torch.testing.assert_close(result.initial_image, base.final_image, rtol=0, atol=1e-6)
        assert result.initial_latents.equal(base.initial_latents)
        selections = [row["selection"] for row in result.history]
        assert len(selections) == 4 and selections[result.best_step] == min(selections)
        expected = result.initial_latents
        if result.best_step:
            generator = pair_generator(pair.seed, "best_of_n", result.best_step)
            expected = torch.randn((4, 8, 8), generator=generator).expand_as(expected)
        assert result.final_latents.equal(expected)
        module = LatentPairModule(models, [pair], initial_latents=result.final_latents[:1], **settings(sampler).module)
        sampled = module.sample()
        # 1e-5 of another batch size's kernels, and half of one of 256 values.
        torch.testing.assert_close(result.final_image, sampled[0], rtol=0, atol=1e-5 + 0.5 / 255)
        alone = float(goal.bind([pair]).evaluate(sampled))
        assert selections[result.best_step] == pytest.approx(alone, rel=1e-4)
        assert result.network_evaluations == 4 * STEPS * len(result.initial_latents)
        assert (result.num_optimization_steps, result.error) == (0, None)
        assert (result.saliency_map is None) == (not salient)
    assert any(result.best_step > 0 for result in results)


def test_batch_mates_do_not_change_a_result(models64: StableDiffusion, clip64: ClipTower) -> None:
    search = BestOfN("best_of_n", models64, objective(clip64, salient=True), 2, num_candidates=3)
    (alone,), together = search.run(PAIRS[1:2], settings()), search.run(PAIRS, settings())
    assert together[1].best_step == alone.best_step
    # float64: only the order of sums differs.
    torch.testing.assert_close(together[1].final_image, alone.final_image, rtol=0, atol=1e-10)


#: Sampler, engine, further options of the sampler, of the module.
CHAINS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("ddim", {"name": "direct"}, {}, {}),
    ("ddim", {"name": "checkpoint"}, {}, {}),
    ("ddim", {"name": "checkpoint", "gradient_steps": 1}, {}, {}),
    ("ddim", {"name": "checkpoint", "memory_mib": 1000}, {}, {}),
    ("ddim", {"name": "checkpoint", "memory_mib": 1000, "gradient_steps": 2}, {}, {}),
    ("dpm_solver", {"name": "checkpoint"}, {}, {}),
    ("belm", {"name": "reversible", "warn_drift": 0.05, "max_drift": 0.05}, {}, {}),
    ("edict", {"name": "checkpoint"}, {}, {}),
    ("edict", {"name": "checkpoint"}, {"mixing_coeff": 1.0}, {"decode_first_only": True}),
    ("edict", {"name": "reversible", "gradient_steps": 2}, {}, {"decode_first_only": True}),
    ("edict", {"name": "reversible", "max_drift": 1.0}, {"mixing_coeff": 1.0}, {"decode_first_only": True}),
]


@pytest.mark.parametrize(("sampler", "engine", "sampler_options", "module_options"), CHAINS, ids=str)
def test_the_budget_is_what_the_optimisation_is_recorded_to_use(
    models: StableDiffusion,
    clip_tower: ClipTower,
    sampler: str,
    engine: dict[str, Any],
    sampler_options: dict[str, Any],
    module_options: dict[str, Any],
) -> None:
    options = settings(sampler, engine, sampler_options, **module_options)
    goal = objective(clip_tower)
    optimised = LatentOptimization("doodl", models, goal, {"num_optimization_steps": 2}).run(PAIRS[:2], options)
    recorded = optimised[0].network_evaluations
    module = LatentPairModule(models, PAIRS[:2], goal, **options.module)
    one = Vanilla(models).run(PAIRS[:1], options)[0].network_evaluations
    with torch.no_grad():
        assert module.chain.optimization_calls(module.latents, 2) == recorded
    assert module.guided_model.calls == 0
    searched = BestOfN("best_of_n", models, goal, 2).run(PAIRS[:2], options)[0]
    assert len(searched.history) == recorded // one
    assert recorded - one < searched.network_evaluations <= recorded


def test_a_step_without_a_call_is_no_truncated_one(models: StableDiffusion, clip_tower: ClipTower) -> None:
    """With steps_offset 0 the last step keeps its noise level."""
    models = replace(models, scheduler=scheduler64(steps_offset=0))
    options, goal = settings("ddim", {"name": "checkpoint", "gradient_steps": 1}), objective(clip_tower)
    (result,) = LatentOptimization("doodl", models, goal, {"num_optimization_steps": 1}).run(PAIRS[:1], options)
    module = LatentPairModule(models, PAIRS[:1], goal, **options.module)
    assert module.chain.optimization_calls(module.latents, 1) == result.network_evaluations == 2 * (STEPS - 1) + 1


def test_activations_that_are_kept_in_part_count(models: StableDiffusion, clip_tower: ClipTower) -> None:
    goal = objective(clip_tower)
    found = set()
    for memory in (0.5, 1.0, 2.0, 3.0):
        options = settings("ddim", {"name": "checkpoint", "memory_mib": memory})
        (result,) = LatentOptimization("doodl", models, goal, {"num_optimization_steps": 1}).run(PAIRS[:1], options)
        module = LatentPairModule(models, PAIRS[:1], goal, **options.module)
        with torch.no_grad():
            assert module.chain.optimization_calls(module.latents, 1) == result.network_evaluations
        found.add(result.network_evaluations)
    assert len(found) > 1  # the budgets of this test do keep different numbers of calls


def test_an_objective_that_is_never_finite_fails_the_pair(models: StableDiffusion, clip_tower: ClipTower) -> None:
    class Broken(TextAlignment):
        def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
            return super().__call__(views, targets) * torch.nan

    broken = Objective({"text": Broken(clip_tower)}, {"text": 1.0}, CropSettings(num=1))
    (result,) = BestOfN("best_of_n", models, broken, 1, 2).run(PAIRS[:1], settings())
    assert result.error == "the objective was never finite"
    assert result.final_image.equal(result.initial_image) and result.best_step == 0
