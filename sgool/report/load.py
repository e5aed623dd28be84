"""Runs from their folders, and their records as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sgool.errors import SgoolError
from sgool.results import RunFolder
from sgool.types import PairRecord

BASELINE = "vanilla"


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Attributes:
        folder: Where it is.
        name: The folder's name, made unique among the runs of one report.
        config: Its configuration; empty if ``config.yaml`` is missing.
        environments: Where it was made.
        records: By method and pair.
        notes: What is wrong with the folder: invalid records, interrupted pairs, no configuration.
    """

    folder: RunFolder
    name: str
    config: Mapping[str, Any]
    environments: tuple[Mapping[str, Any], ...]
    records: tuple[PairRecord, ...]
    notes: tuple[str, ...]


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read run folders; the same folder given twice counts once.

    Raises:
        SgoolError: No path, a path that is no run folder, or no record in any of them.
    """
    unique = list({Path(path).resolve(): Path(path) for path in paths}.values())
    if not unique:
        raise SgoolError("A report needs at least one run folder, got none. Give the run_dir of a `sgool fit`.")
    runs: list[Run] = []
    for path in unique:
        runs.append(_load_run(path, [run.name for run in runs]))
    if not any(run.records for run in runs):
        shown = ", ".join(str(path) for path in unique)
        notes = " ".join(note for run in runs for note in run.notes)
        raise SgoolError(
            f"No finished pair in {shown}, so there is nothing to report. Run `sgool fit run_dir={unique[0]}` first. "
            f"{notes}".rstrip()
        )
    return runs


def to_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run, method and pair, by run, then method in display order, then pair.

    Returns:
        Columns ``run`` (position in ``runs``), ``label`` (what the report calls the method: its name, or ``RUN/NAME``
        where several runs have it), the record's keys but for ``metrics``, and one float column per metric (NaN:
        absent).
    """
    labels = method_labels(runs)
    rows = []
    for position, run in enumerate(runs):
        order = {method: rank for rank, method in enumerate(ordered_methods(run))}
        for record in sorted(run.records, key=lambda record: (order[record.method], record.pair_id)):
            row: dict[str, Any] = {"run": position, "label": labels[position, record.method]}
            row |= {name: getattr(record, name) for name in record.__dataclass_fields__ if name != "metrics"}
            rows.append(row | dict(record.metrics))
    frame = pd.DataFrame(rows)
    metrics = sorted({name for run in runs for record in run.records for name in record.metrics})
    return frame.astype({name: "float64" for name in metrics})


def ordered_methods(run: Run) -> list[str]:
    """The methods that have records: in the configuration's order, others after, the baseline before these."""
    present = {record.method for record in run.records}
    configured = run.config.get("methods", ())
    names = [str(name) for name in configured] if isinstance(configured, (list, tuple, dict)) else []
    first = [name for name in dict.fromkeys(names) if name in present]
    return first + sorted(present - set(first), key=lambda name: (name != BASELINE, name))


def method_labels(runs: Sequence[Run]) -> dict[tuple[int, str], str]:
    """(position of the run, method) -> label, in display order; the run's name appears only where it must."""
    keys = [(position, method) for position, run in enumerate(runs) for method in ordered_methods(run)]
    methods = [method for _, method in keys]
    return {
        (position, method): method if methods.count(method) == 1 else f"{runs[position].name}/{method}"
        for position, method in keys
    }


def baseline_labels(runs: Sequence[Run]) -> dict[str, str | None]:
    """Label -> the label it is compared with: vanilla of its own run, else of the first run with one, else None.

    None for vanilla itself.
    """
    labels = method_labels(runs)
    vanillas = {position: label for (position, method), label in labels.items() if method == BASELINE}
    fallback = next(iter(vanillas.values()), None)
    return {
        label: None if method == BASELINE else vanillas.get(position, fallback)
        for (position, method), label in labels.items()
    }


def _load_run(path: Path, taken: Sequence[str]) -> Run:
    if not path.is_dir():
        raise SgoolError(f"{path} is not a run folder: there is no such folder. Give the run_dir of a `sgool fit`.")
    folder = RunFolder(path)
    notes = []
    config: Mapping[str, Any] = {}
    if folder.config_path.exists():
        config = folder.config()
    elif (path / "pairs").is_dir():
        notes.append(f"{path} has no config.yaml: what made these results is unknown.")
    else:
        raise SgoolError(
            f"{path} is not a run folder: it holds neither config.yaml nor pairs/. Give the run_dir of a `sgool fit`."
        )
    scan = folder.scan()
    notes += scan.problems
    if scan.unfinished:
        notes.append(f"{len(scan.unfinished)} begun and not finished: {', '.join(scan.unfinished)}.")
    base = path.resolve().name
    name, number = base, 2
    while name in taken:
        name, number = f"{base} ({number})", number + 1
    return Run(folder, name, config, tuple(folder.environments()), scan.records, tuple(notes))
