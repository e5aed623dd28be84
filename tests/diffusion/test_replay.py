"""The family `replay`: any pipeline's own call, against the pipeline itself, plain autograd and the adapters."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sgool.diffusion import Chain, build_engine, build_sampler
from sgool.errors import SgoolError
from sgool.methods.budget import Costs
from tests.diffusion.families import CASES, NEGATIVE, PROMPTS, SEEDS, Float64Inside, pipeline_of, prompted, streams
from tests.diffusion.problem import off, randn
from tests.tiny_families import tiny_family
from tests.tiny_replay import REPLAYED

CALLS: dict[str, dict[str, Any]] = {
    "aura_flow": {"max_sequence_length": 16},
    "chroma": {"max_sequence_length": 16},
    # The decoder's noise counts half.
    "ltx": {"num_frames": 9, "max_sequence_length": 16, "decode_timestep": 0.1, "decode_noise_scale": 0.5},
    "cogvideox": {"num_frames": 9, "max_sequence_length": 16},
    "animatediff": {"num_frames": 4},
}
SIDES = {"ltx": 32}
STEPS, GUIDANCE = 3, 3.0
ALL = pytest.mark.parametrize("name", REPLAYED)


@cache
def made(name: str, dtype: torch.dtype) -> Any:
    return tiny_family(name, builders=REPLAYED, dtype=dtype)


def pipeline(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The one pipeline of that name; frozen, so tests may share it."""
    return made(name, dtype)


def chain_of(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Chain:
    side = SIDES.get(name, 16)
    return Chain.from_pipeline(
        pipeline(name, dtype),
        family="replay",
        call=CALLS[name],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        height=side,
        width=side,
        **options,
    )


def told(name: str, pairs: range = range(3), dtype: torch.dtype = torch.float32, **options: Any) -> Chain:
    return chain_of(name, dtype, **options).with_prompts([PROMPTS[i] for i in pairs], [NEGATIVE[i] for i in pairs])


def own_call(name: str, pair: int, call: Any = None, **arguments: Any) -> Any:
    """What the pipeline itself makes of a pair."""
    own, side = pipeline(name), SIDES.get(name, 16)
    if NEGATIVE[pair]:
        arguments["negative_prompt"] = NEGATIVE[pair]
    sizes = {"height": side, "width": side, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    return (call or type(own).__call__)(
        own, prompt=PROMPTS[pair], return_dict=False, **sizes, **CALLS[name], **arguments
    )[0]


@ALL
def test_images_equal_the_pipelines_own(name: str) -> None:
    chain = told(name)
    with torch.no_grad():
        images = chain(streams(chain)).images[0]
    for pair, seed in enumerate(SEEDS):
        expected = own_call(name, pair, generator=torch.Generator().manual_seed(seed), output_type="pt")
        expected = expected.transpose(1, 2) if expected.ndim == 5 else expected
        assert expected.std() > 0.01  # no grey image
        # Float32: a batch of one there and here.
        torch.testing.assert_close(images[pair : pair + 1].clamp(0, 1), expected, atol=1e-6, rtol=0)


class Given(TorchFunctionMode):
    """Gives a pipeline these noises, one after the other, where it draws."""

    def __init__(self, noises: Tensor) -> None:
        super().__init__()
        self.left = list(noises)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.left.pop(0) if func in (torch.randn, torch.randn_like) else func(*args, **(kwargs or {}))


@ALL
@pytest.mark.parametrize("engine", ["checkpoint", "direct"])
def test_gradients_equal_plain_autograd_through_the_pipeline(name: str, engine: str) -> None:
    chain = told(name, range(1, 2), engine=engine)
    start = streams(chain, range(1, 2))
    leaf, other = (start.clone().requires_grad_(True) for _ in range(2))
    last = chain.denoise(leaf)
    weight = randn(*last.shape[1:], seed=1).float()
    (got,) = torch.autograd.grad((last[0] * weight).sum(), leaf)
    with Given(other):
        own = own_call(name, 1, type(pipeline(name)).__call__.__wrapped__, output_type="latent")
    (expected,) = torch.autograd.grad((own * weight).sum(), other)
    assert off(got[0], expected[0]) <= 1e-6  # the same operations


@ALL
def test_gradients_of_the_images_equal_finite_differences(name: str) -> None:
    """In float64, of the first latents and of every noise, through the decoder."""
    with Float64Inside():
        chain = told(name, range(1, 2), torch.float64, engine="direct")
        start = streams(chain, range(1, 2))
        leaf = start.clone().requires_grad_(True)
        images = chain(leaf).images
        weight = randn(*images.shape, seed=1)
        (gradient,) = torch.autograd.grad((images * weight).sum(), leaf)
        for stream in range(len(start)):
            direction = torch.zeros_like(start)
            direction[stream] = randn(*start.shape[1:], seed=2 + stream)

            def value(length: float, way: Tensor = direction) -> float:
                with torch.no_grad():
                    return float((chain(start + length * way).images * weight).sum())

            slopes = [(value(step) - value(-step)) / (2 * step) for step in (1e-4, 5e-5)]
            expected = (4 * slopes[1] - slopes[0]) / 3
            assert abs(expected) > 1e-3
            # Some of diffusers' embeddings have float32 tables: rounding over the step.
            assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4)


@ALL
def test_calls_are_counted_and_prompts_encoded_once(name: str) -> None:
    chain = told(name, range(2))
    counted: list[int] = []
    encoder = pipeline(name).text_encoder
    handle = encoder.register_forward_hook(lambda *_: counted.append(1))
    leaf = streams(chain, range(2)).requires_grad_(True)
    for _ in range(2):
        torch.autograd.grad(chain(leaf).images.sum(), leaf)
    handle.remove()
    assert chain.sampling_calls == (2 * STEPS if name == "chroma" else STEPS)
    assert chain.calls == 2 * 2 * chain.sampling_calls
    assert chain.network.backward_calls == 2 * chain.sampling_calls
    # Once for each prompt, and for its negative one.
    assert 2 <= len(counted) <= 2 * 2


@ALL
def test_a_run_leaves_the_pipeline_as_it_was(name: str) -> None:
    own = pipeline(name)
    before = {key: dict(vars(getattr(own, key))) for key in own.components if getattr(own, key) is not None}
    outside = dict(vars(own))
    chain = told(name, range(1))
    state = torch.random.get_rng_state()
    chain(streams(chain, range(1)))
    assert torch.random.get_rng_state().equal(state)
    assert vars(own) == outside
    for key, values in before.items():
        assert vars(getattr(own, key)).keys() == values.keys()


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_oracle_of_the_adapters(name: str) -> None:
    """Images and gradients of every family equal those of its pipeline's own call, replayed."""
    case, pairs = CASES[name], range(1, 2)
    replayed: Any = Chain.from_pipeline(
        pipeline_of(name),
        family="replay",
        call={**case.told, **case.call},
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        height=case.size[0],
        width=case.size[1],
        sampler=build_sampler("native", **case.sampler),
    )
    adapter = prompted(name, pairs)
    replayed = replayed.with_prompts([PROMPTS[1]], [NEGATIVE[1]] if case.guided else None)
    every, effective = streams(replayed, pairs), streams(adapter, pairs)
    one, other = every.requires_grad_(True), effective.requires_grad_(True)
    images, expected = replayed(one).images, adapter(other).images
    # float32: the scheduler's arithmetic in another order, as in tests/diffusion/test_families.py.
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    weight = randn(*images.shape, seed=1).float()
    (got,) = torch.autograd.grad((images * weight).sum(), one)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), other)
    # The adapter leaves out noises without an effect.
    assert off(wanted, got[[0, *(1 + number for number in adapter.noise_draws)]]) <= 1e-4


