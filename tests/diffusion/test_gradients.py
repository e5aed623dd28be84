"""Gradients through the whole chain: against finite differences, a slow second chain, and each pair alone; decoding."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.diffusion import Chain, GuidedModel
from sgool.errors import SgoolError
from sgool.methods.latent_pairs import LatentPairModule
from sgool.models.autoencoder import decode_latents
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, TextAlignment
from sgool.prompts.batches import PairBatch
from sgool.types import PromptSeed
from tests import reference
from tests.diffusion.problem import Problem, counted, off, randn
from tests.reference import scheduler64

CASES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("ddim", 3, 7.5, "epsilon"), {}),
    (("ddim", 4, 1.0, "v_prediction"), {"offset": 0}),
    (("ddim", 2, 3.0, "sample"), {}),
    (("edict", 3, 7.5, "epsilon"), {}),
    (("edict", 4, 3.0, "v_prediction"), {"mixing_coeff": 1.0}),
    (("edict", 3, 1.0, "sample"), {"leapfrog": False}),
    (("belm", 4, 7.5, "epsilon"), {"split": True}),
    (("belm", 3, 1.0, "v_prediction"), {"offset": 0}),
    (("belm", 2, 3.0, "sample"), {}),
    (("bdia", 4, 3.0, "epsilon"), {}),
    (("bdia", 3, 1.0, "v_prediction"), {"gamma": 0.5}),
    (("dpm_solver", 5, 7.5, "epsilon"), {}),
    (("dpm_solver", 4, 1.0, "sample"), {}),
    (("dpm_solver", 3, 3.0, "v_prediction"), {}),
]


def slope(function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, h: float = 1e-4) -> float:
    """Directional derivative by central differences of fourth order."""
    with torch.no_grad():
        far, near = (function(point + k * h * direction) - function(point - k * h * direction) for k in (2, 1))
    return float(8 * near - far) / (12 * h)


@pytest.mark.parametrize(("case", "options"), CASES, ids=lambda part: "-".join(map(str, part)))
def test_direct_equals_finite_differences(
    models64: StableDiffusion, case: tuple[Any, ...], options: dict[str, Any]
) -> None:
    problem = Problem(models64, *case, prompts=(0, 1), **options)
    gradient = problem.gradient("direct")
    assert float(gradient.abs().max()) > 1e-3
    for seed in (2, 3):
        direction = randn(*problem.start.shape, seed=seed)
        direction /= direction.norm()
        expected = slope(problem.value, problem.start, direction)
        # Fourth order differences at h = 1e-4: rounding 1e-16 / h, truncation h^4. Relative to the gradient's size
        # in a random direction, so that a direction almost at right angles does not ask for more than float64 has.
        scale = max(abs(expected), float(gradient.norm()) / problem.start.numel() ** 0.5)
        assert abs(float((gradient * direction).sum()) - expected) <= 1e-6 * scale


def test_guidance_one_is_one_pass_without_the_negative_prompt(models64: StableDiffusion) -> None:
    with counted(models64.unet) as count:
        for guidance in (-2.0, 0.0, 0.5, 1.0, 2.0):
            problem = Problem(models64, "ddim", 1, guidance, prompts=(0, 1))
            problem.value(problem.start)
    assert count.forward == [2, 2, 2, 2, 4]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("sampler", "engine"),
    [
        ("ddim", "direct"),
        ("ddim", "checkpoint"),
        ("edict", "checkpoint"),
        ("edict", "reversible"),
        ("belm", "reversible"),
        ("bdia", "checkpoint"),
        ("dpm_solver", "direct"),
    ],
)
def test_guidance_below_one_is_off_for_every_sampler_and_engine(
    models64: StableDiffusion, sampler: str, engine: str, split: bool
) -> None:
    """As in diffusers: `do_classifier_free_guidance` is `guidance_scale > 1`. At 0 all prompts had the same picture."""
    found = []
    for prompt, guidance in (("a red cat", 1.0), ("a red cat", 0.0), ("a red cat", 0.5), ("a blue house", 0.0)):
        options = {"num_inference_steps": 3, "guidance_scale": guidance, "split_guidance": split}
        chain = Chain(models64, sampler=sampler, engine=engine, **options).with_prompts([prompt])
        start = randn(chain.num_streams, 1, 4, 8, 8).requires_grad_(True)
        final = chain.denoise(start)
        found.append((final.detach(), *torch.autograd.grad(final.square().sum(), start), chain.calls))
    assert all(got.equal(found[0][0]) and pulled.equal(found[0][1]) for got, pulled, _ in found[1:3])
    assert len({calls for _, _, calls in found}) == 1
    assert not found[3][0].equal(found[0][0])


def test_negative_prompts_without_guidance_are_named(models64: StableDiffusion) -> None:
    chain = Chain(models64, num_inference_steps=2, guidance_scale=1.0)
    with pytest.warns(UserWarning, match=r"negative prompts are not read: `sampler\.guidance_scale` is 1, and at 1 or"):
        chain.with_prompts(["a red cat", "trees"], ["", "a blue house"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain.with_prompts(["a red cat"], [""])
        Chain(models64, num_inference_steps=2, guidance_scale=1.5).with_prompts(["a red cat"], ["a blue house"])


@pytest.mark.parametrize("streams", [1, 2])
def test_gradient_equals_that_of_the_slow_chain(models64: StableDiffusion, streams: int) -> None:
    models = replace(models64, scheduler=scheduler64(steps_offset=0))
    text, negative = models64.encode_prompts(["a red cat"]), models64.encode_prompts([""])
    start = randn(streams, 1, 4, 8, 8).requires_grad_(True)
    quick = Chain(models, num_inference_steps=4, sampler="edict" if streams == 2 else "ddim")
    fast = quick.with_prompts(["a red cat"]).denoise(start)
    chain = reference.Chain(models64.unet, text, negative, 4, offset=0)
    slow = torch.stack(chain.edict(*start)) if streams == 2 else chain.ddim(start[0])[None]
    weight = randn(*start.shape, seed=5)
    gradients = [torch.autograd.grad((weight * out).sum(), start)[0] for out in (fast, slow)]
    # float64, another order of operations.
    assert off(gradients[0], gradients[1]) <= 1e-11


@pytest.mark.parametrize(
    ("sampler", "engine"),
    [
        ("ddim", "checkpoint"),
        ("edict", "checkpoint"),
        ("edict", "reversible"),
        ("belm", "reversible"),
        ("bdia", "direct"),
        ("dpm_solver", "checkpoint"),
    ],
)
def test_each_pair_of_a_batch_has_the_gradient_it_has_alone(
    models64: StableDiffusion, sampler: str, engine: str
) -> None:
    together = Problem(models64, sampler, 3, 7.5, prompts=(0, 1, 2)).gradient(engine)
    for pair in range(3):
        alone = Problem(models64, sampler, 3, 7.5, prompts=(pair,)).gradient(engine)
        # Kernels sum in an order that depends on the batch: some eps times 7.5 a call. O-BELM's way back amplifies
        # by 3e3 where the last step is short, as with 3 steps and offset 1.
        assert off(together[:, pair], alone[:, 0]) <= (1e-10 if engine == "reversible" else 1e-12)


def test_weights_get_no_gradient(models64: StableDiffusion) -> None:
    for engine in ("direct", "checkpoint"):
        Problem(models64, "ddim", 2).value(Problem(models64, "ddim", 2).leaf(), engine).backward()
    assert all(p.grad is None and not p.requires_grad for p in models64.unet.parameters())


def test_prompts_or_weights_that_ask_for_gradients_are_refused(models64: StableDiffusion) -> None:
    text = models64.encode_prompts(["a red cat"])
    with pytest.raises(SgoolError, match="got `prompt_embeds` with requires_grad"):
        GuidedModel(models64, text.clone().requires_grad_(True))


@pytest.mark.parametrize("engine", ["direct", "checkpoint", "reversible"])
def test_no_graph_without_need(models64: StableDiffusion, engine: str) -> None:
    problem = Problem(models64, "edict", 2)
    with counted(models64.unet) as count:
        assert not problem.value(problem.start, engine).requires_grad
        with torch.no_grad():
            quiet = problem.value(problem.leaf(), engine)
        assert not quiet.requires_grad
    assert len(count.forward) == 2 * problem.calls


@pytest.mark.parametrize("engine", ["direct", "checkpoint", "reversible"])
def test_values_do_not_depend_on_whether_a_gradient_is_asked(models64: StableDiffusion, engine: str) -> None:
    problem = Problem(models64, "edict", 2)
    with_graph, without = problem.value(problem.leaf(), engine), problem.value(problem.start, engine)
    assert with_graph.requires_grad and with_graph.detach().equal(without)


def test_second_derivatives_need_direct(models64: StableDiffusion) -> None:
    problem = Problem(models64, "edict", 2)
    direction = randn(*problem.start.shape, seed=4)

    def derivative(at: Tensor, engine: str) -> Tensor:
        """Of the square of the value, so that a part of it depends on the first latents without the chain."""
        value = problem.value(at, engine) ** 2
        (gradient,) = torch.autograd.grad(value, at, create_graph=True)
        return (gradient * direction).sum()

    leaf, h = problem.leaf(), 1e-5
    (second,) = torch.autograd.grad(derivative(leaf, "direct"), leaf)
    ends = [derivative((problem.start + k * h * direction).requires_grad_(True), "direct") for k in (1, -1)]
    expected = float((ends[0] - ends[1]).detach()) / (2 * h)
    # Second order differences: h^2 times a third derivative.
    assert abs(float((second * direction).sum()) - expected) <= 1e-6 * abs(expected)
    for engine in ("checkpoint", "reversible"):
        with pytest.raises(RuntimeError, match="once_differentiable"):
            derivative(problem.leaf(), engine).backward()


@pytest.mark.parametrize("engine", ["direct", "checkpoint", "reversible"])
def test_random_numbers_are_left_alone(models64: StableDiffusion, engine: str) -> None:
    before = torch.get_rng_state()
    Problem(models64, "edict", 2).gradient(engine)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("sampler", ["ddim", "edict", "belm", "dpm_solver"])
def test_latents_changed_before_backward_are_noticed(models64: StableDiffusion, sampler: str) -> None:
    for engine in ("checkpoint", "reversible") if sampler in ("edict", "belm") else ("checkpoint",):
        problem = Problem(models64, sampler, 2)
        latents = problem.leaf() * 1.0
        value = problem.value(latents, engine)
        with torch.no_grad():
            latents += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


@pytest.mark.parametrize("shift", [None, 0.3])
@pytest.mark.parametrize("use_checkpoint", [True, False])
def test_decode(models64: StableDiffusion, shift: float | None, use_checkpoint: bool) -> None:
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


def test_gradient_through_the_decoder_equals_finite_differences(models64: StableDiffusion) -> None:
    problem = Problem(models64, "dpm_solver", 2)
    weight = randn(1, 3, 32, 32, seed=6)

    def brightness(latents: Tensor, engine: str = "direct") -> Tensor:
        chain = problem.chain(engine)
        return (weight * chain.decode(chain.denoise(latents)[0])).sum()

    leaf, direction = problem.leaf(), randn(*problem.start.shape, seed=7)
    direction /= direction.norm()
    (gradient,) = torch.autograd.grad(brightness(leaf, "checkpoint"), leaf)
    expected = slope(brightness, problem.start, direction)
    scale = max(abs(expected), float(gradient.norm()) / problem.start.numel() ** 0.5)
    assert abs(float((gradient * direction).sum()) - expected) <= 1e-6 * scale  # as above


def test_decode_in_half_precision_gives_float32(models: StableDiffusion) -> None:
    latents = randn(1, 4, 8, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        images = decode_latents(models.vae, latents)
    assert images.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa; a dozen layers.
    torch.testing.assert_close(images, decode_latents(models.vae, latents), rtol=0, atol=0.05)


@pytest.mark.parametrize("engine", ["checkpoint", "reversible"])
def test_decode_first_only(models64: StableDiffusion, clip64: ClipTower, engine: str) -> None:
    """One image and one objective a pair; both of EDICT's streams still get the gradient of x's image."""
    objective = Objective({"text": TextAlignment(clip64)}, {"text": 1.0}, CropSettings(num=2))
    family = replace(models64, scheduler=scheduler64())
    pairs = [PromptSeed("a red cat", 1), PromptSeed("trees", 2)]

    def built(engine: str, decode: str = "x") -> LatentPairModule:
        chain = Chain(family, sampler="edict", engine=engine, num_inference_steps=3, decode=decode)
        return LatentPairModule(chain, objective, pairs=pairs)

    gradients = []
    for module in (built(engine), built("direct")):
        assert len(module.objectives) == 1
        assert module().images.shape == (1, 2, 3, 32, 32) and module().latents.shape == (2, 2, 4, 8, 8)
        module.training_step(PairBatch(pairs), 0).backward()
        assert module.latents.grad is not None
        gradients.append(module.latents.grad)
        assert all(float(stream.abs().max()) > 1e-6 for stream in module.latents.grad)
    assert off(gradients[0], gradients[1]) <= 1e-9
    assert len(built("checkpoint", "both").objectives) == 2
