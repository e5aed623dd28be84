"""Writes the experiment's tables: does the image show the noun that only the classifier knew of?

python -m experiments.vocabulary.table runs/vocabulary_embedded [--out experiments/vocabulary/results]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

from experiments.intervals import by_method, costs, differences, head, share_text, write_tables
from sgool.config.paths import ASSETS, home_path
from sgool.metrics import SceneReader
from sgool.models.classifier import ImageClassifier, load_classifier
from sgool.models.images import open_photo, to_tensor
from sgool.prompts import read_prompts
from sgool.report.load import load_runs

#: Column -> title. All but the last are the scene reader's.
MEASURES = {
    "only_target": "shows the target and no other noun",
    "contains": "shows the target",
    "most_certain": "the most certain object is the target",
    "background": "background as the prompt says",
    "classifier": "classifier says target (optimised)",
}


def pair_rows(run: Path) -> pd.DataFrame:
    """One row per method and finished pair: what its final image shows."""
    reader = SceneReader.from_pretrained(ASSETS / "emoji_world/reader")
    classifier = load_classifier("local", checkpoint="emoji_world/classifier")
    facts = {row.prompt: row.metadata for row in read_prompts("emoji_world/generic")}
    rows = []
    for record in load_runs([run])[0].records:
        if record.status != "done":
            continue
        known = facts[record.prompt]
        image = run / "pairs" / record.method / record.pair_id / "final.png"
        shown = read_final(image, known["target"], known["scene"]["background"], reader, classifier)
        row = {"method": record.method, "prompt": record.prompt, "target": known["target"], "seed": record.seed}
        rows.append(row | shown | {"calls": record.network_evaluations, "seconds": round(record.seconds, 1)})
    return pd.DataFrame(rows).sort_values(["method", "target", "seed"], ignore_index=True)


@torch.no_grad()
def read_final(
    file: Path, target: str, background: str, reader: SceneReader, classifier: ImageClassifier
) -> dict[str, str | int]:
    """What the reader sees, and `MEASURES` as 0 or 1."""
    image = to_tensor(open_photo(file))[None]
    reading = reader.read(image)[0]
    nouns = [detection.noun for detection in reading.detections]
    label = classifier.labels[int(classifier(image).argmax())]
    return {
        "read": " ".join(nouns),
        "only_target": int(set(nouns) == {target}),
        "contains": int(target in nouns),
        "most_certain": int(nouns[:1] == [target]),
        "background": int(reading.background == background),
        "classifier": int(label == target),
    }


def tables(rows: pd.DataFrame) -> list[str]:
    """Shares with Wilson intervals and differences with bootstrap intervals over prompts; then a row per noun."""
    methods = by_method(rows, ["prompt", "seed"])
    lines = head(methods, "measure")
    for name, title in MEASURES.items():
        shares = " | ".join(share_text(part[name]) for part in methods.values())
        lines.append(f"| {title} | {shares} | {differences(methods, name, 'prompt', 100, 0)} |")
    names = [name for name in methods if name != "doodl"]
    columns = ["target", "pairs", *methods, "what doodl's images show"]
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for target, part in methods["doodl"].groupby("target"):
        others = [int(methods[name].loc[methods[name]["target"] == target, "only_target"].sum()) for name in names]
        counts = " | ".join(map(str, [len(part), *others, int(part["only_target"].sum())]))
        lines.append(f"| {target} | {counts} | {'; '.join(text or 'nothing' for text in part['read'])} |")
    return [*lines, "", costs(methods)]


def main() -> None:
    """Writes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=home_path)
    parser.add_argument(
        "--out", type=home_path, default=Path(__file__).with_name("results"), help="file name, no suffix"
    )
    arguments = parser.parse_args()
    rows = pair_rows(arguments.run)
    write_tables(arguments.out, rows, tables(rows))


if __name__ == "__main__":
    main()
