"""Gradients through the whole chain: against finite differences, and of one engine against the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sgool.diffusion import NoisePredictor, build_engine, build_sampler, build_schedule, decode_latents, denoise
from sgool.models.load import DiffusionModels
from tests.reference import Chain, scheduler64

CASES = [
    ("ddim", 3, 7.5, "epsilon"),
    ("ddim", 4, 1.0, "v_prediction"),
    ("edict", 3, 7.5, "epsilon"),
    ("edict", 4, 7.5, "epsilon"),
    ("edict", 3, 1.0, "sample"),
    ("edict", 2, 3.0, "v_prediction"),
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Problem:
    """A scalar of the last latents of two prompts and how it is computed."""

    def __init__(self, models: DiffusionModels, sampler: str, steps: int, guidance: float, prediction: str) -> None:
        self.schedule = build_schedule(scheduler64(prediction_type=prediction), steps)
        self.sampler = build_sampler(sampler)
        text, negative = models.encode_prompts(["a red cat", "trees"]), models.encode_prompts(["", "a house"])
        self.make = lambda: NoisePredictor(
            models.unet, text, None if guidance == 1 else negative, guidance, self.schedule.prediction_type
        )
        self.start = randn(self.sampler.num_streams, 2, 4, 8, 8)
        self.weight = randn(*self.start.shape, seed=1)

    def value(self, latents: Tensor, engine: str = "direct", predict: NoisePredictor | None = None) -> Tensor:
        final = denoise(latents, self.schedule, self.sampler, predict or self.make(), build_engine(engine))
        return (self.weight * torch.tanh(final)).sum()

    def gradient(self, engine: str, predict: NoisePredictor | None = None) -> Tensor:
        leaf = self.start.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.value(leaf, engine, predict), leaf)
        return gradient


def slope(function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, h: float = 1e-4) -> float:
    """Directional derivative by central differences of fourth order."""
    with torch.no_grad():
        far, near = (function(point + k * h * direction) - function(point - k * h * direction) for k in (2, 1))
    return float(8 * near - far) / (12 * h)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_direct_equals_finite_differences(models64: DiffusionModels, case: tuple[str, int, float, str]) -> None:
    problem = Problem(models64, *case)
    gradient = problem.gradient("direct")
    for seed in (2, 3):
        direction = randn(*problem.start.shape, seed=seed)
        direction /= direction.norm()
        expected = slope(problem.value, problem.start, direction)
        # Fourth order differences at h = 1e-4: rounding 1e-16 / h, truncation h^4. Relative to the gradient's size
        # in a random direction, so that a direction almost at right angles does not ask for more than float64 has.
        scale = max(abs(expected), float(gradient.norm()) / problem.start.numel() ** 0.5)
        assert abs(float((gradient * direction).sum()) - expected) <= 1e-6 * scale


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_checkpoint_equals_direct_and_calls_are_counted(
    models64: DiffusionModels, case: tuple[str, int, float, str]
) -> None:
    problem = Problem(models64, *case)
    gradients = {}
    for name in ("direct", "checkpoint"):
        predict = problem.make()
        gradients[name] = problem.gradient(name, predict)
        calls = problem.sampler.network_calls(problem.schedule.steps)
        assert predict.calls == calls * build_engine(name).calls_factor
    assert float(gradients["direct"].abs().max()) > 1e-3
    # The same operations in the same order: equal up to nondeterminism of the kernels.
    torch.testing.assert_close(gradients["checkpoint"], gradients["direct"], rtol=0, atol=1e-9)


def test_guidance_one_is_one_pass_without_the_negative_prompt(models64: DiffusionModels) -> None:
    rows: list[int] = []
    hook = models64.unet.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    try:
        for guidance in (1.0, 2.0):
            problem = Problem(models64, "ddim", 1, guidance, "epsilon")
            problem.value(problem.start)
    finally:
        hook.remove()
    assert rows == [2, 4]


@pytest.mark.parametrize("streams", [1, 2])
def test_gradient_equals_that_of_the_slow_chain(models64: DiffusionModels, streams: int) -> None:
    models = replace(models64, scheduler=scheduler64(steps_offset=0))
    schedule = build_schedule(models.scheduler, 4)
    text, negative = models.encode_prompts(["a red cat"]), models.encode_prompts([""])
    start = randn(streams, 1, 4, 8, 8).requires_grad_(True)
    sampler = build_sampler("edict" if streams == 2 else "ddim")
    predict = NoisePredictor(models.unet, text, negative, 7.5)
    fast = denoise(start, schedule, sampler, predict, build_engine("checkpoint"))
    chain = Chain(models.unet, text, negative, 4, offset=0)
    slow = torch.stack(chain.edict(*start)) if streams == 2 else chain.ddim(start[0])[None]
    weight = randn(*start.shape, seed=5)
    gradients = [torch.autograd.grad((weight * out).sum(), start)[0] for out in (fast, slow)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_weights_get_no_gradient_and_no_graph_without_need(models64: DiffusionModels) -> None:
    problem = Problem(models64, "ddim", 2, 7.5, "epsilon")
    problem.value(problem.start.clone().requires_grad_(True), "checkpoint").backward()
    assert all(p.grad is None and not p.requires_grad for p in models64.unet.parameters())
    assert not problem.value(problem.start, "checkpoint").requires_grad


@pytest.mark.parametrize("shift", [None, 0.3])
@pytest.mark.parametrize("use_checkpoint", [True, False])
def test_decode(models64: DiffusionModels, shift: float | None, use_checkpoint: bool) -> None:
    vae, latents = models64.vae, randn(2, 4, 8, 8).requires_grad_(True)
    old = vae.config.scaling_factor, vae.config.shift_factor
    vae.register_to_config(scaling_factor=0.25, shift_factor=shift)
    try:
        images = decode_latents(vae, latents, use_checkpoint=use_checkpoint)
    finally:
        vae.register_to_config(scaling_factor=old[0], shift_factor=old[1])
    expected = (vae.decode(latents / 0.25 + (shift or 0)).sample + 1) / 2
    assert images.shape == (2, 3, 32, 32) and images.dtype == torch.float64
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(out.square().sum(), latents)[0] for out in (images, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


def test_decode_in_half_precision_gives_float32(models: DiffusionModels) -> None:
    latents = randn(1, 4, 8, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        images = decode_latents(models.vae, latents)
    assert images.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa; a dozen layers.
    torch.testing.assert_close(images, decode_latents(models.vae, latents), rtol=0, atol=0.05)
