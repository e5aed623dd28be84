"""What docs/models.md says of each family: ``python -m tests.diffusion.measured`` prints its table (some minutes).

The tests of `tests.diffusion.test_families` hold the same numbers below their bounds.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sgool.diffusion import Chain
from tests.diffusion.families import CASES, SEEDS, Float64Inside, own_call, prompted, streams
from tests.diffusion.problem import off, randn


def image_differences(name: str) -> Iterator[float]:
    """Yields, for each pair, the largest difference of a pixel to the pipeline's own call with the pair's generator.

    Each pair is by itself in the pipeline; all are in one batch here.
    """
    chain = prompted(name)
    with torch.no_grad():
        images = frames_first(chain(streams(chain)).images[0])
    for pair, seed in enumerate(SEEDS):
        expected = own_call(name, pair, generator=[torch.Generator().manual_seed(seed)], output_type="pt")
        assert expected.std() > 0.01  # no grey image
        assert expected.shape == images[pair : pair + 1].shape
        yield float((images[pair : pair + 1].clamp(0, 1) - expected).abs().max())


def frames_first(video: Tensor) -> Tensor:
    """(B, frames, 3, H, W) of (B, 3, frames, H, W), as diffusers returns videos."""
    return video.transpose(1, 2) if video.ndim == 5 else video


def gradient_difference(name: str) -> float:
    """Returns the largest difference to plain autograd through the pipeline, relative to the largest entry."""
    chain = prompted(name, range(1, 2), engine="checkpoint")
    start = streams(chain, range(1, 2))
    weight = randn(*start.shape[1:], seed=1).float()
    leaf = start.clone().requires_grad_(True)
    (got,) = torch.autograd.grad((chain.denoise(leaf)[0] * weight).sum(), leaf)
    latents = start[0].clone().requires_grad_(True)
    generator = torch.Generator().manual_seed(SEEDS[1])
    torch.randn(start[0].shape, generator=generator)  # the first latents, which are given here
    own = own_call(name, 1, latents=_packed(chain, latents), generator=[generator], output_type="latent")
    (expected,) = torch.autograd.grad((own * _packed(chain, weight)).sum(), latents)
    return off(got[0], expected)


def finite_differences(name: str) -> Iterator[float]:
    """Yields, for the first latents and each noise, the relative difference to finite differences in float64."""
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
                expected = _directional(chain, start, weight, direction, 1e-6)
            scale = max(abs(expected), float(gradient[stream].norm()))
            assert scale > 1e-3
            yield abs(float((gradient * direction).sum()) - expected) / scale


def _packed(chain: Chain, latents: Tensor) -> Tensor:
    """Latents as the pipeline's call takes them: FLUX's are tokens."""
    pipeline = chain.family.pipeline if hasattr(chain.family, "pipeline") else None
    return pipeline._pack_latents(latents, *latents.shape) if hasattr(pipeline, "_pack_latents") else latents


def _directional(chain: Chain, start: Tensor, weight: Tensor, direction: Tensor, step: float) -> float:
    """Richardson's extrapolation of central differences: the error falls with the fourth power of the step."""

    def value(length: float) -> float:
        return float((chain.denoise(start + length * direction)[0] * weight).sum())

    def central(length: float) -> float:
        return (value(length) - value(-length)) / (2 * length)

    return (4 * central(step / 2) - central(step)) / 3


if __name__ == "__main__":
    print("| model | image | gradient | finite differences |\n|---|---|---|---|")
    for case in CASES:
        row = (max(image_differences(case)), gradient_difference(case), max(finite_differences(case)))
        print(f"| {case} | {' | '.join(f'{value:.1e}' for value in row)} |", flush=True)
