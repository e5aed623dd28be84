from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.errors import SgoolError
from sgool.methods import BestOfN, LatentPairModule, Vanilla
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.prompts.seeding import pair_generator
from sgool.saliency import SpectralResidual
from sgool.types import PromptSeed, Start
from tests.fits import Told, chain_of, optimise, run
from tests.reference import scheduler64

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2), PromptSeed("a panda", 3))
STEPS = 3
CHAIN: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0}


def objective(clip: ClipTower, salient: bool = False) -> Objective:
    saliency = SaliencySettings(SpectralResidual()) if salient else None
    return Objective({"text": TextAlignment(clip)}, {"text": 1.0}, CropSettings(num=2), saliency)


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
@pytest.mark.parametrize("salient", [False, True])
def test_the_candidate_that_the_objective_likes_best(
    models: StableDiffusion, clip_tower: ClipTower, sampler: str, salient: bool
) -> None:
    chain, goal, told = chain_of(models, sampler, **CHAIN), objective(clip_tower, salient), Told()
    results = run(BestOfN(chain, goal, 2, num_candidates=4), PAIRS, [told])
    vanilla = run(Vanilla(chain), PAIRS)
    assert told.updates == [(1, 4), (2, 4), (3, 4), (4, 4)]
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
        there = replace(pair, start=Start(result.final_latents[0]))
        sampled = LatentPairModule(chain, goal, pairs=[there]).sample()
        # 1e-5 of another batch size's kernels, and half of one of 256 values.
        torch.testing.assert_close(result.final_image, sampled[0], rtol=0, atol=1e-5 + 0.5 / 255)
        alone = float(goal.bind([pair]).evaluate(sampled))
        assert selections[result.best_step] == pytest.approx(alone, rel=1e-4)
        assert result.network_evaluations == 4 * STEPS * len(result.initial_latents)
        assert (result.num_optimization_steps, result.error) == (0, None)
        assert (result.saliency_map is None) == (not salient)
    assert any(result.best_step > 0 for result in results)


def test_batch_mates_do_not_change_a_result(models64: StableDiffusion, clip64: ClipTower) -> None:
    search = BestOfN(chain_of(models64, **CHAIN), objective(clip64, salient=True), 2, num_candidates=3)
    (alone,), together = run(search, PAIRS[1:2]), run(search, PAIRS)
    assert together[1].best_step == alone.best_step
    # float64: only the order of sums differs.
    torch.testing.assert_close(together[1].final_image, alone.final_image, rtol=0, atol=1e-10)


#: Sampler, engine, further options of the sampler, of the chain.
CHAINS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("ddim", {"name": "direct"}, {}, {}),
    ("ddim", {"name": "checkpoint"}, {}, {}),
    ("ddim", {"name": "checkpoint", "gradient_steps": 1}, {}, {}),
    ("ddim", {"name": "checkpoint", "memory_mib": 1000}, {}, {}),
    ("ddim", {"name": "checkpoint", "memory_mib": 1000, "gradient_steps": 2}, {}, {}),
    ("dpm_solver", {"name": "checkpoint"}, {}, {}),
    ("belm", {"name": "reversible", "warn_drift": 0.05, "max_drift": 0.05}, {}, {}),
    ("edict", {"name": "checkpoint"}, {}, {}),
    ("edict", {"name": "checkpoint"}, {"mixing_coeff": 1.0}, {"decode": "x"}),
    ("edict", {"name": "reversible", "gradient_steps": 2}, {}, {"decode": "x"}),
    ("edict", {"name": "reversible", "max_drift": 1.0}, {"mixing_coeff": 1.0}, {"decode": "x"}),
]


@pytest.mark.parametrize(("sampler", "engine", "sampler_options", "chain_options"), CHAINS, ids=str)
def test_the_budget_is_what_the_optimisation_is_recorded_to_use(
    models: StableDiffusion,
    clip_tower: ClipTower,
    sampler: str,
    engine: dict[str, Any],
    sampler_options: dict[str, Any],
    chain_options: dict[str, Any],
) -> None:
    chain, goal = chain_of(models, sampler, engine, sampler_options, **CHAIN, **chain_options), objective(clip_tower)
    recorded = optimise(chain, goal, PAIRS[:2], num_optimization_steps=2)[0].network_evaluations
    module = LatentPairModule(chain, goal, pairs=PAIRS[:2])
    one = run(Vanilla(chain), PAIRS[:1])[0].network_evaluations
    with torch.no_grad():
        assert module.batch_chain.optimization_calls(module.latents, 2) == recorded
    assert module.batch_chain.calls == 0
    # What is kept in memory changes no result: the search has the calls of an engine that keeps nothing.
    most = module.batch_chain.optimization_calls(None, 2)
    assert most == recorded or ("memory_mib" in engine and most > recorded)
    searched = run(BestOfN(chain, goal, 2), PAIRS[:2])[0]
    assert len(searched.history) == most // one
    assert most - one < searched.network_evaluations <= most


def test_a_step_without_a_call_is_no_truncated_one(models: StableDiffusion, clip_tower: ClipTower) -> None:
    """With steps_offset 0 the last step keeps its noise level."""
    models = replace(models, scheduler=scheduler64(steps_offset=0))
    chain = chain_of(models, "ddim", {"name": "checkpoint", "gradient_steps": 1}, **CHAIN)
    goal = objective(clip_tower)
    (result,) = optimise(chain, goal, PAIRS[:1], num_optimization_steps=1)
    module = LatentPairModule(chain, goal, pairs=PAIRS[:1])
    calls = module.batch_chain.optimization_calls(module.latents, 1)
    assert calls == result.network_evaluations == 2 * (STEPS - 1) + 1


def test_activations_that_are_kept_in_part_count(models: StableDiffusion, clip_tower: ClipTower) -> None:
    goal = objective(clip_tower)
    found = set()
    for memory in (0.5, 1.0, 2.0, 3.0):
        chain = chain_of(models, "ddim", {"name": "checkpoint", "memory_mib": memory}, **CHAIN)
        (result,) = optimise(chain, goal, PAIRS[:1], num_optimization_steps=1)
        module = LatentPairModule(chain, goal, pairs=PAIRS[:1])
        with torch.no_grad():
            assert module.batch_chain.optimization_calls(module.latents, 1) == result.network_evaluations
        found.add(result.network_evaluations)
    assert len(found) > 1  # the budgets of this test do keep different numbers of calls


def test_an_objective_that_is_never_finite_fails_the_pair(models: StableDiffusion, clip_tower: ClipTower) -> None:
    class Broken(TextAlignment):
        def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
            return super().__call__(views, targets) * torch.nan

    broken = Objective({"text": Broken(clip_tower)}, {"text": 1.0}, CropSettings(num=1))
    (result,) = run(BestOfN(chain_of(models, **CHAIN), broken, 1, 2), PAIRS[:1])
    assert result.error == "the objective was never finite"
    assert result.final_image.equal(result.initial_image) and result.best_step == 0


def test_bad_input(models: StableDiffusion, clip_tower: ClipTower) -> None:
    for numbers in ((0, None), (1, 0)):
        with pytest.raises(
            SgoolError, match=f"`num_candidates`: expected 1 or more, got {numbers[0]} and {numbers[1]}"
        ):
            BestOfN(chain_of(models, **CHAIN), objective(clip_tower), *numbers)
