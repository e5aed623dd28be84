"""Peak memory of one forward and backward pass: the script of `test_memory`.

``python -m tests.diffusion.measure_memory ENGINE:SAMPLER:STEPS ...`` prints a JSON object of bytes above the start.
Each case runs in a fork of the process, whose peak starts from what the imports left.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from sgool.diffusion import Chain, build_engine
from sgool.models.stable_diffusion import StableDiffusion
from tests.tiny import sd_scheduler

SIZE, WIDTH, CONTEXT = 32, 8, 16


def network() -> Any:
    """A UNet whose activations of one call are megabytes, and the latents of a chain are not."""
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=SIZE,
        block_out_channels=(WIDTH, 2 * WIDTH),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=WIDTH,
        norm_num_groups=4,
    )
    return unet.requires_grad_(False).eval()


def chain_of(unet: Any, sampler_name: str, steps: int, **options: Any) -> Chain:
    """A chain of the UNet alone, on the schedule of Stable Diffusion."""
    family = StableDiffusion(_NoAutoencoder(), unet, None, None, sd_scheduler(), "memory")
    return Chain(family, sampler=sampler_name, num_inference_steps=steps, guidance_scale=2.0, **options)


class _NoAutoencoder:
    """What tells the size of an image, where none is decoded."""

    config = SimpleNamespace(block_out_channels=(1,))


def peak() -> int:
    """Largest resident set of this process so far, in bytes (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def growth(unet: Any, engine: str, sampler_name: str, steps: int) -> int:
    """Bytes by which one forward and backward pass raised the peak."""
    # Memory is measured, not exactness: O-BELM in float32 may drift.
    options: dict[str, Any] = {"warn_drift": 1e8, "max_drift": 1e9} if engine == "reversible" else {}
    chain = chain_of(unet, sampler_name, steps, engine=build_engine(engine, **options)).with_conditioning(
        torch.randn(1, CONTEXT, WIDTH), torch.randn(1, CONTEXT, WIDTH)
    )
    latents = torch.randn(chain.num_streams, 1, 4, SIZE, SIZE, requires_grad=True)
    # The first call of a process touches pages of code; small latents have few activations.
    small = torch.randn(1, 4, 8, 8)
    chain.network.vjp(small, chain.schedule.steps[0], small)
    base = peak()
    chain.denoise(latents).sum().backward()
    assert latents.grad is not None
    return peak() - base


def main(cases: list[str]) -> None:
    """Measures each case in a fork and prints what it found."""
    unet, found = network(), {}
    for case in cases:
        engine, sampler, steps = case.split(":")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, str(growth(unet, engine, sampler, int(steps))).encode())
            os._exit(0)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"{case} failed"
        found[case] = int(os.read(reader, 64))
        os.close(reader)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
