"""Chooses the optimiser's settings on the tuning prompts, which share no prompt with the evaluation.

python -m experiments.first_light.tune [--limit 24] [--out runs/tune] [NAME ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sgool import fit
from sgool.report import summary_rows

COMMON = ("data.prompts=emoji_world/tune", "data.seeds=[7]", "logger=none", "trainer.pairs_per_fit=8")

#: Name -> overrides. gradient_rms is the size of one step in units of the latents' standard deviation.
GRID: dict[str, tuple[str, ...]] = {
    "paper-clip": ("optimization.gradient_rms=null", "optimization.grad_clip_value=1e-3"),
    "rms-0.003": ("optimization.gradient_rms=0.003", "optimization.grad_clip_value=0.01"),
    "rms-0.006": ("optimization.gradient_rms=0.006", "optimization.grad_clip_value=0.02"),
    "rms-0.012": ("optimization.gradient_rms=0.012", "optimization.grad_clip_value=0.04"),
    "rms-0.024": ("optimization.gradient_rms=0.024", "optimization.grad_clip_value=0.08"),
    "big-crops": (
        "optimization.gradient_rms=0.012",
        "optimization.grad_clip_value=0.04",
        "objective.crops.min_side=0.75",
    ),
    "regions": ("optimization.gradient_rms=0.012", "optimization.grad_clip_value=0.04", "saliency.w_salient=0.3"),
}


def main() -> None:
    """Runs the named settings (all by default) and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(GRID))
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    parser.add_argument("--extra", nargs="*", default=[], help="further overrides for every setting")
    arguments = parser.parse_args()
    for name in arguments.names:
        outcome = fit(
            *COMMON, *GRID[name], *arguments.extra, f"data.limit={arguments.limit}", f"run_dir={arguments.out / name}"
        )
        for row in summary_rows(list(outcome.records)):
            print(
                f"{name:12s} {row['method']:8s} n={row['pairs']} judge {row['judge_initial']:.2f} -> {row['judge_final']:.2f} "
                f"scene {row['scene_initial']:.3f} -> {row['scene_final']:.3f} {row['seconds']:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
