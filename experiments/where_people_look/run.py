"""Does attention pay more for small subjects? Gains of looking, against the size of the subjects in the picture.

python -m experiments.where_people_look.run [NAME ...] [--out runs/where_people_look]

All names optimise the same pairs by the same number of updates, without a search and by raw gradients: `doodl` without
regions, the others with phrases matched to regions of one detector each. The guide sees images at half of its
resolution, so that a crop shows what the whole image has lost (`experiments.where_people_look.half`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import ndimage

from experiments.controls import CONTROLS, TrueMasks
from experiments.which_method.tables import difference, shared
from sgool import fit
from sgool.config.paths import home_path
from sgool.models.images import to_tensor
from sgool.results.records import read_record

COMMON = (
    "models=emoji_world_turbo",
    "sampler.num_inference_steps=1",
    "engine=direct",
    "logger=none",
    "trainer.threads=1",
    "trainer.precision=bf16-mixed",
    "trainer.pairs_per_fit=16",
    "data.prompts=emoji_world/heldout",
    "objective=half",
)
_LOOKS = ("methods=[sgool_paper]", "method.sgool_paper.saliency.match=phrases")
#: Name -> the overrides that make it.
DETECTORS: dict[str, tuple[str, ...]] = {
    "doodl": ("methods=[doodl]",),
    "true masks": (*_LOOKS, "saliency=true_masks"),
    "transalnet": (*_LOOKS, "saliency=transalnet_emoji"),
    "spectral residual": (*_LOOKS, "saliency=spectral_residual"),
    "centre": (*_LOOKS, "saliency=center"),
    "wrong places": (*_LOOKS, "saliency=wrong_places"),
}
#: Sides of the subjects, as a share of the image's: up to each bound. Single things are larger than pairs and groups.
BOUNDS = (0.4, 0.5, 1.0)


def subject_side(image: torch.Tensor) -> float:
    """Returns the mean side of the things in an image (3, H, W), as a share of the image's: the larger side of each."""
    mask = TrueMasks()(image[None])[0, 0].numpy()
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    boxes = [box for box in ndimage.find_objects(labels) if mask[box].sum() >= 20]
    sides = [max(box[0].stop - box[0].start, box[1].stop - box[1].start) for box in boxes]
    return float(np.mean(sides)) / image.shape[-1] if sides else 0.0


def read_rows(folder: Path) -> pd.DataFrame:
    """Reads a run: a row for each finished pair, indexed by pair id; ``side`` is of the first image's subjects."""
    rows = []
    for path in sorted(folder.glob("pairs/*/*/record.json")):
        record = read_record(path)
        with Image.open(path.parent / "initial.png") as picture:
            side = subject_side(to_tensor(picture.convert("RGB")))
        rows.append(
            {
                "pair": record.pair_id,
                "prompt": record.prompt,
                "side": side,
                "scene": 100 * record.metrics["scene_accuracy"],
                "scene_initial": 100 * record.metrics["scene_accuracy_initial"],
                "judge": record.metrics["judge/clip_score"],
            }
        )
    return pd.DataFrame(rows).set_index("pair")


def tables(runs: dict[str, pd.DataFrame]) -> str:
    """Returns a Markdown table: the gain over `doodl` of each detector, in all pairs and by the subjects' side."""
    runs = shared(runs)
    side = runs["doodl"]["side"]
    bins = {"all": side >= 0}
    low = 0.0
    for bound in BOUNDS:
        bins[f"{100 * low:.0f} to {100 * bound:.0f} %"] = (side > low) & (side <= bound)
        low = bound
    lines = [["detector", *(f"{name} ({int(own.sum())} pairs)" for name, own in bins.items()), "judge, all"]]
    lines.append(["---"] * len(lines[0]))
    base = runs["doodl"]
    shares = [f"{base.loc[own, 'scene'].mean():.1f} % right" for own in bins.values()]
    lines.append(["none (doodl)", *shares, f"{base['judge'].mean():.1f}"])
    for name, run in runs.items():
        if name != "doodl":
            gains = [difference(run[own], base[own], "scene") for own in bins.values()]
            lines.append([name, *gains, difference(run, base, "judge")])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(DETECTORS), metavar="NAME", help="; ".join(DETECTORS))
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--out", type=home_path, default=Path("runs/where_people_look"))
    given = parser.parse_args(argv)
    for name in given.names:
        run_dir = given.out / name.replace(" ", "_")
        more = (f"data.limit={given.pairs}", f"run_dir={run_dir}")
        fit(*COMMON, *DETECTORS[name], *more, config_dir=CONTROLS)
    found = {name: read_rows(given.out / name.replace(" ", "_")) for name in given.names}
    if "doodl" in found:
        print(tables(found))


if __name__ == "__main__":
    main()
