"""Cases of model families: a tiny pipeline, how it is called, and the same as a chain."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sgool.diffusion import Chain, build_sampler
from sgool.prompts.seeding import first_latents, injected_noises
from tests.tiny_families import tiny_family

PROMPTS = ("a red cat", "three purple butterflies", "trees")
NEGATIVE = ("", "a blue house", "")
SEEDS = (3, 1, 2)


@dataclass(frozen=True)
class Case:
    """One way to call a pipeline.

    Attributes:
        model: Name of the pipeline's builder.
        steps: Denoising steps.
        guidance: Guidance scale.
        scheduler: Class of another scheduler than the pipeline's own, with settings.
        sampler: Options of the sampler `native`, which the pipeline's call has too.
        call: Arguments of the pipeline's call that the family takes.
        told: Further arguments of the pipeline's call, for what the family does by default.
        size: Height and width.
        guided: Whether negative prompts are read.
    """

    model: str
    steps: int
    guidance: float
    scheduler: tuple[str, dict[str, Any]] | None = None
    sampler: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (16, 24)
    guided: bool = True


_TRAILING = {"timestep_spacing": "trailing"}
_UNBINNED = {"use_resolution_binning": False, "clean_caption": False}
_PLAIN = _UNBINNED

CASES = {
    "sd": Case("sd", 3, 5.0, size=(16, 16)),
    "sd_turbo": Case("sd", 1, 0.0, ("EulerDiscreteScheduler", _TRAILING), size=(16, 16), guided=False),
    "sd_lcm": Case("sd", 4, 1.0, ("LCMScheduler", {}), size=(16, 16), guided=False),
    "sdxl": Case("sdxl", 3, 5.0),
    "sdxl_turbo": Case("sdxl", 4, 0.0, ("EulerAncestralDiscreteScheduler", _TRAILING), guided=False),
    "sdxl_lcm": Case("sdxl_lcm", 4, 8.0, ("LCMScheduler", {}), guided=False),
    "lcm": Case("lcm", 4, 8.5, call={"original_inference_steps": 50}, size=(16, 16), guided=False),
    "hyper_sdxl": Case("sdxl", 3, 0.0, ("TCDScheduler", {}), sampler={"eta": 1.0}, guided=False),
    "dmd2_sdxl": Case("sdxl", 4, 0.0, ("LCMScheduler", {}), sampler={"timesteps": [999, 749, 499, 249]}, guided=False),
    "sdxl_lightning": Case("sdxl", 4, 0.0, ("EulerDiscreteScheduler", _TRAILING), guided=False),
    "sd3": Case("sd3", 3, 7.0),
    "sd3_without_t5": Case("sd3_without_t5", 3, 4.0, call={"max_sequence_length": 8}),
    "sd3_shifted": Case("sd3_shifted", 3, 1.0, guided=False),
    "flux_dev": Case("flux_dev", 3, 3.5, guided=False),
    "flux_dev_cfg": Case("flux_dev", 3, 3.5, call={"true_cfg_scale": 2.0}),
    "flux_schnell": Case("flux_schnell", 4, 0.0, guided=False),
    "pixart_alpha": Case("pixart_alpha", 4, 4.5, told=_UNBINNED),
    "pixart_sigma": Case("pixart_sigma", 4, 4.5, told=_UNBINNED),
    "pixart_dmd": Case("pixart_dmd", 1, 1.0, sampler={"timesteps": [400]}, told=_UNBINNED, guided=False),
    # More guidance or steps amplify this random network's rounding in float32 to 1e-4, in the pipeline too.
    "sana": Case("sana", 3, 2.0, told=_PLAIN, size=(32, 64)),
    "sana_sprint": Case("sana_sprint", 2, 4.5, told=_PLAIN, size=(32, 32), guided=False),
    "sana_sprint_4": Case(
        "sana_sprint", 4, 4.5, told={**_PLAIN, "intermediate_timesteps": None}, size=(32, 32), guided=False
    ),
    "wan": Case("wan", 3, 5.0, call={"num_frames": 5}, size=(16, 32)),
}


class Float64Inside(TorchFunctionMode):
    """Keeps float64 where a network of diffusers casts to float32 within (norms, rotary embeddings)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kept = isinstance(args[0], Tensor) and args[0].dtype == torch.float64 if args else False
        # Timesteps, which have one dimension, are told in float32.
        if kept and func is Tensor.to and args[0].ndim > 1 and torch.float32 in (*args[1:], *kwargs.values()):
            return args[0]
        return args[0] if kept and func is Tensor.float else func(*args, **kwargs)


@cache
def pipeline_of(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The case's pipeline; frozen, so tests may share it."""
    case = CASES[name]
    pipeline = tiny_family(case.model, dtype=dtype)
    if case.scheduler is not None:
        kind, settings = case.scheduler
        pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config, **settings)
    return pipeline


def chain_of(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Chain:
    """The case's chain without prompts."""
    case = CASES[name]
    options.setdefault("sampler", build_sampler("native", **case.sampler))
    return Chain.from_pipeline(
        pipeline_of(name, dtype),
        call=case.call,
        num_inference_steps=options.pop("steps", case.steps),
        guidance_scale=case.guidance,
        height=case.size[0],
        width=case.size[1],
        **options,
    )


def prompted(name: str, pairs: range = range(3), dtype: torch.dtype = torch.float32, **options: Any) -> Chain:
    """The case's chain for some of the `PROMPTS`."""
    negative = [NEGATIVE[i] for i in pairs] if CASES[name].guided else None
    return chain_of(name, dtype, **options).with_prompts([PROMPTS[i] for i in pairs], negative)


def streams(chain: Chain, pairs: range = range(3)) -> Tensor:
    """First latents and noises (1 + K, B, C, h, w) of some of the `SEEDS`, as a run draws them."""
    shape = tuple(chain.latent_shape())
    drawn = [
        torch.cat([first_latents(SEEDS[i], shape)[None], injected_noises(SEEDS[i], shape, chain.noise_draws)])
        for i in pairs
    ]
    return torch.stack(drawn, dim=1).to(chain.latents_dtype)


def own_call(name: str, pair: int, **arguments: Any) -> Tensor:
    """What the pipeline itself makes of a pair, with gradients if its latents ask for them."""
    case, pipeline = CASES[name], pipeline_of(name)
    call = type(pipeline).__call__
    latents = arguments.get("latents")
    if latents is not None and latents.requires_grad:
        call = call.__wrapped__  # past torch.no_grad
    given = {**case.told, **case.call, **case.sampler, **arguments}
    if case.guided and (NEGATIVE[pair] or case.model.startswith(("flux", "pixart", "sana", "wan"))):
        given["negative_prompt"] = NEGATIVE[pair]
    made: Tensor = call(
        pipeline,
        prompt=PROMPTS[pair],
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        height=case.size[0],
        width=case.size[1],
        return_dict=False,
        **given,
    )[0]
    return made
