"""Other ways to spend the calls of `sgool`: several latents that are optimised side by side, and going back.

python -m experiments.which_method.schedules [NAME ...] [--pairs 48] [--precision 32-true]

A plain loop, since none of them is a part of sgool: candidates, then rungs of updates with whitened gradients, where
each rung keeps the best latents of the one before (successive halving), or where latents whose updates made the image
worse go back to the best ones with a smaller step. All of `SCHEDULES` take 99 calls of the student with one step, on
the prompts of ``tune_hard``. The table compares each with the first on the same prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from experiments.controls import CONTROLS
from experiments.which_method.run import COMMON, METHODS, MODELS
from experiments.which_method.tables import difference
from sgool.callbacks.whiten import whitened
from sgool.diffusion.chain import Chain
from sgool.methods.candidates import draw_candidate
from sgool.methods.starts import network_prompts, start_latents
from sgool.models.autoencoder import in_unit_range
from sgool.objectives import Objective
from sgool.prompts.seeding import pair_generator
from sgool.prompts.seeds import load_pairs
from sgool.results.checkpoint import eight_bit
from sgool.run.config import load_config, to_plain
from sgool.run.parts import Parts
from sgool.types import PromptSeed

#: As `sgool` has them for this model.
GRADIENT_RMS = 0.02
MOMENTUM = 0.9
BLOCK = 16
#: Candidates in one call of the network.
TOGETHER = 8


@dataclass(frozen=True)
class Schedule:
    """How the calls of a pair are spent.

    Attributes:
        candidates: How many first latents are drawn and rated.
        rungs: How many of the best are kept, and the updates of each of them, one rung after another.
        patience: Updates in a row without a better image, after which latents go back; 0 for never.
        shrink: Factor on the size of the step when they do.
    """

    candidates: int
    rungs: tuple[tuple[int, int], ...]
    patience: int = 0
    shrink: float = 1.0

    @property
    def calls(self) -> int:
        """Network calls of a pair; an update has two, and the last latents are rated once more."""
        return self.candidates + sum(2 * kept * updates for kept, updates in self.rungs) + self.rungs[-1][0]


#: What is tried, under its name in the table.
SCHEDULES = {
    "one of 50": Schedule(50, ((1, 24),)),
    "two of 50, then one": Schedule(50, ((2, 6), (1, 12))),
    "four of 40, then one": Schedule(40, ((4, 4), (1, 13))),
    "eight of 32, two, then one": Schedule(32, ((8, 2), (2, 4), (1, 9))),
    "goes back at once, half the step": Schedule(50, ((1, 24),), patience=1, shrink=0.5),
    "goes back at once, a quarter of the step": Schedule(50, ((1, 24),), patience=1, shrink=0.25),
    "goes back after three, a quarter of the step": Schedule(50, ((1, 24),), patience=3, shrink=0.25),
}


@dataclass
class Track:
    """One of the latents that are optimised, (1, 1, C, h, w), with the best image that it has had."""

    latents: Tensor
    score: float
    image: Tensor
    step: float = GRADIENT_RMS
    waited: int = 0
    velocity: Tensor = field(init=False)
    best_latents: Tensor = field(init=False)
    best_gradient: Tensor = field(init=False)
    lowest: float = float("inf")

    def __post_init__(self) -> None:
        """Begins at rest."""
        self.velocity, self.best_latents = torch.zeros_like(self.latents), self.latents

    def see(self, score: float, image: Tensor) -> None:
        """Keeps the image if it is better than all before."""
        if score < self.score:
            self.score, self.image = score, eight_bit(in_unit_range(image))

    def update(self, score: float, gradient: Tensor, schedule: Schedule) -> None:
        """Moves the latents, or goes back to the best ones and moves from there."""
        if score < self.lowest:
            self.lowest, self.best_latents, self.best_gradient, self.waited = score, self.latents, gradient, 0
        else:
            self.waited += 1
        if schedule.patience and self.waited >= schedule.patience:
            self.latents, gradient, self.waited = self.best_latents, self.best_gradient, 0
            self.step *= schedule.shrink
            self.velocity = torch.zeros_like(self.velocity)
        self.velocity = MOMENTUM * self.velocity + self.step * gradient / gradient.square().mean().sqrt()
        moved = whitened(self.latents - self.velocity, BLOCK)
        self.latents = moved * (self.latents.norm() / moved.norm())


class Trial:
    """Runs schedules on pairs.

    Args:
        parts: Networks, chain and judges of the configuration.
        objective: That of `sgool`.
        precision: ``bf16-mixed`` or ``32-true``.
    """

    def __init__(self, parts: Parts, objective: Objective, precision: str = "bf16-mixed") -> None:
        self._parts = parts
        self._objective = objective
        self._in_bfloat16 = precision == "bf16-mixed"

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._in_bfloat16)

    def run(self, pair: PromptSeed, schedule: Schedule) -> tuple[dict[str, float], float]:
        """Returns what the judges say of the pair's best image, and its score by the objective (lower is better)."""
        tracks = self._search(pair, schedule.candidates)
        for number, (kept, updates) in enumerate(schedule.rungs):
            tracks = sorted(tracks, key=lambda track: track.score)[:kept]
            before = sum(done for _, done in schedule.rungs[:number])
            for update in range(before, before + updates):
                scores, gradients = self._rate(pair, tracks, update, with_gradient=True)
                for track, score, gradient in zip(tracks, scores, gradients, strict=True):
                    track.update(score, gradient, schedule)
        self._rate(pair, tracks, sum(done for _, done in schedule.rungs), with_gradient=False)
        best = min(tracks, key=lambda track: track.score)
        return self._parts.judges.judge(None, best.image[None], [pair])[0], best.score

    def _chain(self, pair: PromptSeed, number: int) -> Chain:
        return self._parts.chain.with_prompts(network_prompts([pair]) * number)

    def _search(self, pair: PromptSeed, number: int) -> list[Track]:
        first = start_latents(self._chain(pair, 1), [pair])
        drawn = [draw_candidate(first, [pair], index) for index in range(number)]
        tracks = []
        for start in range(0, number, TOGETHER):
            part = drawn[start : start + TOGETHER]
            with torch.no_grad(), self._autocast():
                images = in_unit_range(self._chain(pair, len(part))(torch.cat(part, dim=1)).images[0])
                scores = self._objective.bind([pair] * len(part)).evaluate(images)
            rated = zip(part, scores.tolist(), eight_bit(images), strict=True)
            tracks += [Track(latents, score, image) for latents, score, image in rated]
        return tracks

    def _rate(
        self, pair: PromptSeed, tracks: Sequence[Track], update: int, with_gradient: bool
    ) -> tuple[list[float], list[Tensor]]:
        """Rates the tracks' present latents; their whitened gradients are those of the crops of this update."""
        latents = torch.cat([track.latents for track in tracks], dim=1).detach().requires_grad_(with_gradient)
        bound = self._objective.bind([pair] * len(tracks))
        crops = [pair_generator(pair.seed, "crops0", update) for _ in tracks]
        with torch.set_grad_enabled(with_gradient), self._autocast():
            images = self._chain(pair, len(tracks))(latents).images[0]
            scores = bound.evaluate(in_unit_range(images.detach())).tolist()
            for track, score, image in zip(tracks, scores, images.detach(), strict=True):
                track.see(score, image)
            if not with_gradient:
                return scores, []
            loss = bound(images, crops, update).loss.sum()
        (gradient,) = torch.autograd.grad(loss, latents)
        return scores, list(whitened(gradient, BLOCK).split(1, dim=1))