def test_what_it_refuses() -> None:
    for options, said in (
        ({"sampler": "ddim"}, "`sampler`: expected native with models.family=replay, .* got ddim"),
        ({"sampler": "edict"}, "expected native with models.family=replay, .* got edict"),
        ({"engine": "reversible"}, "`engine`: expected checkpoint .* got reversible"),
        ({"engine": build_engine("checkpoint", memory_mib=10)}, "`engine`: expected checkpoint .with memory_mib 0."),
        ({"engine": build_engine("direct", gradient_steps=1)}, "`engine`: expected checkpoint .* got truncated"),
        ({"split_guidance": True}, r"`engine\.split_guidance`: expected false with models\.family=replay"),
        ({"sampler": build_sampler("native", eta=0.5)}, r"`sampler\.eta`: expected null, since the call of AuraFlow"),
    ):
        with pytest.raises(SgoolError, match=said):
            chain_of("aura_flow", **options)
    with pytest.raises(SgoolError, match=r"the call of AuraFlowPipeline refuses .*divisible by"):
        Chain.from_pipeline(pipeline("aura_flow"), family="replay", height=17, width=16)
    chain = told("aura_flow", range(1))
    for use in (chain.invert, chain.decode, chain.encode_images, chain.run_state, chain.with_conditioning):
        with pytest.raises(SgoolError, match=r"`models\.family`: replay (has no inverse|decodes|denoises|encodes) ?"):
            use(torch.zeros(1, 3, 16, 16))
    with pytest.raises(SgoolError, match=r"expected shape \(1, 1, 4, 8, 8\), got \(1, 1, 4, 8, 9\)"):
        chain(torch.zeros(1, 1, 4, 8, 9))
    for call, said in (
        ({"guidance_scale": 3}, r"`models\.call\.guidance_scale`: set sampler\.guidance_scale instead"),
        ({"max_sequence_lenth": 3}, r"has no such argument; did you mean `max_sequence_length`\?"),
        ({"output_type": "pil"}, "expected no such argument, which sgool sets itself"),
    ):
        with pytest.raises(SgoolError, match=said):
            Chain.from_pipeline(pipeline("aura_flow"), family="replay", call=call)


def test_what_an_update_costs() -> None:
    """Chroma makes two calls a step: forward, again in backward, and backward."""
    assert Costs.of(chain_of("chroma")) == Costs(image=6, update=18)
    assert Costs.of(chain_of("chroma", engine="direct")) == Costs(image=6, update=12)


def test_a_gradient_that_is_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = told("aura_flow", range(1))
    network = pipeline("aura_flow").transformer
    monkeypatch.setattr(network, "forward", torch.no_grad()(network.forward))
    # AuraFlow's latents are a sum of the first ones and outputs: only a cut of both is found by the images.
    vae = pipeline("aura_flow").vae
    monkeypatch.setattr(vae, "decode", torch.no_grad()(vae.decode))
    with pytest.raises(SgoolError, match="replay found no gradient from the images of AuraFlowPipeline"):
        chain(streams(chain, range(1)).requires_grad_(True))


def test_steps_that_are_not_given_are_the_pipelines() -> None:
    options: dict[str, Any] = {"num_inference_steps": None, "guidance_scale": None, "height": 16, "width": 24}
    chain = Chain.from_pipeline(pipeline("aura_flow"), family="replay", call=CALLS["aura_flow"], **options)
    assert (chain.num_inference_steps, chain.guidance_scale, chain.sampling_calls) == (50, 3.5, 50)
    assert chain.latent_shape() == (4, 8, 12)
