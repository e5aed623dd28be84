"""Penalties, schedules of the noise, masked updates and early stops: each against its formula or a plain run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sgool.callbacks import EarlyStop, Trajectory, default_callbacks, gaussianity, norm_regularizer
from sgool.errors import SgoolError
from sgool.methods import LatentPairModule
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.prompts.seeding import first_latents, pair_generator
from sgool.saliency import SpectralResidual
from sgool.types import PromptSeed
from tests.fits import Told, chain_of, optimise, run, trajectory_of

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2))
CROPS = CropSettings(num=2)
STEPS = 2
#: Nothing but the gradient.
BARE: dict[str, Any] = {"grad_clip_value": None, "perturb_std": 0, "tie": False, "renormalize": False}


def fitted(
    models: StableDiffusion, objective: Objective, updates: int, *, sampler: str = "ddim", **callbacks: Any
) -> tuple[LatentPairModule, Trajectory]:
    chain = chain_of(models, sampler, num_inference_steps=STEPS)
    module = LatentPairModule(chain, objective, num_optimization_steps=updates, momentum=0.0)
    listed = default_callbacks(**{**BARE, **callbacks})
    run(module, PAIRS, listed)
    return module, trajectory_of(listed)


def starts(streams: int = 1) -> Tensor:
    first = torch.stack([first_latents(pair.seed, (4, 8, 8)).double() for pair in PAIRS])
    return first.expand(streams, *first.shape)


@pytest.fixture
def objective(clip64: ClipTower) -> Objective:
    return Objective({"text": TextAlignment(clip64)}, {"text": 1.0}, CROPS)


@pytest.fixture
def nothing(clip64: ClipTower) -> Objective:
    """An objective whose gradient is 0: latents move by what the callbacks do alone."""
    return Objective({"text": TextAlignment(clip64)}, {"text": 0.0}, CROPS)


def random_latents(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_gaussianity(numbers: np.ndarray, orders: Sequence[np.ndarray], dim: int) -> float:
    """Tang et al. 2024: vectors one by one, the spectral norm from singular values, probabilities before logarithms.

    As in the authors' code, the numbers in their own order count as much as all permutations together.
    """
    penalties = []
    for order in [np.arange(len(numbers)), *orders]:
        count = len(numbers) // dim
        vectors = [numbers[order][i * dim : (i + 1) * dim] for i in range(count)]
        mean = np.linalg.norm(sum(vectors) / count)
        spread = np.linalg.norm(sum(np.outer(v, v) for v in vectors) / count - np.eye(dim), 2)
        p1 = min(1.0, 2 * math.exp(-count * mean**2 / (2 * dim)))
        p2 = min(1.0, 2 * math.exp(-count * max(math.sqrt(1 + spread) - 1 - math.sqrt(dim / count), 0) ** 2 / 2))
        penalties.append(-math.log(p1) - math.log(p2))
    return penalties[0] + sum(penalties[1:]) / len(orders)


@pytest.mark.parametrize("dim", [1, 4, 5])
def test_gaussianity_is_the_formula(dim: int) -> None:
    latents = random_latents(2, 3, 2, 4, 4)
    latents[:, 1] = 1.7 * latents[:, 1] + 0.5
    orders = torch.stack([torch.stack([torch.randperm(32) for _ in range(5)]) for _ in range(3)])
    got = gaussianity(latents, orders, dim)
    for stream in range(2):
        for pair in range(3):
            expected = plain_gaussianity(latents[stream, pair].flatten().numpy(), list(orders[pair].numpy()), dim)
            assert float(got[stream, pair]) == pytest.approx(expected, abs=1e-10)  # float64, another way to the norm


@pytest.mark.parametrize(
    ("scale", "shift", "published", "gradient_norm", "gradient"),
    [
        (1.0, 0.0, 63.621536032904835, 11.094331389608396, [0.24911111239533618, 0.2938465923554626]),
        (1.2, 0.1, 152.5117355536605, 18.76953682996019, [0.4243112714632361, 0.6125557931590174]),
    ],
)
def test_gaussianity_is_that_of_the_published_code(
    scale: float, shift: float, published: float, gradient_norm: float, gradient: list[float]
) -> None:
    """Smooth latents, whose neighbours depend on each other: no shuffled order sees that.

    The numbers are those of `compute_probability_regularization` of github.com/TZW1998/Direct-Noise-Optimization
    (dno_sdxl.py, subsample 1, 3 shuffles after torch.manual_seed(0)), in float64. Its probabilities of at least 1 count
    as log 2 each, which is a constant.
    """
    rows, columns = torch.meshgrid(*[torch.arange(16.0, dtype=torch.float64)] * 2, indexing="ij")
    waves = [torch.sin(2 * math.pi * (rows + columns) / 16 + channel) for channel in range(4)]
    latents = (scale * math.sqrt(2) * torch.stack(waves) + shift)[None, None].requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(1024, generator=generator) for _ in range(3)])[None]
    penalty = gaussianity(latents, orders, 4)
    assert float(penalty.detach()) + 4 * math.log(2) == pytest.approx(published, rel=1e-12)
    (found,) = torch.autograd.grad(penalty.sum(), latents)
    assert float(found.norm()) == pytest.approx(gradient_norm, rel=1e-10)
    assert found[0, 0, 0, 0, :2].tolist() == pytest.approx(gradient, rel=1e-10)


def test_gaussianity_sees_what_is_less_like_noise() -> None:
    latents = random_latents(1, 3, 4, 8, 8)
    latents[:, 1] *= 1.5
    latents[:, 2] += 0.5
    orders = torch.stack([torch.stack([torch.randperm(256) for _ in range(20)])] * 3)
    noise, stretched, shifted = gaussianity(latents, orders, 4)[0].tolist()
    assert 0 <= noise < 0.5 < 5 < min(stretched, shifted)


def test_gradients_of_the_penalties_against_finite_differences() -> None:
    latents = (2 * random_latents(1, 2, 4, 4, 4) + 1).requires_grad_(True)
    orders = torch.stack([torch.stack([torch.randperm(64) for _ in range(2)]) for _ in range(2)])
    assert torch.autograd.gradcheck(norm_regularizer, (latents,))
    assert torch.autograd.gradcheck(lambda x: gaussianity(x, orders, 4), (latents,))
    assert float(gaussianity(latents.detach(), orders, 4).min()) > 0  # else there would be nothing to differentiate


def test_norm_regularizer_is_least_at_the_norm_of_noise() -> None:
    direction = random_latents(1, 1, 4, 8, 8)
    direction /= direction.norm()
    best = math.sqrt(255)
    here, below, above = (float(norm_regularizer(r * direction)) for r in (best, 0.9 * best, 1.1 * best))
    assert here == pytest.approx(255 / 2 - 255 * math.log(best), rel=1e-12)
    assert here < min(below, above)


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_gaussianity_joins_the_gradient_with_permutations_of_each_pair(
    models64: StableDiffusion, objective: Objective, sampler: str
) -> None:
    plain, _ = fitted(models64, objective, 1, sampler=sampler)
    options = {"weight": 0.3, "dim": 4, "permutations": 3}
    pushed, trajectory = fitted(models64, objective, 1, sampler=sampler, gaussianity=options)
    first = starts(len(plain.latents)).clone().requires_grad_(True)
    for index, pair in enumerate(PAIRS):
        generator = pair_generator(pair.seed, "gaussianity", 0)
        orders = torch.stack([torch.randperm(256, generator=generator) for _ in range(3)])
        penalty = gaussianity(first[:, index : index + 1], orders[None], 4).mean()
        (gradient,) = torch.autograd.grad(penalty, first)
        difference = (pushed.latents - plain.latents).detach()[:, index]
        # Learning rate 1. First latents of size 1 are subtracted: float64's last digits.
        torch.testing.assert_close(difference, -0.3 * gradient[:, index], rtol=0, atol=1e-13)
        assert trajectory.history[index][0]["gaussianity"] == pytest.approx(float(penalty), rel=1e-10)
    assert float((pushed.latents - plain.latents).abs().max()) > 1e-4
    assert set(trajectory.history[0][1]) >= {"gaussianity"}  # of the last latents as well


def test_too_long_vectors(models64: StableDiffusion, objective: Objective) -> None:
    with pytest.raises(
        SgoolError, match=r"`optimization\.gaussianity\.dim`: expected at most 256, the number of latents, got 300"
    ):
        fitted(models64, objective, 1, gaussianity={"weight": 1.0, "dim": 300})


@pytest.mark.parametrize("schedule", ["constant", "linear", "spherical"])
@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_schedules_of_the_noise(models64: StableDiffusion, nothing: Objective, schedule: str, sampler: str) -> None:
    module, trajectory = fitted(
        models64, nothing, 3, sampler=sampler, perturb_std=0.2, perturb_schedule=schedule, keep="last"
    )
    for index, pair in enumerate(PAIRS):
        expected = starts()[0, index]
        for update in range(3):
            noise = torch.randn((4, 8, 8), generator=pair_generator(pair.seed, "perturb", update)).double()
            if schedule == "spherical":
                length = expected.norm() / noise.norm()
                expected = math.cos(0.2) * expected + math.sin(0.2) * length * noise
            else:
                expected = expected + 0.2 * noise * ((3 - update) / 3 if schedule == "linear" else 1)
        for stream in module.latents.detach():
            torch.testing.assert_close(stream[index], expected, rtol=0, atol=1e-12)
        norms = [row["latent_norm"] for row in trajectory.history[index]]
        if schedule == "spherical":  # a cosine of 1/16 between noises of 256 numbers is usual
            assert norms == pytest.approx([norms[0]] * 4, rel=0.05)


def test_the_saliency_mask_weights_the_gradient(models64: StableDiffusion, clip64: ClipTower) -> None:
    salient = Objective(
        {"text": TextAlignment(clip64)}, {"text": 1.0}, CROPS, SaliencySettings(SpectralResidual(), min_side=0.5)
    )
    plain, _ = fitted(models64, salient, 1)
    masked, _ = fitted(models64, salient, 1, saliency_mask=True)
    first = LatentPairModule(chain_of(models64, num_inference_steps=STEPS), salient, pairs=PAIRS)
    detected = SpectralResidual()(first.sample())
    # 32 pixels, 8 latents: each latent's share is the mean of 4 x 4 pixels, of the 8 bits that are kept.
    weights = ((255 * detected).round() / 255).view(2, 1, 8, 4, 8, 4).mean(dim=(3, 5))
    assert float(weights.min()) < 0.2 < 0.5 < float(weights.max())
    expected = (plain.latents.detach() - starts()) * weights
    torch.testing.assert_close(masked.latents.detach() - starts(), expected, rtol=0, atol=1e-13)


def test_a_mask_needs_saliency(models64: StableDiffusion, objective: Objective) -> None:
    with pytest.raises(SgoolError, match=r"`optimization\.saliency_mask`: expected an objective with saliency"):
        fitted(models64, objective, 1, saliency_mask=True)


class Scripted:
    """A held-out term whose value at each evaluation is given for each seed; it looks at nothing."""

    name, input_size = "held", 8

    def __init__(self, script: dict[int, list[float]]) -> None:
        self._script, self._asked = script, 0

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        self._asked = 0
        return torch.tensor([[float(pair.seed)] for pair in pairs])

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        values = [self._script[int(seed)][min(self._asked, 4)] for seed in targets[:, 0]]
        self._asked += 1
        return views.new_tensor(values)


ONE_BY_ONE = {"pairs_per_fit": 1}
FALLING, TURNING = [5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 6.0, 4.5, 3.0]


def optimised(models: StableDiffusion, objective: Objective, updates: int = 4, **options: Any) -> list[Any]:
    chain = chain_of(models, num_inference_steps=STEPS, guidance_scale=3.0)
    settings = {"num_optimization_steps": updates, "lr": 50.0, "keep": "last", "snapshot_every": 1, **options}
    return optimise(chain, objective, PAIRS, **settings)


def test_a_pair_stops_where_the_held_out_term_gets_worse(models64: StableDiffusion, objective: Objective) -> None:
    stop = EarlyStop(Scripted({1: FALLING, 2: TURNING}), 2)
    going, stopped = optimised(models64, objective, early_stop=stop)
    whole = optimised(models64, objective)
    shorter = optimised(models64, objective, updates=3)
    # The other of the batch went on as if nothing had happened.
    assert going.final_latents.equal(whole[0].final_latents) and going.num_optimization_steps == 4
    assert [row["held_out"] for row in going.history] == FALLING
    # Its lowest value is that of update 1; updates 2 and 3 are above: it rests at update 3.
    assert stopped.final_latents.equal(shorter[1].final_latents) and stopped.final_image.equal(shorter[1].final_image)
    assert [row["held_out"] for row in stopped.history] == TURNING[:4]
    assert (stopped.num_optimization_steps, stopped.best_step, stopped.error) == (3, 3, None)
    assert [update for update, _ in stopped.snapshots] == [0, 1, 2, 3]
    # Four evaluations with their recomputation; the others' last evaluation is no cost of it.
    assert (stopped.network_evaluations, going.network_evaluations) == (4 * 2 * STEPS, (4 * 2 + 1) * STEPS)


def test_a_fit_ends_when_all_pairs_have_stopped(models64: StableDiffusion, objective: Objective) -> None:
    stop, told = EarlyStop(Scripted({1: TURNING, 2: [1.0, 2.0, 3.0, 4.0, 5.0]}), 1), Told()
    results = optimised(models64, objective, 50, early_stop=stop, callbacks=[told])
    assert [result.num_optimization_steps for result in results] == [2, 1]
    assert [result.network_evaluations for result in results] == [3 * 2 * STEPS, 2 * 2 * STEPS]
    assert told.updates == [(1, 50), (2, 50), (3, 50)]


def test_the_batch_after_one_that_stopped_has_all_its_updates(models64: StableDiffusion, objective: Objective) -> None:
    """What stopped the pairs of a batch is no longer known to the next one."""
    script = {1: [1.0, 2.0, 3.0, 4.0, 5.0], 2: FALLING}
    stopped, going = optimised(models64, objective, early_stop=EarlyStop(Scripted(script), 1), trainer=ONE_BY_ONE)
    _, whole = optimised(models64, objective, trainer=ONE_BY_ONE)
    assert (stopped.num_optimization_steps, going.num_optimization_steps) == (1, 4)
    assert going.final_latents.equal(whole.final_latents) and going.network_evaluations == whole.network_evaluations


def test_patience_is_at_least_one(clip64: ClipTower) -> None:
    with pytest.raises(SgoolError, match=r"`optimization\.early_stop\.patience`: expected 1 or more, got 0"):
        EarlyStop(TextAlignment(clip64), 0)


def test_nesterov_needs_momentum(models64: StableDiffusion, objective: Objective) -> None:
    with pytest.raises(SgoolError, match=r"`optimization\.nesterov`: expected a momentum above 0, got 0"):
        LatentPairModule(chain_of(models64), objective, momentum=0.0, nesterov=True)