def build(precision: str = "bf16-mixed") -> Trial:
    """Loads the networks."""
    torch.set_num_threads(1)
    config = to_plain(load_config([*COMMON, *MODELS["student"], *METHODS["sgool"]], config_dir=CONTROLS))
    parts = Parts(config)
    module, _ = parts.method("sgool")
    return Trial(parts, module.objective, precision)


def outcome(trial: Trial, pairs: Sequence[PromptSeed], schedule: Schedule) -> pd.DataFrame:
    """Runs a schedule on pairs: a row for each, with ``prompt``, ``scene`` (0 or 100), ``judge`` and ``kept``.

    ``kept`` is the objective of the image that is kept.
    """
    rows = []
    for pair in pairs:
        said, kept = trial.run(pair, schedule)
        scene = 100 * said["scene_accuracy"]
        rows.append({"prompt": pair.prompt, "scene": scene, "judge": said["judge/clip_score"], "kept": kept})
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each schedule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all: {'; '.join(SCHEDULES)}")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--precision", choices=("bf16-mixed", "32-true"), default="bf16-mixed")
    given = parser.parse_args(argv)
    trial, pairs = build(given.precision), load_pairs("emoji_world/tune_hard", seeds=[7], limit=given.pairs)
    names = given.names or list(SCHEDULES)
    print(f"| schedule | scenes right | minus {names[0]} | judge | objective of the kept image (lower is better) |")
    print("|---|---|---|---|---|")
    first: pd.DataFrame | None = None
    for name in names:
        rows = outcome(trial, pairs, SCHEDULES[name])
        first = rows if first is None else first
        less = "" if rows is first else difference(rows, first, "scene")
        means = f"{rows['judge'].mean():.1f} | {rows['kept'].mean():.4f} |"
        print(f"| {name} | {rows['scene'].mean():.1f} % | {less} | {means}", flush=True)


if __name__ == "__main__":
    main()
