"""Gradient through the chain: engines and samplers against each other, on the embedded model, in one run.

python benchmarks/engines.py [--steps 10] [--batch 2]
"""

from __future__ import annotations

import argparse
import time

import torch

from sgool import PromptSeed, load_models
from sgool.diffusion import build_engine, build_sampler
from sgool.module import LatentPairModule


def seconds_per_gradient(module: LatentPairModule, repeats: int = 3) -> float:
    """Best of several times for one gradient of the mean pixel with respect to the latents."""
    times = []
    for _ in range(repeats):
        module.zero_grad()
        started = time.perf_counter()
        module().images.mean().backward()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Prints one line per sampler and engine with the ratio to DDIM with the direct engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    models = load_models("emoji_world")
    pairs = [PromptSeed("a blue cat", seed=seed) for seed in range(arguments.batch)]
    print(f"{arguments.steps} steps, {arguments.batch} pairs, {torch.get_num_threads()} threads, float32")
    base = None
    for sampler in ("ddim", "edict"):
        for engine in ("direct", "checkpoint"):
            module = LatentPairModule(
                models,
                pairs,
                sampler=build_sampler(sampler),
                engine=build_engine(engine),
                num_inference_steps=arguments.steps,
            )
            elapsed = seconds_per_gradient(module)
            base = base or elapsed
            print(f"{sampler:6s} {engine:11s} {elapsed:7.2f} s  ratio to ddim direct {elapsed / base:5.2f}")


if __name__ == "__main__":
    main()
