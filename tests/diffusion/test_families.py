"""Every family against its pipeline's own call: images, latents and gradients; batches, engines, finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgool.diffusion import Chain
from tests.diffusion.families import CASES, SEEDS, Float64Inside, own_call, prompted, streams
from tests.diffusion.problem import off, randn

ALL = pytest.mark.parametrize("name", CASES)


def frames_first(video: Tensor) -> Tensor:
    """(B, frames, 3, H, W) of (B, 3, frames, H, W), as diffusers returns videos."""
    return video.transpose(1, 2) if video.ndim == 5 else video


@ALL
def test_images_equal_the_pipelines_own(name: str) -> None:
    """Each pair by itself in the pipeline, with its own generator; all in one batch here."""
    chain = prompted(name)
    with torch.no_grad():
        images = frames_first(chain(streams(chain)).images[0])
    for pair, seed in enumerate(SEEDS):
        expected = own_call(name, pair, generator=[torch.Generator().manual_seed(seed)], output_type="pt")
        assert expected.std() > 0.01  # no grey image
        # float32: the scheduler's arithmetic in another order.
        torch.testing.assert_close(images[pair : pair + 1].clamp(0, 1), expected, atol=1e-5, rtol=0)


def packed(chain: Chain, latents: Tensor) -> Tensor:
    """Latents as the pipeline's call takes them: FLUX's are tokens."""
    pipeline = chain.family.pipeline if hasattr(chain.family, "pipeline") else None
    return pipeline._pack_latents(latents, *latents.shape) if hasattr(pipeline, "_pack_latents") else latents


@ALL
def test_gradients_equal_plain_autograd_through_the_pipeline(name: str) -> None:
    chain = prompted(name, range(1, 2), engine="checkpoint")
    start = streams(chain, range(1, 2))
    weight = randn(*start.shape[1:], seed=1).float()
    leaf = start.clone().requires_grad_(True)
    (got,) = torch.autograd.grad((chain.denoise(leaf)[0] * weight).sum(), leaf)
    latents = start[0].clone().requires_grad_(True)
    generator = torch.Generator().manual_seed(SEEDS[1])
    torch.randn(start[0].shape, generator=generator)  # the first latents, which are given here
    own = own_call(name, 1, latents=packed(chain, latents), generator=[generator], output_type="latent")
    (expected,) = torch.autograd.grad((own * packed(chain, weight)).sum(), latents)
    # float32, through a network that amplifies rounding.
    assert off(got[0], expected) <= 1e-5


def directional(chain: Chain, start: Tensor, weight: Tensor, direction: Tensor, step: float) -> float:
    """Richardson's extrapolation of central differences: the error falls with the fourth power of the step."""

    def value(length: float) -> float:
        return float((chain.denoise(start + length * direction)[0] * weight).sum())

    def central(length: float) -> float:
        return (value(length) - value(-length)) / (2 * length)

    return (4 * central(step / 2) - central(step)) / 3


@ALL
def test_gradients_equal_finite_differences(name: str) -> None:
    """Of the first latents and of every noise, in float64."""
    chain = prompted(name, range(1, 2), torch.float64)
    start = streams(chain, range(1, 2))
    weight = randn(*start.shape[1:], seed=1)
    with Float64Inside():
        leaf = start.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad((chain.denoise(leaf)[0] * weight).sum(), leaf)
        for stream in range(len(start)):
            direction = torch.zeros_like(start)
            direction[stream] = randn(*start.shape[1:], seed=2 + stream)
            with torch.no_grad():
                expected = directional(chain, start, weight, direction, 1e-6)
            scale = max(abs(expected), float(gradient[stream].norm()))
            assert scale > 1e-3
            # A small step, since ReLU attention has kinks. What is left is rounding over the step, and FLUX's rotary
            # embeddings, whose tables are float32.
            assert abs(float((gradient * direction).sum()) - expected) <= 1e-6 * scale


@ALL
def test_engines_agree(name: str) -> None:
    start = streams(prompted(name, range(2), torch.float64), range(2))
    weight = randn(*start.shape[1:], seed=1)
    found = []
    for engine, split in (("direct", False), ("checkpoint", False), ("checkpoint", True)):
        chain = prompted(name, range(2), torch.float64, engine=engine, split_guidance=split)
        leaf = start.clone().requires_grad_(True)
        found.append(torch.autograd.grad((chain.denoise(leaf)[0] * weight).sum(), leaf)[0])
        assert chain.calls == chain.sampling_calls * (1 if engine == "direct" else 2)
    for other in found[1:]:
        # float64; some layers of diffusers' networks work in float32, where guidance's passes in one batch round alike.
        assert off(other, found[0]) <= 1e-6


@ALL
def test_a_batch_equals_its_pairs_alone(name: str) -> None:
    chain = prompted(name, range(3), torch.float64)
    with torch.no_grad():
        together = chain.denoise(streams(chain))
        for pair in range(3):
            alone = prompted(name, range(pair, pair + 1), torch.float64)
            assert off(together[:, pair : pair + 1], alone.denoise(streams(alone, range(pair, pair + 1)))) <= 1e-6
