"""A picture of edits: rows of photos, with a column for each state."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from experiments.aesthetic.photos import photos
from experiments.aesthetic.run import GOALS
from sgool.report.load import load_runs

_SIDE, _GAP, _HEAD = 64, 4, 14
#: Photos side by side, so that the picture is wider than high.
_ACROSS = 2


def write_sheet(runs: Path, file: Path, most: int = 4) -> None:
    """Input, reconstruction and each goal's edit of the first ``most`` photos, pixel by pixel."""
    goals = [goal for goal in GOALS if (runs / goal).is_dir()]
    loaded = {goal: load_runs([runs / goal])[0] for goal in goals}
    rows: list[list[Path]] = []
    for photo in photos():
        folders = [
            run.pair_folder(r.method, r.pair_id)
            for run in loaded.values()
            for r in run.records
            if r.prompt == photo.text
        ]
        if len(folders) == len(goals):
            rows.append(
                [folders[0] / "input.png", folders[0] / "reconstruction.png", *(f / "final.png" for f in folders)]
            )
    _draw(rows[:most], ["photo", "inverted", *goals], file)


def _draw(rows: list[list[Path]], titles: list[str], file: Path) -> None:
    step, block = _SIDE + _GAP, len(titles) * (_SIDE + _GAP) + 3 * _GAP
    down = -(-len(rows) // _ACROSS)
    sheet = Image.new("RGB", (_ACROSS * block - 4 * _GAP, _HEAD + down * step - _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = number // down * block, _HEAD + number % down * step
        for column, (title, path) in enumerate(zip(titles, row, strict=True)):
            place = left + column * step
            if number % down == 0:
                pen.text((place + 2, 2), title, fill="black")
            sheet.paste(Image.open(path).convert("RGB"), (place, top))
    sheet.save(file, optimize=True)
