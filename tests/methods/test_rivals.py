"""Zero-order search, evolution and FK steering: their rules against loops of their own, resumed, and in batches."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.callbacks import BatchCheckpoint
from sgool.errors import Interrupted, SgoolError
from sgool.methods import BestOfN, Evolution, FKSteering, PairModule, Vanilla, ZeroOrder
from sgool.methods.evolution import child
from sgool.methods.fk_steering import fresh_noise
from sgool.methods.particles import Particles
from sgool.methods.resampling import RESAMPLERS, effective_share, normalised
from sgool.methods.zero_order import neighbour
from sgool.models.clip import ClipTower
from sgool.models.schedule import Step
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.prompts.seeding import pair_generator
from sgool.saliency import SpectralResidual
from sgool.types import PromptSeed
from tests.fits import assert_same, chain_of, run

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2), PromptSeed("a panda", 3))
STEPS = 4
CHAIN: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0}


def objective(clip: ClipTower, salient: bool = False) -> Objective:
    saliency = SaliencySettings(SpectralResidual()) if salient else None
    return Objective({"text": TextAlignment(clip)}, {"text": 1.0}, CropSettings(num=2), saliency)


def score_of(chain: Any, goal: Objective, pair: PromptSeed, latents: Tensor) -> float:
    """Of first latents (C, h, w), alone."""
    with torch.no_grad():
        images = chain.with_prompts([pair.prompt])(latents[None, None]).images[0].clamp(0, 1)
    return float(goal.bind([pair]).evaluate(images))


def test_a_neighbour_has_the_norm_and_the_angle() -> None:
    pivot = torch.randn(4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for threshold in (0.0, 0.5, 0.95):
        found = neighbour(pivot, threshold, torch.Generator().manual_seed(1))
        # 1e-12: float64, sums of 256 squares.
        assert float(found.norm()) == pytest.approx(float(pivot.norm()), abs=1e-12)
        cosine = (found * pivot).sum() / found.norm() / pivot.norm()
        assert float(cosine) == pytest.approx(threshold, abs=1e-12)
    assert neighbour(pivot.float(), 0.5, torch.Generator().manual_seed(1)).dtype == torch.float32


def test_zero_order_is_a_loop_over_rounds(models64: StableDiffusion, clip64: ClipTower) -> None:
    """Each pair alone: rounds of three neighbours, and two of a round that the number of candidates cuts off."""
    chain, goal = chain_of(models64, **CHAIN), objective(clip64)
    results = run(ZeroOrder(chain, goal, num_candidates=12, num_neighbours=3, threshold=0.7), PAIRS)
    moved = 0
    for pair, result in zip(PAIRS, results, strict=True):
        pivot = result.initial_latents[0]
        scores = [score_of(chain, goal, pair, pivot)]
        lowest, number = scores[0], 0
        for rounds in (range(1, 4), range(4, 7), range(7, 10), range(10, 12)):
            tried = [neighbour(pivot, 0.7, pair_generator(pair.seed, "zero_order", index)) for index in rounds]
            own = [score_of(chain, goal, pair, latents) for latents in tried]
            scores += own
            if min(own) < lowest:
                lowest = min(own)
                pivot, number = tried[own.index(lowest)], rounds[own.index(lowest)]
                moved += 1
        # 1e-9: float64, only the order of sums in a batch differs.
        assert [row["selection"] for row in result.history] == pytest.approx(scores, abs=1e-9)
        assert result.best_step == number
        torch.testing.assert_close(result.final_latents[0], pivot, rtol=0, atol=1e-12)
    assert moved > 3


def test_a_child_comes_from_the_better_of_two_and_two() -> None:
    population = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 16, 16)
    seen = Counter()
    for seed in range(400):
        found = child(population, [3.0, 2.0, 1.0, 0.0], 0.0, torch.Generator().manual_seed(seed))
        values = found.unique().tolist()
        assert set(values) <= {0.0, 1.0, 2.0, 3.0} and len(values) <= 2
        seen.update(values if len(values) == 2 else values * 2)
    # A parent is member k with the chance ((k + 1)^2 - k^2) / 16: the better of two. 800 parents, 4 deviations.
    for member in range(4):
        chance = (2 * member + 1) / 16
        assert abs(seen[float(member)] - 800 * chance) < 4 * math.sqrt(800 * chance * (1 - chance))


def test_children_are_noise_as_the_model_knows_it() -> None:
    generator = torch.Generator().manual_seed(0)
    population = torch.randn(4, 4, 64, 64, generator=generator)
    for mutation in (0.0, 0.3, 1.0):
        found = child(population, [0.0, 1.0, 2.0, 3.0], mutation, generator)
        # 16,384 numbers: the deviation of their mean is 0.008, that of their variance 0.011; four of each.
        assert abs(float(found.mean())) < 0.032 and abs(float(found.var()) - 1) < 0.044


def test_evolution_is_a_loop_over_generations(models64: StableDiffusion, clip64: ClipTower) -> None:
    chain, goal = chain_of(models64, **CHAIN), objective(clip64)
    settings = {"population": 4, "num_elites": 1, "mutation": 0.4}
    results = run(Evolution(chain, goal, num_candidates=12, **settings), PAIRS)
    first = run(BestOfN(chain, goal, num_candidates=4), PAIRS)
    for pair, result, seeds in zip(PAIRS, results, first, strict=True):
        assert [row["selection"] for row in result.history[:4]] == [row["selection"] for row in seeds.history]
        own = result.initial_latents[0]
        drawn = [own] + [
            torch.randn(own.shape, generator=pair_generator(pair.seed, "best_of_n", k)).to(own) for k in (1, 2, 3)
        ]
        members = [(latents, score_of(chain, goal, pair, latents)) for latents in drawn]
        scores, index = [score for _, score in members], 4
        while index < 12:
            parents, members = members, sorted(members, key=lambda member: member[1])[:1]
            stacked, values = torch.stack([latents for latents, _ in parents]), [score for _, score in parents]
            while len(members) < 4 and index < 12:
                latents = child(stacked, values, 0.4, pair_generator(pair.seed, "evolution", index))
                members.append((latents, score_of(chain, goal, pair, latents)))
                scores.append(members[-1][1])
                index += 1
        # 1e-9: float64, only the order of sums in a batch differs.
        assert [row["selection"] for row in result.history] == pytest.approx(scores, abs=1e-9)
        assert result.best_step == scores.index(min(scores))


WEIGHTS = torch.tensor([0.05, 0.4, 0.0, 0.3, 0.25], dtype=torch.float64)


@pytest.mark.parametrize("name", list(RESAMPLERS))
def test_resamplers_take_particles_as_often_as_their_weights_say(name: str) -> None:
    """Definition: k particles, k w_i of each on average; systematic and SSP never off by 1 or more."""
    generator, draws, number = torch.Generator().manual_seed(0), 4000, len(WEIGHTS)
    total = torch.zeros(number, dtype=torch.float64)
    for _ in range(draws):
        taken = RESAMPLERS[name](WEIGHTS, generator)
        counts = torch.bincount(taken, minlength=number)
        assert len(taken) == number and taken.equal(taken.sort().values)
        if name != "multinomial":
            assert bool(((counts - number * WEIGHTS).abs() < 1 - 1e-9).all())
        total += counts
    # A count's variance is at most k w (1 - w), that of independent draws; four deviations of the mean.
    bound = 4 * (number * WEIGHTS * (1 - WEIGHTS) / draws).sqrt() + 1e-12
    assert bool(((total / draws - number * WEIGHTS).abs() <= bound).all())


def test_systematic_resampling_is_its_definition() -> None:
    for seed in range(50):
        taken = RESAMPLERS["systematic"](WEIGHTS, torch.Generator().manual_seed(seed))
        offset = float(torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        points = [(index + offset) / 5 for index in range(5)]
        ends = WEIGHTS.cumsum(0).tolist()
        assert taken.tolist() == [next(i for i, end in enumerate(ends) if point < end) for point in points]


def test_equal_weights_leave_every_particle_once() -> None:
    for name in ("systematic", "ssp"):
        for number in (1, 3, 7):
            weights = normalised([2.5] * number)
            assert RESAMPLERS[name](weights, torch.Generator().manual_seed(0)).tolist() == list(range(number))
    assert normalised([-math.inf, -math.inf]).tolist() == [0.5, 0.5]
    assert normalised([0.0, -math.inf]).tolist() == [1.0, 0.0]
    # 1e-12: float64.
    assert effective_share(normalised([0.0] * 4)) == pytest.approx(1, abs=1e-12)
    assert effective_share(normalised([0.0, -math.inf, -math.inf, -math.inf])) == pytest.approx(0.25, abs=1e-12)


#: Scores of two particles at three times; ess 1e-9 lets the weights add up.
SCORES = ([0.5, 0.3], [0.2, 0.4], [0.6, 0.5])


@pytest.mark.parametrize(
    ("potential", "exponents"),
    [
        ("max", [-0.5 - 0.2 - 0.2, -0.3 - 0.3 - 0.3]),
        ("difference", [-0.6, -0.5]),
        ("sum", [-0.5 - 0.7 - 1.3, -0.3 - 0.7 - 1.2]),
    ],
)
def test_potentials_are_those_of_the_paper(potential: str, exponents: list[float]) -> None:
    """Without a resampling, weights are the products of the potentials; those of ``difference`` telescope."""
    swarm = Particles(torch.zeros(2, 1, 1, 1, 1), potential, 3.0, "systematic", 1e-9)
    for scores in SCORES:
        rows, taken = swarm.resample([[score] for score in scores], [torch.Generator()])
        assert taken.tolist() == [[0], [1]]
    assert rows[0]["selection"] == min(SCORES[-1]) and rows[0]["loss"] == pytest.approx(sum(SCORES[-1]) / 2)
    expected = torch.softmax(3 * torch.tensor(exponents, dtype=torch.float64), 0)
    # 1e-12: float64.
    assert rows[0]["ess"] == pytest.approx(float(1 / expected.square().sum() / 2), abs=1e-12)


def test_a_particle_that_is_not_finite_is_not_taken() -> None:
    for potential in ("max", "difference", "sum"):
        swarm = Particles(torch.zeros(3, 2, 1, 1, 1), potential, 3.0, "systematic", 1.0)
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        for _ in range(2):
            _, taken = swarm.resample([[math.inf, 0.5], [0.5, 0.5], [0.5, 0.5]], generators)
            assert 0 not in taken[:, 0].tolist() and taken[:, 1].tolist() == [0, 1, 2]


def test_what_particles_showed_does_not_count_once_none_was_finite() -> None:
    swarm = Particles(torch.zeros(3, 1, 1, 1, 1), "sum", 3.0, "systematic", 1e-9)
    rows, _ = swarm.resample([[math.inf]] * 3, [torch.Generator()])
    assert rows[0]["ess"] == 1 and math.isnan(rows[0]["loss"])
    rows, _ = swarm.resample([[0.0], [1.0], [2.0]], [torch.Generator()])
    expected = torch.softmax(-3 * torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), 0)
    # 1e-12: float64.
    assert rows[0]["ess"] == pytest.approx(float(1 / expected.square().sum() / 3), abs=1e-12)


@pytest.mark.parametrize("levels", [(0.6, 0.8, 0.8, 0.6), (0.25, 0.75, 0.5, 0.5), (0.75, 0.25, 0.9, 0.1)])
def test_fresh_noise_is_that_of_the_posterior(levels: tuple[float, float, float, float]) -> None:
    """Of the latents after a step, given those before it and the clean ones, for a diffusion and for two flows."""
    alpha, sigma, alpha_prev, sigma_prev = levels
    ratio = alpha / alpha_prev
    precision = 1 / sigma_prev**2 + ratio**2 / (sigma**2 - ratio**2 * sigma_prev**2)
    # 1e-12: float64, a few operations.
    assert fresh_noise(Step(0, 500, *levels), 1.0) == pytest.approx(math.sqrt(1 / precision), abs=1e-12)


def test_fk_steering_is_a_loop_over_particles(models64: StableDiffusion, clip64: ClipTower) -> None:
    """Each pair alone, with DDIM's formula (Song et al. 2021, eq. 12 and 16) and the published potential."""
    chain, goal = chain_of(models64, **CHAIN), objective(clip64)
    settings = {"particles": 3, "scale": 500.0, "resample_every": 1, "resampling": "ssp", "eta": 0.7}
    results = run(FKSteering(chain, goal, **settings), PAIRS)
    copied = 0
    for pair, result in zip(PAIRS, results, strict=True):
        bound, network = goal.bind([pair]), chain.with_prompts([pair.prompt]).network
        own = result.initial_latents
        draws = [torch.randn(own.shape[1:], generator=pair_generator(pair.seed, "best_of_n", k)) for k in (1, 2)]
        latents = [own, *(drawn[None].to(own) for drawn in draws)]
        highest = [-math.inf] * 3
        for at, step in enumerate(chain.schedule.steps):
            with torch.no_grad():
                noises = [network(x, step) for x in latents]
            cleans = [(x - step.sigma * eps) / step.alpha for x, eps in zip(latents, noises, strict=True)]
            if at:
                scores = [float(bound.evaluate(chain.decode(clean).clamp(0, 1))) for clean in cleans]
                highest = [max(high, -score) for high, score in zip(highest, scores, strict=True)]
                weights = torch.softmax(500 * torch.tensor(highest, dtype=torch.float64), 0)
                taken = RESAMPLERS["ssp"](weights, pair_generator(pair.seed, "resample0", at)).tolist()
                copied += len(set(taken)) < 3
                cleans, noises = [cleans[k] for k in taken], [noises[k] for k in taken]
                highest = [highest[k] for k in taken]
            before, after = step.alpha**2, step.alpha_prev**2
            fresh = 0.7 * math.sqrt((1 - after) / (1 - before)) * math.sqrt(1 - before / after)
            assert fresh_noise(step, 0.7) == pytest.approx(fresh, abs=1e-12)
            latents = []
            for particle, (clean, eps) in enumerate(zip(cleans, noises, strict=True)):
                drawn = torch.randn(
                    own.shape[1:], generator=pair_generator(pair.seed, f"fk_steering{particle}", step.index)
                )
                kept = math.sqrt(1 - after - fresh**2)
                latents.append(step.alpha_prev * clean + kept * eps + fresh * drawn.to(own))
        scores = [float(bound.evaluate(chain.decode(x).clamp(0, 1))) for x in latents]
        # 1e-9: float64, only the order of sums differs.
        assert result.history[-1]["selection"] == pytest.approx(min(scores), abs=1e-9)
        assert result.network_evaluations == 3 * STEPS and result.error is None
        assert [row["update"] for row in result.history] == list(range(STEPS + 1))
    assert copied > 1  # particles did take the place of others


