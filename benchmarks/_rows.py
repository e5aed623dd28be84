"""The rows of the benchmark's first table, and how one is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from _baseline import BaselineEDICT
from _networks import Attention, Network

from sgool.diffusion import build_engine
from sgool.diffusion.activations import activation_bytes

CHANNELS_LAST = "edict checkpoint, channels_last"
BASELINE, FLOOR = "edict, memcnn-style", "edict, bare network"
#: DPM-Solver++ does with 20 steps what EDICT does with 50.
DPM_SHARE = 0.4


@dataclass(frozen=True)
class Row:
    """One chain.

    Attributes:
        label: In the table.
        sampler: Its name.
        engine: Its name; "baseline" or "floor" for those two.
        options: Of the engine.
        share: Of EDICT's steps.
        attention: None: the network's own.
        channels_last: Memory format of the convolutions.
        everywhere: Measured with every number of threads, not with the first alone.
    """

    label: str
    sampler: str = "edict"
    engine: str = "checkpoint"
    options: Mapping[str, float] = field(default_factory=dict)
    share: float = 1.0
    attention: Attention | None = None
    channels_last: bool = False
    everywhere: bool = False

    def steps(self, edict_steps: int) -> int:
        """Denoising steps."""
        return max(1, round(self.share * edict_steps))


def rows(network: Network, steps: int, quick: bool = False) -> list[Row]:
    """All rows of a network; the baseline and the floor first."""
    budget = {"memory_mib": half_of_the_calls(network, steps)}
    main = [
        Row(BASELINE, engine="baseline", attention="fused", everywhere=True),
        Row(FLOOR, engine="floor", everywhere=True),
        Row("edict direct", engine="direct"),
        Row("edict checkpoint", everywhere=True),
        Row("edict reversible", engine="reversible", everywhere=True),
        Row(CHANNELS_LAST, channels_last=True, everywhere=True),
        Row(f"edict checkpoint {budget['memory_mib']:.0f} MiB", options=budget),
        Row("ddim direct", "ddim", "direct"),
        Row("ddim checkpoint", "ddim", everywhere=True),
        Row("belm checkpoint", "belm"),
        Row("belm reversible", "belm", "reversible"),
        Row("dpm_solver checkpoint", "dpm_solver", share=DPM_SHARE, everywhere=True),
    ]
    if quick:
        return [row for row in main if row.everywhere]
    if network.attention == "fused":
        return main
    # The baseline above has diffusers' fused attention: how much of a gain is the kernel's?
    controls = [Row("edict checkpoint, fused", attention="fused")]
    controls.append(Row(f"{BASELINE}, classic", engine="baseline", attention="classic"))
    return main + controls


def half_of_the_calls(network: Network, steps: int) -> float:
    """MiB that keep the activations of half of EDICT's calls."""
    network.prepare()
    chain = network.chain(steps)
    with activation_bytes([network.unet]) as counted:
        chain.network.trace(network.latents(1)[0], chain.schedule.steps[0])
    # A tenth more than the half, so that rounding does not lose one.
    return counted.total * (steps + 0.1) / 2**20


def run(row: Row, network: Network, edict_steps: int) -> tuple[float, torch.Tensor]:
    """(guided calls, gradient of the mean square of the last latents with respect to the first)."""
    network.prepare(row.attention, row.channels_last)
    engine = None if row.engine in ("baseline", "floor") else build_engine(row.engine, **row.options)
    chain = network.chain(row.steps(edict_steps), sampler=row.sampler, engine=engine)
    latents = network.latents(chain.num_streams).requires_grad_(True)
    if row.engine == "baseline":
        return _baseline(network, latents, chain.schedule)
    if row.engine == "floor":
        return _floor(network, latents[0], chain.schedule, chain.sampling_calls)
    chain.denoise(latents).square().mean().backward()
    assert latents.grad is not None
    return chain.calls, latents.grad


def _baseline(network: Network, latents: torch.Tensor, schedule: Any) -> tuple[float, torch.Tensor]:
    network.unet.requires_grad_(True)
    chain = BaselineEDICT(network.unet, network.embeds, network.negative, network.guidance_scale)
    try:
        chain(latents, schedule).square().mean().backward()
    finally:
        network.unet.requires_grad_(False)
        network.unet.zero_grad(set_to_none=True)
    assert latents.grad is not None
    return chain.passes / 2, latents.grad


def _floor(network: Network, latents: torch.Tensor, schedule: Any, calls: int) -> tuple[float, torch.Tensor]:
    """The network alone, as often as the chain calls it: without a graph, then with one and back to the input."""
    steps = [schedule.steps[index * len(schedule) // calls] for index in range(calls)]
    embeds, unet = torch.cat([network.negative, network.embeds]), network.unet
    both = torch.cat([latents.detach()] * 2)
    gradient = both
    with torch.no_grad():
        for step in steps:
            unet(both, step.timestep, encoder_hidden_states=embeds, return_dict=False)
    for step in steps:
        leaf = both.clone().requires_grad_(True)
        output = unet(leaf, step.timestep, encoder_hidden_states=embeds, return_dict=False)[0]
        gradient = torch.autograd.grad(output, leaf, both)[0]
        del output
    return 2 * calls, gradient
