"""Samplers against each other on the embedded model, in one run: error, image quality, inversion, gradients.

python benchmarks/samplers.py [TABLE ...] [--pairs N] [--calls N ...] [--bf16] [--quick]

The tables are those of docs/adr/0001-one-call-invertible-sampler.md. Without names the first five are printed, in
about ten minutes on one core; ``optimise`` alone takes as long again. Every sampler gets the same prompts, first
latents and network calls (EDICT, with two calls a step, half the steps).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import pandas as pd
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from sgool import (
    Chain,
    LatentPairModule,
    Objective,
    PromptDataModule,
    PromptSeed,
    TextAlignment,
    default_callbacks,
    load_clip,
    load_models,
)
from sgool.callbacks import PairCallback
from sgool.diffusion import Sampler, build_sampler
from sgool.diffusion.drift import relative_drift
from sgool.metrics import JudgePanel, SceneReader
from sgool.models.assets import resolve_asset
from sgool.models.stable_diffusion import StableDiffusion
from sgool.prompts import load_pairs
from sgool.prompts.seeding import first_latents, pair_generator
from sgool.report.stats import paired_difference
from sgool.run.train import train
from sgool.types import PairResult

Rows = Iterator[Sequence[Any]]

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "ddim": lambda: build_sampler("ddim"),
    "edict": lambda: build_sampler("edict"),
    "belm": lambda: build_sampler("belm"),
    "bdia 1.0": lambda: build_sampler("bdia", gamma=1.0),
    "bdia 0.9": lambda: build_sampler("bdia", gamma=0.9),
    "bdia 0.5": lambda: build_sampler("bdia", gamma=0.5),
    "dpm_solver": lambda: build_sampler("dpm_solver"),
}
EXACT = ("edict", "belm", "bdia 1.0", "bdia 0.9", "bdia 0.5")
GUIDANCE = 4.0


@dataclass(frozen=True)
class Bench:
    """What all tables share.

    Attributes:
        models: The embedded model in float32.
        pairs: How many prompt-seed pairs a table takes; None: each its own default.
        calls: Network calls of the tables that compare several; empty: each its own default.
        samplers: Names in `SAMPLERS`, in the order of the tables.
        bf16: Whether images for judges are made under bfloat16 autocast.
        quick: Fewer items and calls, to see that everything runs.
        trailing: Whether the quality table's schedules are those of `full_range`, not the model's own.
        guidance: Guidance scales of the quality table.
    """

    models: StableDiffusion
    pairs: int | None
    calls: tuple[int, ...]
    samplers: tuple[str, ...]
    bf16: bool
    quick: bool
    trailing: bool = False
    guidance: tuple[float, ...] = (GUIDANCE,)

    def first_pairs(self, default: int, quick: int) -> list[PromptSeed]:
        """Held-out prompts with seed 0, all categories in turn."""
        return load_pairs("emoji_world/heldout", limit=self.pairs or (quick if self.quick else default))

    def few_pairs(self, count: int) -> list[PromptSeed]:
        """The same for the tables that no judge looks at."""
        return self.first_pairs(count, min(2, count))

    def latents(self, pairs: Sequence[PromptSeed]) -> Tensor:
        """(1, B, C, h, w), other ones for each prompt."""
        shape = self.models.latent_shape(None, None)
        return torch.stack([first_latents(pair.seed + 1000 * pair.index, shape) for pair in pairs])[None]

    def chain(
        self, name: str, steps: int, pairs: Sequence[PromptSeed], guidance: float, models: StableDiffusion | None = None
    ) -> Chain:
        """Of a sampler in `SAMPLERS`, with the pairs' prompts."""
        chain = Chain(
            models or self.models, num_inference_steps=steps, guidance_scale=guidance, sampler=SAMPLERS[name]()
        )
        return chain.with_prompts([pair.prompt for pair in pairs])

    def chain_of_calls(
        self, name: str, calls: int, pairs: Sequence[PromptSeed], guidance: float, scheduler: Any = None
    ) -> Chain:
        """The chain that calls the network so often."""
        models = replace(self.models, scheduler=scheduler) if scheduler else self.models
        return self.chain(name, self.steps(name, calls), pairs, guidance, models)

    def steps(self, name: str, calls: int) -> int:
        """With how many steps the sampler calls the network so often."""
        two = Chain(self.models, num_inference_steps=2, sampler=SAMPLERS[name]()).sampling_calls == 4
        return calls // 2 if two else calls

    @property
    def full_range(self) -> DDIMScheduler:
        """The model's scheduler, but from t = 999 to no noise however few the steps are."""
        options = {"timestep_spacing": "trailing", "set_alpha_to_one": True}
        return DDIMScheduler.from_config(self.models.scheduler.config, **options)

    @property
    def autocast(self) -> AbstractContextManager[Any]:
        """Around the networks where judges look at the result."""
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()

    @cached_property
    def panel(self) -> JudgePanel:
        """The judge CLIP and the scene reader."""
        reader = SceneReader.from_pretrained(resolve_asset("emoji_world/reader"))
        return JudgePanel({"judge": load_clip("emoji_world/judge")}, reader)

    def scores(self, images: Tensor, pairs: Sequence[PromptSeed]) -> pd.DataFrame:
        """Judge score and scene accuracy, a row an image."""
        rows = self.panel.judge(None, images.clamp(0, 1), pairs)
        return pd.DataFrame(
            {"judge": row["judge/clip_score"], "scene": 100 * row["scene_accuracy"], "prompt": pair.prompt}
            for row, pair in zip(rows, pairs, strict=True)
        )


