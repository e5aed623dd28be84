"""What is refused, with what words, and always before the network is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from sgool.diffusion import Chain, Engine, GuidedModel, build_engine, build_sampler
from sgool.errors import SgoolError
from sgool.models.schedule import build_schedule
from sgool.models.stable_diffusion import StableDiffusion
from tests.reference import randn, scheduler64

PROMPTS = ["a red cat", "two green trees"]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def no_network_call(models64: StableDiffusion) -> Iterator[None]:
    """Fails a test whose error came too late."""
    seen: list[None] = []
    handle = models64.unet.register_forward_pre_hook(lambda *_: seen.append(None))
    yield
    handle.remove()
    assert not seen, "the network was called before the error"


@pytest.fixture
def embeds(models64: StableDiffusion) -> Tensor:
    return models64.encode_prompts(PROMPTS)


def chain(models: StableDiffusion, name: str, engine: Engine | str = "checkpoint", steps: int = 3) -> Chain:
    return Chain(models, num_inference_steps=steps, sampler=name, engine=engine).with_prompts(PROMPTS)


def run(
    models: StableDiffusion, latents: Tensor, name: str, engine: Engine | str = "checkpoint", steps: int = 3
) -> Tensor:
    return chain(models, name, engine, steps).denoise(latents)


def run_back(models: StableDiffusion, latents: Tensor, name: str, **options: Any) -> Any:
    return chain(models, name).invert_latents(latents, **options)


WAYS: list[Callable[[StableDiffusion, Tensor, str], Any]] = [run, run_back]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("edict", (1, 2, 4, 8, 8), r"\(2, 2, 4, h, w\)"),
        ("edict", (3, 2, 4, 8, 8), r"\(2, 2, 4, h, w\)"),
        ("ddim", (2, 2, 4, 8, 8), r"\(1, 2, 4, h, w\)"),
        ("dpm_solver", (2, 2, 4, 8, 8), r"\(1, 2, 4, h, w\)"),
        ("belm", (3, 2, 4, 8, 8), r"\(1 or 2, 2, 4, h, w\)"),
        ("bdia", (0, 2, 4, 8, 8), r"\(1 or 2, 2, 4, h, w\)"),
        ("ddim", (2, 4, 8, 8), r"\(1, 2, 4, h, w\)"),
        ("ddim", (1, 1, 2, 4, 8, 8), r"\(1, 2, 4, h, w\)"),
        ("ddim", (1, 3, 4, 8, 8), r"\(1, 2, 4, h, w\)"),
        ("edict", (2, 1, 4, 8, 8), r"\(2, 2, 4, h, w\)"),
        ("ddim", (1, 2, 3, 8, 8), r"\(1, 2, 4, h, w\)"),
    ],
)
def test_shape_of_latents(models64: StableDiffusion, name: str, shape: tuple[int, ...], expected: str) -> None:
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    message = rf"`latents`: {name} expects shape {expected}, for one prompt an item and .* channels, got {got}"
    with pytest.raises(SgoolError, match=message):
        run(models64, randn(*shape), name)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("ddim", (2, 2, 4, 8, 8), r"\(1, 2, 4, h, w\)"),
        ("edict", (3, 2, 4, 8, 8), r"\(1 or 2, 2, 4, h, w\)"),
        ("belm", (1, 1, 4, 8, 8), r"\(1 or 2, 2, 4, h, w\)"),
    ],
)
def test_shape_of_latents_to_invert(
    models64: StableDiffusion, name: str, shape: tuple[int, ...], expected: str
) -> None:
    with pytest.raises(SgoolError, match=rf"`latents`: {name} expects shape {expected}"):
        run_back(models64, randn(*shape), name)


@pytest.mark.parametrize("way", WAYS)
def test_kind_of_latents(models64: StableDiffusion, way: Callable[..., Any]) -> None:
    latents = randn(1, 2, 4, 8, 8)
    with pytest.raises(SgoolError, match=r"`latents`: expected a floating dtype, got torch\.int64"):
        way(models64, latents.long(), "ddim")
    with pytest.raises(SgoolError, match="`latents`: expected the network's device cpu, got meta"):
        way(models64, latents.to("meta"), "ddim")
    for number in (NAN, INF, -INF):
        broken = latents.clone()
        broken[0, 1, 0, 0, 0] = number
        with pytest.raises(SgoolError, match="expected finite numbers, got NaN or infinity before the first step"):
            way(models64, broken, "ddim")


def test_all_that_is_wrong_with_latents_is_said_at_once(models64: StableDiffusion) -> None:
    with pytest.raises(SgoolError, match=r"got \(3, 2, 4, 8, 8\); expected a floating dtype.*; expected the network's"):
        run(models64, torch.ones(3, 2, 4, 8, 8, dtype=torch.int32, device="meta"), "edict")


@pytest.mark.parametrize("name", ["ddim", "edict", "belm", "bdia", "dpm_solver"])
def test_unknown_prediction_type(models64: StableDiffusion, name: str) -> None:
    models = replace(models64, scheduler=scheduler64(prediction_type="flow"))
    with pytest.raises(SgoolError, match=r"`prediction_type`: expected epsilon, .*or flow_prediction, got 'flow'"):
        Chain(models, num_inference_steps=3, sampler=name)


@pytest.mark.parametrize("name", ["ddim", "dpm_solver"])
def test_reversible_needs_an_inverse(models64: StableDiffusion, name: str) -> None:
    message = rf"reversible needs a sampler with an exact inverse \(edict, bdia, belm\); {name} has none.*checkpoint"
    with pytest.raises(SgoolError, match=message):
        run(models64, randn(1, 2, 4, 8, 8), name, "reversible")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reversible_needs_digits(models64: StableDiffusion, dtype: torch.dtype) -> None:
    with pytest.raises(SgoolError, match=rf"reversible needs latents in float32 or float64, got {dtype}.*checkpoint"):
        run(models64, randn(2, 2, 4, 8, 8).to(dtype), "edict", "reversible")


def test_truncation_asks_the_inner_engine(models64: StableDiffusion) -> None:
    engine = build_engine("reversible", gradient_steps=2)
    with pytest.raises(SgoolError, match="reversible needs a sampler with an exact inverse"):
        run(models64, randn(1, 2, 4, 8, 8), "ddim", engine)


@pytest.mark.parametrize("refinements", [-1, 0.5])
def test_refinements(models64: StableDiffusion, refinements: float) -> None:
    for name in ("ddim", "edict"):
        with pytest.raises(SgoolError, match=f"`refinements`: expected a whole number, 0 or more, got {refinements}"):
            run_back(models64, randn(1, 2, 4, 8, 8), name, refinements=refinements)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("heun", {}, "`sampler.name`: expected one of ddim, edict, belm, bdia, dpm_solver, native, got 'heun'"),
        ("ddim", {"mixing_coeff": 0.9}, r"`sampler`: ddim does not take \['mixing_coeff'\]"),
        ("belm", {"gamma": 0.9}, r"`sampler`: belm does not take \['gamma'\]"),
        ("dpm_solver", {"solver_order": 3}, r"`sampler`: dpm_solver does not take \['solver_order'\]"),
        *(
            ("edict", {"mixing_coeff": p}, rf"`sampler.mixing_coeff`: expected a number in \(0.5, 1\], got {p}")
            for p in (0.5, 1.1, 0, -0.93, NAN, INF)
        ),
        *(
            ("bdia", {"gamma": gamma}, rf"`sampler.gamma`: expected a number in \(0, 1\], got {gamma}")
            for gamma in (0, -0.5, 1.5, NAN, INF)
        ),
        *(("ddim", {"eta": eta}, f"`sampler.eta`: expected 0, got {eta}: random steps") for eta in (0.5, 1.0, NAN)),
    ],
)
def test_samplers(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SgoolError, match=message):
        build_sampler(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magic", {}, "`engine.name`: expected one of direct, checkpoint, reversible, got 'magic'"),
        ("direct", {"memory_mib": 4}, r"`engine`: direct does not take \['memory_mib'\]"),
        ("checkpoint", {"max_drift": 4}, r"`engine`: checkpoint does not take \['max_drift'\]"),
        ("checkpoint", {"memory_mib": -1}, "`engine.memory_mib`: expected a finite number of MiB, 0 or more, got -1"),
        ("checkpoint", {"memory_mib": NAN}, "`engine.memory_mib`: expected a finite number of MiB, 0 or more, got nan"),
        *(
            ("reversible", options, r"`engine.warn_drift`.*: expected 0 < warn_drift <= max_drift, got .* and ")
            for options in (
                {"warn_drift": 0},
                {"warn_drift": -1e-3},
                {"warn_drift": 0.1, "max_drift": 0.01},
                {"warn_drift": NAN},
                {"max_drift": NAN},
            )
        ),
        ("checkpoint", {"memory_mib": float("inf")}, "`engine.memory_mib`: expected a finite number of MiB, 0 or more"),
        (
            "checkpoint",
            {"gradient_steps": 0},
            "`engine.gradient_steps`: expected a whole number, 1 or more, or null for all, got 0",
        ),
        (
            "direct",
            {"gradient_steps": -2},
            "`engine.gradient_steps`: expected a whole number, 1 or more, or null for all, got -2",
        ),
        (
            "direct",
            {"gradient_steps": 2.5},
            "`engine.gradient_steps`: expected a whole number, 1 or more, or null for all, got 2.5",
        ),
    ],
)
def test_engines(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SgoolError, match=message):
        build_engine(name, **options)


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True, False])
@pytest.mark.parametrize("name", ["ddim", "dpm_solver"])
def test_number_of_steps(models64: StableDiffusion, name: str, steps: Any) -> None:
    expected = "1 to 1000" if type(steps) is int else "a whole number"
    with pytest.raises(SgoolError, match=f"`sampler.num_inference_steps`: expected {expected}, got {steps}"):
        run(models64, randn(1, 2, 4, 8, 8), name, steps=steps)


def test_zero_terminal_signal(models64: StableDiffusion) -> None:
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(SgoolError, match=r"begins in pure noise .*rescale_betas_zero_snr.*spacing=leading"):
        build_schedule(scheduler, 3)


def test_embeddings(models64: StableDiffusion, embeds: Tensor) -> None:
    with pytest.raises(SgoolError, match=r"`guidance_scale` 7\.5 needs `negative_prompt_embeds`, got None"):
        GuidedModel(models64, embeds, None, 7.5)
    for wrong in (embeds[:1], embeds[:, :3], embeds[..., :4]):
        shapes = rf"\(2, 16, 16\), got \({', '.join(map(str, wrong.shape))}\)"
        with pytest.raises(SgoolError, match=f"`negative_prompt_embeds`: expected the shape of .*, {shapes}"):
            GuidedModel(models64, embeds, wrong, 7.5)
    with pytest.raises(SgoolError, match="expected a frozen network, got `prompt_embeds` with requires_grad"):
        GuidedModel(models64, embeds.clone().requires_grad_(True))
    with pytest.raises(SgoolError, match="expected a frozen network, got `negative_prompt_embeds` with requires_grad"):
        GuidedModel(models64, embeds, embeds.clone().requires_grad_(True), 2)
    with pytest.raises(
        SgoolError, match=r"`prompt_embeds`: expected the network's dtype torch\.float64, got torch\.float32"
    ):
        GuidedModel(models64, embeds.float())
    with pytest.raises(SgoolError, match="`guidance_scale`: expected a finite number, got nan"):
        GuidedModel(models64, embeds, embeds, NAN)


def test_network_that_is_not_frozen(models64: StableDiffusion, embeds: Tensor) -> None:
    weight = next(models64.unet.parameters())
    weight.requires_grad_(True)
    try:
        with pytest.raises(SgoolError, match=r"`unet`: expected a frozen network, got 1 weights .*requires_grad_"):
            GuidedModel(models64, embeds)
    finally:
        weight.requires_grad_(False)
