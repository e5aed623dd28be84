"""Chooses the optimiser's settings on the tuning prompts, which share no prompt with the evaluation.

python -m experiments.first_light.tune [NAME ...] [--limit 12] [--out runs/tune]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sgool import fit
from sgool.config.paths import home_path
from sgool.report import summary_rows

COMMON = (
    "data.prompts=emoji_world/tune",
    "data.seeds=[7]",
    "logger=none",
    "trainer.pairs_per_fit=12",
    "trainer.precision=bf16-mixed",
)

#: The published form of `sgool`, which these trials are of.
PAPER = ("methods=[sgool_paper]", "saliency=spectral_residual", "match=prompt")
#: Name -> overrides. gradient_rms is the size of one step in units of the latents' standard deviation.
GRID: dict[str, tuple[str, ...]] = {
    "paper-clip": ("methods=[doodl]", "optimization.gradient_rms=null", "optimization.grad_clip_value=1e-3"),
    "rms-0.006": ("methods=[doodl]", "optimization.gradient_rms=0.006", "optimization.grad_clip_value=0.02"),
    "rms-0.012": ("methods=[doodl]", "optimization.gradient_rms=0.012", "optimization.grad_clip_value=0.04"),
    "rms-0.024": ("methods=[doodl]", "optimization.gradient_rms=0.024", "optimization.grad_clip_value=0.08"),
    "tight": (
        *PAPER,
        "saliency.min_side=0.3",
        "saliency.margin=0.1",
        "saliency.w_salient=0.5",
        "saliency.w_global=0.5",
    ),
    "wide": (
        *PAPER,
        "saliency.min_side=0.75",
        "saliency.margin=0.25",
        "saliency.w_salient=0.5",
        "saliency.w_global=0.5",
    ),
    "light": (
        *PAPER,
        "saliency.min_side=0.6",
        "saliency.margin=0.25",
        "saliency.w_salient=0.2",
        "saliency.w_global=0.8",
    ),
}


def main() -> None:
    """Runs the named settings (all by default) and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(GRID), metavar="NAME", help=", ".join(GRID))
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--out", type=home_path, default=Path("runs/tune"))
    arguments = parser.parse_args()
    for name in arguments.names:
        outcome = fit(*COMMON, *GRID[name], f"data.limit={arguments.limit}", f"run_dir={arguments.out / name}")
        for row in summary_rows(list(outcome.records)):
            judge = f"judge {row['judge_initial']:.2f} -> {row['judge_final']:.2f}"
            scene = f"scene {row['scene_initial']:.3f} -> {row['scene_final']:.3f}"
            print(f"{name:12s} {row['method']:6s} n={row['pairs']} {judge} {scene} {row['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
