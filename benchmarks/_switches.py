"""What the usual switches do to one guided call: forward, then `GuidedModel.vjp`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from _measure import alternate
from _networks import Attention, Network

from sgool.models.schedule import Step, build_schedule


@dataclass(frozen=True)
class Switches:
    """One combination; what differs from the first line is what is measured."""

    attention: Attention = "fused"
    channels_last: bool = False
    bfloat16: bool = False
    split: bool = False
    compiled: bool = False

    @property
    def label(self) -> str:
        """All that is on."""
        names = [name for name in ("channels_last", "bfloat16", "split", "compiled") if getattr(self, name)]
        return " + ".join([f"{self.attention} attention", *names])


COMBINATIONS = (
    Switches(),
    Switches("classic"),
    Switches(channels_last=True),
    Switches(split=True),
    Switches(bfloat16=True),
    Switches("classic", bfloat16=True),
    Switches(channels_last=True, bfloat16=True),
)
COMPILED = (Switches(compiled=True), Switches(channels_last=True, compiled=True, bfloat16=True))


def switch_table(network: Network, device: str, repeats: int, compiled: bool) -> dict[str, Any]:
    """Prints and returns each combination's seconds and their ratio to the first one's."""
    threads = torch.get_num_threads()
    print(f"\nswitches, {network.name}, {threads} thread(s): one guided call, forward + vjp", flush=True)
    first, second, *_ = build_schedule(network.scheduler, 50).steps
    runs: dict[str, Callable[[], object]] = {}
    compile_seconds: dict[str, float] = {}
    for switches in COMBINATIONS + (COMPILED if compiled else ()):
        go = partial(_call, _copy(network, switches), switches, device)
        started = time.perf_counter()
        try:
            # Two timesteps: a compiler that specialises on the number compiles again at the second.
            go(first), go(second)
        except Exception as error:  # whatever a missing or broken compiler raises
            if not switches.compiled:
                raise
            print(f"{switches.label:44s} skipped, no working compiler: {str(error).splitlines()[0][:60]}")
            continue
        if switches.compiled:
            compile_seconds[switches.label] = time.perf_counter() - started
        runs[switches.label] = partial(go, second)
    times = alternate(runs, repeats, device)
    base = times[COMBINATIONS[0].label].fair(threads, device)
    result = {}
    for label, seconds in times.items():
        fair = seconds.fair(threads, device)
        note = f"  after {compile_seconds[label]:.0f} s of compiling" if label in compile_seconds else ""
        print(f"{label:44s} {seconds.wall:7.3f} s wall {seconds.cpu:7.3f} s cpu  {base / fair:5.2f}x{note}")
        result[label] = {"wall": seconds.wall, "cpu": seconds.cpu, "faster": base / fair}
    if not compiled:
        print("torch.compile: not measured here, see --compile")
    return result


def _copy(network: Network, switches: Switches) -> Network:
    unet = copy.deepcopy(network.unet)
    changed = replace(network, unet=unet)
    changed.prepare(switches.attention, switches.channels_last)
    if switches.compiled:
        unet.compile()
    return changed


def _call(network: Network, switches: Switches, device: str, step: Step) -> None:
    def context() -> AbstractContextManager[Any]:
        return torch.autocast(device, torch.bfloat16, enabled=switches.bfloat16)

    model = network.chain(50, split_guidance=switches.split).network
    latents = network.latents(1)[0]
    with torch.no_grad(), context():
        output = model(latents, step)
    model.vjp(latents, step, torch.ones_like(output), context)
