"""How exactly the reversible engine inverts the chain, and what that does to its gradient."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from _networks import Network
from diffusers.utils import logging
from torch import Tensor

from sgool.diffusion.backward import run_chain
from sgool.diffusion.drift import DriftGuard, relative_drift

#: (label, dtype of the network, dtype of the latents)
DTYPES = (
    ("float64", torch.float64, torch.float64),
    ("float32", torch.float32, torch.float32),
    ("bfloat16 network, float32 latents", torch.bfloat16, torch.float32),
)


class _Recorder(DriftGuard):
    """Neither warns nor fails."""

    drift = float("nan")

    def check(self, found: Sequence[Tensor], true: Sequence[Tensor]) -> None:
        self.drift = relative_drift(found, true)


def measure_drift(network: Network, sampler: str, steps: int) -> list[dict[str, Any]]:
    """Round-trip drift and relative gradient errors for each guidance and dtype."""
    result = []
    for guidance in (1.0, 4.0):
        exact: Tensor | None = None
        for label, weights, dtype in DTYPES:
            changed = _cast(network, weights)
            stored, _ = _gradient(changed, sampler, guidance, steps, dtype, None)
            inverted, drift = _gradient(changed, sampler, guidance, steps, dtype, _Recorder(1.0, 1.0))
            exact = stored if exact is None else exact
            row = {"sampler": sampler, "guidance": guidance, "dtype": label, "drift": drift}
            result.append(row | {"gradient": _error(inverted, stored), "float64": _error(stored, exact)})
    return result


def print_drift(table: Sequence[dict[str, Any]], steps: int) -> None:
    """One line for each sampler, guidance and dtype."""
    print(f"\ndrift, embedded, {steps} steps: largest error of the first latents over their standard deviation")
    print("gradient: relative error (2-norm) of reversible against checkpoint, same dtype; float64: of checkpoint")
    print("against checkpoint in float64, what the dtype costs anyway")
    print(f"{'sampler':8s} guidance  {'dtype':36s} {'drift':>8s} {'gradient':>9s} {'float64':>8s}")
    for row in table:
        print(
            f"{row['sampler']:8s} {row['guidance']:8g}  {row['dtype']:36s} {row['drift']:8.1e} "
            f"{row['gradient']:9.1e} {row['float64']:8.1e}"
        )


def _cast(network: Network, dtype: torch.dtype) -> Network:
    # diffusers logs a warning about modules to keep in float32, of which there are none.
    logging.set_verbosity_error()
    unet = copy.deepcopy(network.unet).to(dtype)
    return replace(network, unet=unet, embeds=network.embeds.to(dtype), negative=network.negative.to(dtype))


def _gradient(
    network: Network, name: str, guidance: float, steps: int, dtype: torch.dtype, guard: _Recorder | None
) -> tuple[Tensor, float]:
    chain = network.chain(steps, guidance, sampler=name)
    latents = network.latents(chain.num_streams).to(dtype).requires_grad_(True)
    state = run_chain(chain.sampler.begin(latents), chain.moves, chain.network, guard=guard)
    torch.stack(chain.sampler.finish(state)).square().mean().backward()
    assert latents.grad is not None
    return latents.grad.double(), guard.drift if guard else float("nan")


def _error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())
