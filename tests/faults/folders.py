"""What run folders hold, for comparisons to the last bit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

#: What differs between two runs of the same pair.
OF_THE_MACHINE = ("seconds", "peak_memory_mib")


def content(run_dir: Path) -> dict[str, Any]:
    """Every result and curve: all files of all pairs, ``results.csv``, ``updates.csv``, without what is the machine's.

    Not ``pairs.csv``: a process that is killed between a record and its row leaves the row out.
    """
    files = [path for path in sorted(run_dir.glob("pairs/**/*")) if path.is_file()]
    found: dict[str, Any] = {str(path.relative_to(run_dir)): _read(path) for path in files}
    for path in (run_dir / "results.csv", *sorted(run_dir.glob("logs/*/updates*.csv"))):
        # A pair that is done again is logged later than its mates.
        found[str(path.relative_to(run_dir))] = sorted(map(str, rows(path)))
    return found


def rows(path: Path) -> list[dict[str, str]]:
    """Of a CSV file."""
    with path.open(newline="") as stream:
        return [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in csv.DictReader(stream)]


def leftovers(run_dir: Path) -> list[str]:
    """What a run that is finished has no use for; the lock files of whole folders stay."""
    found = [*run_dir.rglob("*.tmp"), *run_dir.glob("locks/*/*")]
    found += [path for path in run_dir.glob("checkpoints/**/*") if path.is_file()]
    return sorted({str(path.relative_to(run_dir)) for path in found})


def damaged_records(run_dir: Path) -> list[Path]:
    """Records that are there and no JSON."""
    bad = []
    for path in run_dir.glob("pairs/*/*/record.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            bad.append(path)
    return bad


def _read(path: Path) -> Any:
    if path.name != "record.json":
        return path.read_bytes()
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in OF_THE_MACHINE}