def test_without_fresh_noise_and_weights_it_is_vanilla(models64: StableDiffusion, clip64: ClipTower) -> None:
    chain, goal = chain_of(models64, **CHAIN), objective(clip64)
    steered = run(FKSteering(chain, goal, particles=1, eta=1e-9), PAIRS)
    for one, plain in zip(steered, run(Vanilla(chain), PAIRS), strict=True):
        # Noise of 1e-9, which the network may amplify, and rounding to 8 bits.
        torch.testing.assert_close(one.final_image, plain.final_image, rtol=0, atol=1.01 / 255)
        assert one.initial_image.equal(plain.final_image) and one.initial_latents.equal(plain.initial_latents)


RIVALS: list[tuple[Any, dict[str, Any]]] = [
    (ZeroOrder, {"num_candidates": 6, "num_neighbours": 2}),
    (Evolution, {"num_candidates": 7, "population": 3, "num_elites": 1}),
    (FKSteering, {"particles": 2, "resample_every": 1, "scale": 100.0}),
]


@pytest.mark.parametrize(("kind", "options"), RIVALS, ids=lambda value: getattr(value, "__name__", ""))
def test_they_go_on_to_the_same_bits(
    models: StableDiffusion, clip_tower: ClipTower, tmp_path: Path, kind: Any, options: dict[str, Any]
) -> None:
    file = tmp_path / "it.ckpt"

    def module() -> PairModule:
        own: PairModule = kind(chain_of(models, **CHAIN), objective(clip_tower, salient=True), **options)
        return own

    expected = run(module(), PAIRS)
    for stop_after in range(1, module().num_rounds):
        asked = iter([False] * (stop_after - 1) + [True] * 99)
        with pytest.raises(Interrupted, match=f"stopped after {stop_after} of {module().num_rounds}"):
            run(module(), PAIRS, [BatchCheckpoint(lambda _: file, interrupted=asked.__next__)])
        assert_same(run(module(), PAIRS, [BatchCheckpoint(lambda _: file)]), expected)
        file.unlink()
    assert all(result.saliency_map is not None for result in expected)


