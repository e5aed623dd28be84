"""Peak memory of the engines, measured in fresh processes: nothing but stored latents grows with the steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.diffusion.measure_memory import SIZE, chain_of, network

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux' fork and KiB of resident set"),
    pytest.mark.timeout(600),  # a quarter of a minute of computing, on one core that others may share
]

FEW, MANY = 4, 16
#: A stored latent in float32 with the allocator's header, in whole pages.
LATENT_BYTES = -(-(4 * SIZE * SIZE * 4 + 16) // 4096) * 4096
CONSTANT = [
    ("checkpoint", "ddim"),
    ("checkpoint", "edict"),
    ("checkpoint", "dpm_solver"),
    ("reversible", "edict"),
    ("reversible", "belm"),
]


def measured(*cases: str) -> dict[str, int]:
    """Bytes by case. Freed blocks go back to the system at once, so that the peak is of what was alive."""
    allocator = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.diffusion.measure_memory", *cases],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **allocator, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return found


def calls(sampler_name: str, steps: int) -> int:
    return chain_of(network(), sampler_name, steps).sampling_calls


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    constant = (f"{engine}:{sampler}:{steps}" for engine, sampler in CONSTANT for steps in (FEW, MANY))
    return measured("direct:ddim:4", "direct:ddim:12", *constant)


def test_direct_grows_with_the_steps(peaks: dict[str, int]) -> None:
    """Three times the steps, three times the activations: so the measurement sees them, and the tests below can fail.

    2.5 leaves room for what does not grow: one backward call's gradients and the allocator's own pages.
    """
    assert peaks["direct:ddim:12"] >= 2.5 * peaks["direct:ddim:4"]


@pytest.mark.parametrize(("engine", "sampler"), CONSTANT)
def test_nothing_but_stored_latents_grows(peaks: dict[str, int], engine: str, sampler: str) -> None:
    few, many = peaks[f"{engine}:{sampler}:{FEW}"], peaks[f"{engine}:{sampler}:{MANY}"]
    stored = 0
    if engine == "checkpoint":  # one latent a network call
        stored = (calls(sampler, MANY) - calls(sampler, FEW)) * LATENT_BYTES
    # 5 % is less than a tenth of one call's activations, eight MB: pages, not tensors.
    assert many - stored <= 1.05 * few
    # The peak holds one call's activations, not those of two.
    assert many - stored <= 0.5 * peaks["direct:ddim:4"]
