"""Writes the experiment's tables: does the formula's rating rise, and what of the picture is left?

python -m experiments.aesthetic.table runs/aesthetic_embedded [--out experiments/aesthetic/results]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from experiments.aesthetic.filters import filter_of_psnr, psnr
from experiments.aesthetic.photos import Photo, photos
from experiments.aesthetic.rating import coarse, colourfulness, contrast, rating
from experiments.aesthetic.run import GOALS
from experiments.aesthetic.sheet import write_sheet
from experiments.intervals import difference_text, share_text, write_tables
from sgool.config.paths import home_path
from sgool.metrics import JudgePanel
from sgool.metrics.panel import INITIAL
from sgool.models.images import open_photo, to_tensor
from sgool.report.load import load_runs
from sgool.run.parts import Parts
from sgool.types import PromptSeed

#: Column -> title and digits.
SCORES = {
    "rating": ("the formula's rating, 1 to 10", 2),
    "coarse": ("the same of means over 4 x 4 pixels", 2),
    "colourfulness": ("colourfulness", 1),
    "contrast": ("contrast", 1),
    "taste/aesthetic": ("head on the judge", 2),
    "guide_taste/aesthetic": ("head on the guide (optimised, no evidence)", 2),
    "judge/clip_score": ("judge's CLIP score with what the photo shows", 1),
}
#: Column -> title; 0 or 1, by the scene reader.
SHARES = {
    "scene/objects": "the photo's object and no other",
    "scene/colours": "its colour",
    "scene/background": "the photo's background",
    "scene_accuracy": "all of it, once",
}
#: Column -> title and digits: compared with the reconstruction.
CHANGES = {
    "pixels/psnr": ("PSNR, dB", 1),
    "pixels/ssim": ("SSIM", 3),
    "perceptual/perceptual_distance": ("distance", 3),
}
BASE = "reconstruction"
FILTER = "filter"


def rows_of(runs: Path) -> pd.DataFrame:
    """One row per photo and state: the photo, its reconstruction, the edits, and a filter that changes as much.

    Photos that lack one of the edits are left out.
    """
    goals = [goal for goal in GOALS if (runs / goal).is_dir()]
    loaded = {goal: load_runs([runs / goal])[0] for goal in goals}
    judges = Parts({**loaded["up"].config}).judges
    rows = []
    for photo in photos():
        found = {goal: [r for r in run.records if r.prompt == photo.text] for goal, run in loaded.items()}
        if any(not records or records[0].status != "done" for records in found.values()):
            continue
        folders = {goal: runs / goal / "pairs" / found[goal][0].method / found[goal][0].pair_id for goal in goals}
        images = {name: _read(folders["up"] / f"{name}.png") for name in ("input", BASE)}
        images |= {goal: _read(folder / "final.png") for goal, folder in folders.items()}
        images[FILTER] = filter_of_psnr(images[BASE], psnr(images["up"], images[BASE]))
        costs = {goal: {"calls": r.network_evaluations, "seconds": r.seconds} for goal, (r, *_) in found.items()}
        rows += [{**row, **costs.get(row["state"], {})} for row in _measured(photo, images, judges)]
    return pd.DataFrame(rows).round(4)


def _read(path: Path) -> Tensor:
    return to_tensor(open_photo(path))


def _measured(photo: Photo, images: dict[str, Tensor], judges: JudgePanel) -> list[dict[str, str | float]]:
    """A row per state of one photo: the formula, all judges, and what the reader says of the photo's scene."""
    (thing,) = photo.scene.objects
    scene = {"objects": [{"noun": thing.noun, "tint": thing.tint}], "background": photo.scene.background}
    pairs = [PromptSeed(photo.text, metadata={"scene": scene})] * len(images)
    batch = torch.stack(list(images.values()))
    judged = judges.judge(images[BASE].expand_as(batch), batch, pairs)
    rows = [{name: value for name, value in row.items() if not name.endswith(INITIAL)} for row in judged]
    exact = batch.double()
    formula = {"rating": rating(exact), "coarse": rating(coarse(exact))}
    formula |= {"colourfulness": colourfulness(exact), "contrast": contrast(exact)}
    return [
        {"photo": photo.text, "state": state, **{name: float(x[i]) for name, x in formula.items()}, **scores}
        for i, (state, scores) in enumerate(zip(images, rows, strict=True))
    ]


def tables(rows: pd.DataFrame) -> list[str]:
    """Means and shares of all states, differences to the reconstruction, and a row per photo."""
    states = {str(name): part.set_index("photo") for name, part in rows.groupby("state", sort=False)}
    edits = [name for name in states if name not in ("input", BASE)]
    number = len(states[BASE])
    lines = _head([f"mean of {number} photos", *states])
    for name, (title, digits) in SCORES.items():
        lines.append(_line(title, (f"{part[name].mean():.{digits}f}" for part in states.values())))
    lines += ["", *_head([f"difference to the {BASE}, 95 %, up/equal/down", *edits])]
    for name, (title, digits) in SCORES.items():
        lines.append(_line(title, (_difference(states[edit][name], states[BASE][name], digits) for edit in edits)))
    names = ("rating", "coarse", "taste/aesthetic")
    lines += ["", *_head(["difference", *(SCORES[name][0] for name in names)])]
    for other in (edit for edit in edits if edit != "up"):
        cells = (_difference(states["up"][name], states[other][name], 2) for name in names)
        lines.append(_line(f"up - {other}", cells))
    lines += ["", *_head(["the reader sees", *states])]
    for name, title in SHARES.items():
        lines.append(_line(title, (share_text(part[name]) for part in states.values())))
    lines += ["", *_head([f"change from the {BASE}", *edits])]
    for name, (title, digits) in CHANGES.items():
        lines.append(_line(title, (f"{states[edit][name].mean():.{digits}f}" for edit in edits)))
    return [*lines, "", *_per_photo(states), "", _costs(states)]


def _per_photo(states: dict[str, pd.DataFrame]) -> list[str]:
    edits = [name for name in states if name != "input"]
    lines = _head(["the formula's rating; * the reader sees the whole scene", *edits])
    for photo in states[BASE].index:
        cells = (
            f"{states[n].loc[photo, 'rating']:.2f}{'*' if states[n].loc[photo, 'scene_accuracy'] else ''}"
            for n in edits
        )
        lines.append(_line(photo, cells))
    return lines


def _difference(values: pd.Series, others: pd.Series, digits: int) -> str:
    return difference_text(values, others, pd.Series(values.index, index=values.index), 1, digits)


def _costs(states: dict[str, pd.DataFrame]) -> str:
    parts = (
        f"{name} {part['calls'].mean():.0f} and {part['seconds'].mean():.0f}"
        for name, part in states.items()
        if part["calls"].notna().all()
    )
    return f"Network calls and seconds an edit: {', '.join(parts)}."


def _head(cells: list[str]) -> list[str]:
    return [_line(cells[0], cells[1:]), "|---" * len(cells) + "|"]


def _line(first: object, cells: object) -> str:
    return f"| {' | '.join([str(first), *cells])} |"  # type: ignore[misc]


def main() -> None:
    """Writes the tables and the picture of edits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=home_path)
    parser.add_argument(
        "--out", type=home_path, default=Path(__file__).with_name("results"), help="file name, no suffix"
    )
    arguments = parser.parse_args()
    rows = rows_of(arguments.runs)
    write_tables(arguments.out, rows, tables(rows))
    write_sheet(arguments.runs, arguments.out.with_name("edits.png"))


if __name__ == "__main__":
    main()
