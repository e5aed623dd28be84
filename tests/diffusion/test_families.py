"""Every family against its pipeline's own call: images, latents and gradients; batches, engines, finite differences."""

from __future__ import annotations

import pytest
import torch

from tests.diffusion.families import CASES, prompted, streams
from tests.diffusion.measured import finite_differences, gradient_difference, image_differences
from tests.diffusion.problem import off, randn

ALL = pytest.mark.parametrize("name", CASES)


@ALL
def test_images_equal_the_pipelines_own(name: str) -> None:
    for difference in image_differences(name):
        assert difference <= 1e-5  # float32: the scheduler's arithmetic in another order


@ALL
def test_gradients_equal_plain_autograd_through_the_pipeline(name: str) -> None:
    assert gradient_difference(name) <= 1e-5  # float32, through a network that amplifies rounding


@ALL
def test_gradients_equal_finite_differences(name: str) -> None:
    """Of the first latents and of every noise, in float64."""
    for difference in finite_differences(name):
        # A small step, since ReLU attention has kinks. What is left is rounding over the step, and FLUX's rotary
        # embeddings, whose tables are float32.
        assert difference <= 1e-6


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