def last_latents(
    bench: Bench, name: str, calls: int, pairs: Sequence[PromptSeed], guidance: float, scheduler: Any = None
) -> Tensor:
    """(B, C, h, w), of the first stream."""
    chain = bench.chain_of_calls(name, calls, pairs, guidance, scheduler)
    latents = bench.latents(pairs)
    with torch.no_grad():
        return chain.denoise(latents.expand(chain.num_streams, *latents.shape[1:]))[0]


def relative_rms(found: Tensor, true: Tensor) -> float:
    """Root mean square of the difference over the true latents' standard deviation, of all items."""
    return float((found - true).square().mean().sqrt() / true.std())


def error_table(bench: Bench) -> Rows:
    """Relative RMS of the last latents against DPM-Solver++ with 200 steps, in %.

    "own": the model's own timesteps, as `sgool fit` runs them. They begin below t = 999, the fewer steps the further,
    and DDIM's end at the first training alpha, not at 0 noise: both count as errors. "ends": timestep_spacing trailing
    and set_alpha_to_one, so that all integrate from t = 999 to no noise and the solver's error alone is left.
    """
    pairs, counts = bench.few_pairs(2), bench.calls or ((6, 12) if bench.quick else (6, 12, 20))
    own, ends = bench.models.scheduler, bench.full_range
    yield "guidance", "timesteps", "sampler", *(f"{calls} calls" for calls in counts)
    for guidance in (1.0, GUIDANCE):
        fine = last_latents(bench, "dpm_solver", 200, pairs, guidance, ends)
        checks = [("dpm_solver", 100)] if bench.quick else [("dpm_solver", 100), ("ddim", 500)]
        for name, calls in checks:
            error = relative_rms(last_latents(bench, name, calls, pairs, guidance, ends), fine)
            yield guidance, "ends", f"{name}, {calls}", f"{100 * error:.2f}", *[""] * (len(counts) - 1)
        for title, scheduler in (("own", own), ("ends", ends)):
            for name in bench.samplers:
                found = (last_latents(bench, name, calls, pairs, guidance, scheduler) for calls in counts)
                yield guidance, title, name, *(f"{100 * relative_rms(x, fine):.1f}" for x in found)


def quality_table(bench: Bench) -> Rows:
    """Vanilla samples, judge CLIP score and scene accuracy, with paired differences to the first row of each block.

    In brackets: 95 % percentile bootstrap over prompts. The first row is DDIM unless --samplers says otherwise.
    """
    pairs, counts = bench.first_pairs(64, 16), bench.calls or (12,)
    scheduler = bench.full_range if bench.trailing else None
    yield "guidance", "calls", "sampler", "pairs", "judge", "difference", "scene, %", "difference"
    for guidance, calls in product(bench.guidance, counts):
        base = None
        for name in bench.samplers:
            with torch.no_grad(), bench.autocast:
                images = bench.models.decode(last_latents(bench, name, calls, pairs, guidance, scheduler))
            scores = bench.scores(images.float(), pairs)
            base = scores if base is None else base
            cells = [x for key in ("judge", "scene") for x in (f"{scores[key].mean():.1f}", _to(scores, base, key))]
            yield guidance, calls, name, len(pairs), *cells


def _to(scores: pd.DataFrame, others: pd.DataFrame, key: str) -> str:
    """Mean difference with its interval; empty against itself."""
    if scores is others:
        return ""
    result = paired_difference(scores[key], others[key], scores["prompt"])
    interval = "" if result.low is None else f" [{result.low:+.1f}, {result.high:+.1f}]"
    return f"{result.difference:+.1f}{interval}"


