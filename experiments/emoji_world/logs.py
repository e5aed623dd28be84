"""Small copies of the training logs and their curves, for the repository."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

from sgool.errors import SgoolError

#: Name -> folder of its log pieces in the work folder.
FOLDERS = {
    "vae": "vae",
    "guide": "guide",
    "denoiser": "unet",
    "reader_shapes": "reader/shapes",
    "reader_recolour": "reader/recolour",
    "judge": "judge",
    "consistency": "consistency",
    "matching": "matching",
}
MAX_ROWS = 200
#: Steps between two rows of a Lightning log, doubled: a log that begins later has lost its first piece.
_FIRST = 100


def collect(work: Path, folder: Path, folders: Mapping[str, str] = FOLDERS) -> dict[str, dict]:
    """Writes NAME.csv of at most 200 rows per stage, summary.json and, with matplotlib, curves.png.

    Args:
        work: Work folder.
        folder: Where to write.
        folders: Name of a stage -> folder of its log pieces in the work folder.

    Returns:
        Per stage: ``steps``, ``pieces``, ``minutes`` between the first and the last row of each piece, and
        ``lost_before``: the first step in the log, if an earlier piece is missing.

    Raises:
        SgoolError: No logs in the work folder.
    """
    tables, summary = {}, {}
    for name, inside in folders.items():
        pieces = sorted((work / inside).glob("log*/metrics.csv"), key=lambda f: f.stat().st_mtime)
        rows = merge(pieces)
        if rows:
            tables[name], summary[name] = thin(rows), _summary(pieces, rows)
    if not tables:
        raise SgoolError(f"expected training logs ({', '.join(folders.values())}) in {work}, got none")
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        _write(folder / f"{name}.csv", rows)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if importlib.util.find_spec("matplotlib"):
        _plot(tables, folder / "curves.png")
    return summary


def merge(pieces: list[Path]) -> list[dict[str, float]]:
    """The rows of several log pieces by step; where they overlap, the later piece counts."""
    rows: dict[int, dict[str, float]] = {}
    for piece in pieces:
        with piece.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values = {k: float(v) for k, v in row.items() if v and k not in ("epoch", "step")}
                rows[int(row["step"]) + 1] = {"step": int(row["step"]) + 1, **values}
    return [rows[step] for step in sorted(rows)]


def thin(rows: list[dict[str, float]], number: int = MAX_ROWS) -> list[dict[str, float]]:
    """At most ``number`` of the rows, evenly spaced, the last one among them."""
    stride = -(-len(rows) // number)
    return rows[::-1][::stride][::-1]


def _summary(pieces: list[Path], rows: list[dict[str, float]]) -> dict[str, float]:
    # A log's folder was last changed when its file was created, which was when the first row was written.
    seconds = sum(max(0.0, piece.stat().st_mtime - piece.parent.stat().st_mtime) for piece in pieces)
    result = {"steps": int(rows[-1]["step"]), "pieces": len(pieces), "minutes": round(seconds / 60, 1)}
    return result | ({"lost_before": int(rows[0]["step"])} if rows[0]["step"] > _FIRST else {})


def _write(file: Path, rows: list[dict[str, float]]) -> None:
    names = ["step", *sorted({name for row in rows for name in row} - {"step"})]
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: v if k == "step" else f"{v:.5g}" for k, v in row.items()} for row in rows)


def _plot(tables: dict[str, list[dict[str, float]]], file: Path) -> None:
    from matplotlib.figure import Figure

    columns = min(3, len(tables))
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(3 * columns, 2.4 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, (name, rows) in zip(axes, tables.items(), strict=False):
        axis.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=1)
        axis.set(title=name, yscale="log", xlabel="step")
        axis.grid(True, which="both", alpha=0.2)
    for axis in axes[len(tables) :]:
        axis.set_visible(False)
    figure.supylabel("training loss")
    figure.savefig(file, dpi=100)