@pytest.mark.parametrize(("kind", "options"), RIVALS, ids=lambda value: getattr(value, "__name__", ""))
def test_batch_mates_do_not_change_a_result(
    models64: StableDiffusion, clip64: ClipTower, kind: Any, options: dict[str, Any]
) -> None:
    chain, goal = chain_of(models64, **CHAIN), objective(clip64)
    (alone,), together = (run(kind(chain, goal, **options), pairs) for pairs in (PAIRS[1:2], PAIRS))
    assert together[1].best_step == alone.best_step
    # float64: only the order of sums differs; images are rounded to 8 bits.
    torch.testing.assert_close(together[1].final_image, alone.final_image, rtol=0, atol=1.01 / 255)
    found, expected = together[1].history[-1]["selection"], alone.history[-1]["selection"]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sampler", ["edict", "belm"])
def test_searches_work_with_every_sampler(models: StableDiffusion, clip_tower: ClipTower, sampler: str) -> None:
    chain, goal = chain_of(models, sampler, **CHAIN), objective(clip_tower)
    for kind, options in RIVALS[:2]:
        for result in run(kind(chain, goal, **options), PAIRS[:2]):
            assert result.error is None and len(result.final_latents) == chain.num_streams
    with pytest.raises(SgoolError, match=r"fk_steering: expected sampler=ddim, which has a step with fresh noise"):
        FKSteering(chain, goal)