def drift_table(bench: Bench) -> Rows:
    """Largest difference between first latents and those found by inverting the chain's last state, over their std."""
    yield "sampler", "guidance", *(f"{dtype}, {steps} steps" for steps in (20, 50) for dtype in ("float64", "float32"))
    pairs = bench.few_pairs(1)
    first = bench.latents(pairs)
    double = load_models("emoji_world", dtype=torch.float64)
    for name in [name for name in bench.samplers if name in EXACT]:
        for guidance in (1.0, GUIDANCE):
            cells = []
            for steps in (20, 50):
                for models, dtype in ((double, torch.float64), (bench.models, torch.float32)):
                    start = first.to(dtype).expand(2, *first.shape[1:])
                    chain = bench.chain(name, steps, pairs, guidance, models)
                    with torch.no_grad():
                        state = chain.run_state(start)
                    found = chain.invert_latents(torch.stack(state)).latents
                    cells.append(f"{relative_drift(tuple(found), tuple(start)):.1e}")
            yield name, guidance, *cells


def inversion_table(bench: Bench) -> Rows:
    """First latents of images: how Gaussian they are, and whether denoising leads back.

    The images are decoded (DPM-Solver++, 30 calls, guidance 4), clamped, rounded to 8 bits and encoded, so that they
    are no end of any chain here. Excess kurtosis and correlation of neighbours are 0, the standard deviation 1 for
    noise. "returns": relative RMS of the denoised latents, in %. 50 calls; DDIM's refinements make more.
    """
    pairs = bench.few_pairs(4)
    images = _images(bench, pairs)
    latents = bench.models.encode_images(images)[None]
    calls = 20 if bench.quick else 50
    yield "guidance", "sampler", "std", "excess kurtosis", "neighbours", "std of the second", "returns, %"
    for guidance in (1.0, GUIDANCE):
        for name, refinements in [("ddim", 0), ("ddim", 5), *((n, 0) for n in bench.samplers if n in EXACT)]:
            chain = bench.chain_of_calls(name, calls, pairs, guidance)
            found = chain.invert_latents(latents, refinements).latents
            with torch.no_grad():
                back = chain.denoise(found)[0]
            second = f"{float(found[1].std()):.3g}" if len(found) == 2 else ""
            title = f"ddim, {refinements} refinements" if name == "ddim" else name
            yield guidance, title, *_gaussian(found[0]), second, f"{100 * relative_rms(back, latents[0]):.2g}"


def _images(bench: Bench, pairs: Sequence[PromptSeed]) -> Tensor:
    """8-bit images of the pairs."""
    last = last_latents(bench, "dpm_solver", 30, pairs, GUIDANCE)
    with torch.no_grad():
        return (bench.models.decode(last).clamp(0, 1) * 255).round() / 255


def _gaussian(latents: Tensor) -> tuple[str, str, str]:
    """Standard deviation, excess kurtosis, correlation of horizontal and vertical neighbours."""
    centred = latents - latents.mean()
    variance = centred.square().mean()
    kurtosis = centred.pow(4).mean() / variance.square() - 3
    across, down = centred[..., 1:] * centred[..., :-1], centred[..., 1:, :] * centred[..., :-1, :]
    neighbours = (across.mean() + down.mean()) / 2 / variance
    return f"{float(variance.sqrt()):.3g}", f"{float(kurtosis):.2g}", f"{float(neighbours):.2f}"


def gradient_table(bench: Bench) -> Rows:
    """Gain |J^T r| / |r| of a random direction r of the last latents, J being the chain's Jacobian, guidance 4.

    The root mean square singular value, so to say: 1 for an isometry; large where small changes of the first latents
    make large ones of the image. EDICT: with respect to latents that both streams share.
    """
    pairs, counts = bench.few_pairs(4), bench.calls or (12,)
    latents = bench.latents(pairs)
    direction = torch.stack([torch.randn(latents.shape[2:], generator=pair_generator(p.index, "r")) for p in pairs])
    yield "calls", "sampler", "median gain", "smallest", "largest"
    for calls in counts:
        for name in bench.samplers:
            chain = bench.chain_of_calls(name, calls, pairs, GUIDANCE)
            leaf = latents.clone().requires_grad_(True)
            last = chain.denoise(leaf.expand(chain.num_streams, *leaf.shape[1:]))[0]
            (gradient,) = torch.autograd.grad(last, leaf, direction)
            gain = gradient[0].flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)
            yield calls, name, *(f"{float(x):.2f}" for x in (gain.median(), gain.min(), gain.max()))


