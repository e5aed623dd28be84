"""Writes the experiment's table: are the images like the reference, for judges that guided nothing?

python -m experiments.personalization.table runs/personalization_embedded [--out experiments/personalization/results]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from experiments.intervals import by_method, costs, differences, head, share_text, write_tables
from experiments.personalization.references import FOLDER, REFERENCES
from sgool.config.paths import ASSETS, home_path
from sgool.metrics import SceneReader
from sgool.metrics.reader import SceneReading
from sgool.models.clip import ClipTower, load_clip
from sgool.models.images import open_photo, to_tensor
from sgool.report.load import load_runs

#: Column -> title, factor, digits; cosines of image embeddings.
SCORES = {
    "judge": ("judge, likeness to the reference", 100, 1),
    "judge_others": ("judge, mean likeness to the other references", 100, 1),
    "guide": ("guide, likeness to the reference (optimised)", 100, 1),
}
#: Column -> title; 0 or 1.
SHARES = {
    "nearest": "judge: nearest of the 8 references",
    "noun": "reader: the reference's noun and no other",
    "tint": "reader: and its colours",
    "background": "reader: its background",
    "all": "reader: one object, noun, colours and background",
}


def pair_rows(runs: Path) -> pd.DataFrame:
    """One row per reference, method and finished pair: how like the reference its final image is."""
    judge, guide = load_clip("emoji_world/judge"), load_clip("emoji_world/guide")
    reader = SceneReader.from_pretrained(ASSETS / "emoji_world/reader")
    references = {name: to_tensor(open_photo(FOLDER / f"{name}.png"))[None] for name in REFERENCES}
    rows = []
    for name in (name for name in REFERENCES if (runs / name).is_dir()):
        for record in load_runs([runs / name])[0].records:
            if record.status != "done":
                continue
            image = to_tensor(open_photo(runs / name / "pairs" / record.method / record.pair_id / "final.png"))[None]
            row = {"reference": name, "method": record.method, "prompt": record.prompt, "seed": record.seed}
            row |= likeness(image, name, references, judge, guide) | shown(reader.read(image)[0], name)
            rows.append(row | {"calls": record.network_evaluations, "seconds": round(record.seconds, 1)})
    return pd.DataFrame(rows)


@torch.no_grad()
def likeness(
    image: Tensor, name: str, references: dict[str, Tensor], judge: ClipTower, guide: ClipTower
) -> dict[str, float]:
    """Cosines with the reference and with the others, and whether the reference is the nearest for the judge."""
    cosines = {other: _cosine(judge, image, reference) for other, reference in references.items()}
    others = [value for other, value in cosines.items() if other != name]
    return {
        "judge": round(cosines[name], 4),
        "judge_others": round(sum(others) / len(others), 4),
        "guide": round(_cosine(guide, image, references[name]), 4),
        "nearest": int(cosines[name] > max(others)),
    }


def _cosine(clip: ClipTower, image: Tensor, other: Tensor) -> float:
    return float((clip.encode_image(image) * clip.encode_image(other)).sum())


def shown(reading: SceneReading, name: str) -> dict[str, str | int]:
    """What the reader sees, and whether that is what the reference shows."""
    scene = REFERENCES[name]
    (thing,) = scene.objects
    tints = {detection.tint for detection in reading.detections}
    noun = {detection.noun for detection in reading.detections} == {thing.noun}
    tint = noun and tints == {thing.tint or "natural"}
    background = reading.background == scene.background
    seen = "; ".join(f"{detection.tint} {detection.noun}" for detection in reading.detections)
    return {
        "read": f"{seen or 'nothing'} on {reading.background}",
        "noun": int(noun),
        "tint": int(tint),
        "background": int(background),
        "all": int(tint and background and len(reading.detections) == 1),
    }


def tables(rows: pd.DataFrame) -> list[str]:
    """Means and shares of all methods, and differences with bootstrap intervals over references."""
    methods = by_method(rows, ["reference", "prompt", "seed"])
    lines = head(methods, f"{len(methods['doodl'])} pairs")
    for name, (title, factor, digits) in SCORES.items():
        means = " | ".join(f"{factor * part[name].mean():.{digits}f}" for part in methods.values())
        lines.append(f"| {title} | {means} | {differences(methods, name, 'reference', factor, digits)} |")
    for name, title in SHARES.items():
        shares = " | ".join(share_text(part[name]) for part in methods.values())
        lines.append(f"| {title} | {shares} | {differences(methods, name, 'reference', 100, 0)} |")
    columns = ["reference", *(f"judge, {name}" for name in methods), "what doodl's images show"]
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in dict.fromkeys(rows["reference"]):
        means = " | ".join(f"{100 * part.loc[name]['judge'].mean():.1f}" for part in methods.values())
        lines.append(f"| {name} | {means} | {', '.join(methods['doodl'].loc[name]['read'])} |")
    return [*lines, "", costs(methods)]


def main() -> None:
    """Writes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=home_path)
    parser.add_argument(
        "--out", type=home_path, default=Path(__file__).with_name("results"), help="file name, no suffix"
    )
    arguments = parser.parse_args()
    rows = pair_rows(arguments.runs)
    write_tables(arguments.out, rows, tables(rows))


if __name__ == "__main__":
    main()