def test_bad_input(models: StableDiffusion, clip_tower: ClipTower) -> None:
    chain, goal = chain_of(models, **CHAIN), objective(clip_tower)
    with pytest.raises(SgoolError, match=r"`threshold`: expected 1 or more and a number .* got 0 and 1\.5"):
        ZeroOrder(chain, goal, num_neighbours=0, threshold=1.5)
    with pytest.raises(SgoolError, match=r"expected 2 or more members, fewer elites, .* got 2, 2 and 0\.3"):
        Evolution(chain, goal, population=2)
    wrong = {"particles": 0, "potential": "min", "scale": -1.0, "resampling": "none", "ess_threshold": 0, "eta": 2}
    with pytest.raises(SgoolError) as caught:
        FKSteering(chain, goal, **wrong)
    for said in (
        "`particles`: expected 1 or more, got 0",
        "`potential`: expected one of max, difference, sum, got 'min'",
        "`resampling`: expected one of systematic, ssp, multinomial, got 'none'",
        "`scale`: expected a number of at least 0, got -1.0",
        "`ess_threshold`: expected a number above 0 and at most 1, got 0",
        "`eta`: expected a number above 0 and at most 1, got 2",
    ):
        assert said in str(caught.value)


def test_an_objective_that_is_never_finite_fails_the_pair(models: StableDiffusion, clip_tower: ClipTower) -> None:
    class Broken(TextAlignment):
        def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
            return super().__call__(views, targets) * torch.nan

    broken = Objective({"text": Broken(clip_tower)}, {"text": 1.0}, CropSettings(num=1))
    pair = replace(PAIRS[0], negative_prompt="blue")
    for kind, options in RIVALS:
        (result,) = run(kind(chain_of(models, **CHAIN), broken, **options), [pair])
        assert result.error == "the objective was never finite"
        assert result.final_image.equal(result.initial_image)