def optimise_table(bench: Bench) -> Rows:
    """DOODL with the settings of configs/optimization/fast.yaml: scores before and after, at equal network calls.

    Differences are paired: "gain" to the sampler's own first images, "final - ddim" to DDIM's final ones at the first
    number of calls. In brackets: 95 % percentile bootstrap over prompts.
    """
    pairs, counts = bench.first_pairs(16, 8), bench.calls or (12,)
    objective = Objective({"text": TextAlignment(load_clip("emoji_world/guide"))}, {"text": 1.0})
    base = None
    yield "calls", "sampler", "pairs", "judge", "gain", "final - ddim", "scene, %", "final", "final - ddim"
    for calls in counts:
        for name in bench.samplers:
            first, final = _optimised(bench, objective, name, calls, pairs)
            base = final if base is None else base
            judge = f"{first['judge'].mean():.1f}", _to(final, first, "judge"), _to(final, base, "judge")
            scene = f"{first['scene'].mean():.1f}", f"{final['scene'].mean():.1f}", _to(final, base, "scene")
            yield calls, name, len(pairs), *judge, *scene


def _optimised(
    bench: Bench, objective: Objective, name: str, calls: int, pairs: Sequence[PromptSeed]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of the first and of the final images, eight pairs at a time."""
    chain = bench.chain_of_calls(name, calls, pairs[:1], GUIDANCE)
    module = LatentPairModule(chain, objective, num_optimization_steps=8 if bench.quick else 16)
    kept = _Results()
    callbacks = [*default_callbacks(grad_clip_value=0.02, gradient_rms=0.006), kept]
    trainer = {"accelerator": "cpu", "devices": 1, "precision": "bf16-mixed" if bench.bf16 else "32-true"}
    train(module, PromptDataModule(pairs, pairs_per_fit=8), callbacks=callbacks, logger=False, **trainer)
    results = kept.results
    first = torch.stack([result.initial_image for result in results])
    return bench.scores(first, pairs), bench.scores(torch.stack([r.final_image for r in results]), pairs)


class _Results(PairCallback):
    """Keeps the results of all batches."""

    def __init__(self) -> None:
        self.results: list[PairResult] = []

    def on_pairs_end(self, trainer: Any, pl_module: Any, results: Sequence[PairResult]) -> None:
        """Those of one batch."""
        self.results += results


TABLES: dict[str, Callable[[Bench], Rows]] = {
    "error": error_table,
    "quality": quality_table,
    "drift": drift_table,
    "inversion": inversion_table,
    "gradient": gradient_table,
    "optimise": optimise_table,
}


def main() -> None:
    """Prints the tables in Markdown, each row when it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument(
        "--pairs",
        type=int,
        help="of a table, by default: error 2, quality 64, drift 1, inversion and gradient 4, optimise 16",
    )
    parser.add_argument(
        "--calls",
        type=int,
        nargs="+",
        default=(),
        help="network calls of error (6 12 20), quality, gradient and optimise (12)",
    )
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS), metavar="NAME")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast in quality and optimise")
    parser.add_argument("--trailing", action="store_true", help="quality with timesteps over the full range")
    parser.add_argument("--guidance", type=float, nargs="+", default=(GUIDANCE,), help="scales of quality (4)")
    parser.add_argument("--quick", action="store_true", help="fewer items: to see that it runs, not to conclude")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.tables) - set(TABLES))
    if unknown:
        parser.error(f"unknown tables {', '.join(unknown)}; expected {', '.join(TABLES)}")
    warnings.filterwarnings("ignore", category=FutureWarning)
    bench = Bench(
        load_models("emoji_world"),
        arguments.pairs,
        tuple(arguments.calls),
        tuple(arguments.samplers),
        arguments.bf16,
        arguments.quick,
        arguments.trailing,
        tuple(arguments.guidance),
    )
    for name in arguments.tables or [name for name in TABLES if name != "optimise"]:
        started = time.perf_counter()
        print(f"\n### {name}\n\n{TABLES[name].__doc__}\n", flush=True)
        for index, row in enumerate(TABLES[name](bench)):
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
            if index == 0:
                print("|---" * len(row) + "|")
        print(f"\n{time.perf_counter() - started:.0f} s, {torch.get_num_threads()} threads", flush=True)


if __name__ == "__main__":
    main()
