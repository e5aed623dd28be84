"""FID and KID of a run's images to painted images of their targets: writes fid.csv and fid.md.

python -m experiments.vocabulary.fid runs/vocabulary_embedded --reference runs/vocabulary_reference
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from experiments.vocabulary.reference import SCENES
from sgool.config.paths import home_path
from sgool.metrics import set_distances
from sgool.metrics.distribution import ClassifierFeatures, ClipFeatures, features_of
from sgool.models.classifier import load_classifier
from sgool.models.clip import load_clip
from sgool.prompts import read_prompts
from sgool.report.load import load_runs
from sgool.report.stats import bootstrap_interval
from sgool.run.imagesets.files import batches

METHODS = ("vanilla", "best_of_n", "doodl")
#: Painted sets of the runs' size, as a scale.
SCALE = {"right": "painted: the right noun", "wrong": "painted: a wrong noun"}
FEATURES = {
    "judge": "the judge CLIP",
    "guide": "the guide CLIP (no part of this run's objective)",
    "classifier": "the classifier (optimised against, no evidence)",
}
Classes = dict[str, Tensor]


def networks() -> dict[str, nn.Module]:
    """The networks of `FEATURES`."""
    classifier = load_classifier("local", checkpoint="emoji_world/classifier")
    clips = {name: ClipFeatures(load_clip(f"emoji_world/{name}")) for name in ("judge", "guide")}
    return {**clips, "classifier": ClassifierFeatures(classifier)}


def run_files(run: Path) -> dict[str, dict[str, list[Path]]]:
    """Method -> target noun -> final images."""
    targets = {row.prompt: row.metadata.get("target", "") for row in read_prompts("emoji_world/generic")}
    files: dict[str, dict[str, list[Path]]] = {}
    for record in load_runs([run])[0].records:
        if record.status == "done":
            path = run / "pairs" / record.method / record.pair_id / "final.png"
            files.setdefault(record.method, {}).setdefault(targets[record.prompt], []).append(path)
    return files


def painted_files(folder: Path) -> dict[str, list[Path]]:
    """Target noun -> images."""
    return {path.name: sorted(path.glob("*.png")) for path in sorted(folder.iterdir()) if path.is_dir()}


def of_classes(files: dict[str, list[Path]], network: nn.Module) -> Classes:
    """Target noun -> features (N, D)."""
    return {noun: features_of(network, batches(paths)) for noun, paths in files.items()}


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """KID's unbiased estimate from all images of both sets: Bińkowski et al. 2018, without subsets."""

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (u @ v.T / u.shape[1] + 1) ** 3

    def within(u: Tensor) -> float:
        values = kernel(u, u)
        return float((values.sum() - values.diagonal().sum()) / (len(u) * (len(u) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def class_kids(images: Classes, reference: Classes) -> pd.Series:
    """Of each noun, its images' KID to its own reference; nouns with fewer than two images are left out."""
    return pd.Series({noun: squared_mmd(x, reference[noun]) for noun, x in images.items() if len(x) > 1})


def measure(sets: dict[str, Classes], reference: Classes) -> pd.DataFrame:
    """A row per set; differences of doodl's class KIDs to those of the other sets, which have the same nouns."""
    everything = join(reference.values())
    kids = {name: class_kids(images, reference) for name, images in sets.items()}
    rows = []
    for name, images in sets.items():
        found = set_distances(join(images.values()), everything)
        row = {"set": name, "images": found.images, "fid": found.fid, "kid": found.kid, "kid_std": found.kid_std}
        row |= {"classes": len(kids[name]), "class_kid": kids[name].mean()}
        if name != "doodl":
            gains = (kids["doodl"] - kids[name]).dropna()
            low, high = bootstrap_interval(gains.to_numpy(), gains.index.to_numpy())
            row |= {"difference": gains.mean(), "low": low, "high": high}
        rows.append(row)
    parts = [part.split(len(part) // 2)[:2] for part in reference.values()]
    found = set_distances(join(first for first, _ in parts), join(second for _, second in parts))
    last = {"set": "halves", "images": found.images, "fid": found.fid, "kid": found.kid, "kid_std": found.kid_std}
    classes = [squared_mmd(first, second) for first, second in parts]
    return pd.DataFrame([*rows, {**last, "classes": len(classes), "class_kid": np.mean(classes)}])


def join(parts: Iterable[Tensor]) -> Tensor:
    """All classes' features."""
    return torch.cat(list(parts))


def table(rows: pd.DataFrame) -> list[str]:
    """Lines of Markdown."""
    heads = ["images of", "number", "FID", "KID", "KID per noun", "doodl's KID per noun minus this"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows.itertuples():
        title = {**SCALE, "halves": "one half of the reference, to the other"}.get(str(row.set), f"`{row.set}`")
        gain = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" if pd.notna(row.difference) else ""
        kid = f"{row.kid:.3f} ± {row.kid_std:.3f}"
        lines.append(f"| {title} | {row.images} | {row.fid:.1f} | {kid} | {row.class_kid:.3f} | {gain} |")
    return lines


def main() -> None:
    """Writes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=home_path)
    parser.add_argument("--reference", type=home_path, default=Path("runs/vocabulary_reference"))
    parser.add_argument("--out", type=home_path, default=Path(__file__).with_name("fid"), help="file name, no suffix")
    arguments = parser.parse_args()
    of_run = run_files(arguments.run)
    files = {name: of_run[name] for name in METHODS if name in of_run}
    frames, lines = [], []
    for name, network in networks().items():
        methods = {method: of_classes(paths, network) for method, paths in files.items()}
        for kind in SCENES:
            folder = arguments.reference / kind
            painted = {kept: of_classes(painted_files(folder / kept), network) for kept in SCALE}
            reference = of_classes(painted_files(folder / "reference"), network)
            rows = measure({**methods, **painted}, reference)
            frames.append(rows.assign(features=name, scenes=kind))
            number = sum(map(len, reference.values()))
            lines += [f"Features of {FEATURES[name]}; reference: {number} painted images, {kind} tints.", ""]
            lines += [*table(rows), ""]
    pd.concat(frames).round(5).to_csv(arguments.out.with_suffix(".csv"), index=False)
    text = "\n".join(lines)
    arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
