"""Reads runs from their folders, and puts their records into one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sgool.errors import SgoolError
from sgool.results import RunFolder
from sgool.results.compare import read_config
from sgool.results.sweeps import sweep_hint
from sgool.types import PairRecord

BASELINE = "vanilla"
OWN_FIRST = ""
"""Stands for a baseline's label where methods are compared with their own first images."""

# HTML, XML or UTF-8 cannot hold control characters (except tab and line break) and halves of surrogate pairs.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_PAIR_ID = re.compile(r"(?P<dataset>.+)-\d{5,}-[0-9a-f]{8}-s-?\d+")
_KEYS = tuple(name for name in PairRecord.__dataclass_fields__ if name != "metrics")


@dataclass(frozen=True)
class Run:
    """A run, as read from its folder.

    Attributes:
        folder: The run folder.
        name: The folder's name, made unique among the runs of one report.
        config: The run's configuration; empty if ``config.yaml`` is missing.
        environments: The environments in which the run was made.
        records: The valid records, by method and pair.
        notes: Sentences on what is wrong with the folder: invalid records, no configuration.
        unfinished: ``METHOD/PAIR_ID`` of pairs that were begun and have no record.
        earlier_configs: File name -> earlier configuration that some pairs were made with (``config-HASH.yaml``).
        descriptions: How to show each metric, by name; empty in older runs.
        networks: The networks that judged and that were optimised against; empty in older runs.
    """

    folder: RunFolder
    name: str
    config: Mapping[str, Any]
    environments: tuple[Mapping[str, Any], ...]
    records: tuple[PairRecord, ...]
    notes: tuple[str, ...]
    unfinished: tuple[str, ...] = ()
    earlier_configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    descriptions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    networks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def configs(self) -> tuple[Mapping[str, Any], ...]:
        """All configurations of the run's pairs; a judge that any of them optimised counts as optimised."""
        return (self.config, *self.earlier_configs.values())

    @property
    def edits(self) -> bool:
        """Whether `sgool edit` made the run; its pairs are then photos, which may all have one prompt or none."""
        return bool(self.config.get("edit"))

    def pair_folder(self, method: str, pair_id: str) -> Path:
        """Return a record's folder; unlike ``RunFolder.pair_folder`` it takes names that sgool would not give."""
        return self.folder.path / "pairs" / method / pair_id


def writable(text: str) -> str:
    """Replace characters that no file format can hold, since records may come from anywhere."""
    return _UNWRITABLE.sub("\ufffd", text)


def load_runs(paths: Sequence[str | Path], command: str = "sgool report") -> list[Run]:
    """Read run folders; the same folder given twice counts once.

    Args:
        paths: The folders.
        command: What was called, for messages.

    Raises:
        SgoolError: There is no path, a path is no run folder, or no folder has a record.
    """
    unique = list({Path(path).resolve(): Path(path) for path in paths}.values())
    if not unique:
        raise SgoolError("A report needs at least one run folder, got none. Give the run_dir of a `sgool fit`.")
    runs: list[Run] = []
    for path in unique:
        runs.append(_load_run(path, [run.name for run in runs], command))
    if not any(run.records for run in runs):
        shown = ", ".join(str(path) for path in unique)
        notes = " ".join(note for run in runs for note in run.notes)
        raise SgoolError(
            f"No finished pair in {shown}, so there is nothing to report. Run `sgool fit run_dir={unique[0]}` first. "
            f"{notes}".rstrip()
        )
    return runs


def to_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Put all records into a table: a row per run, method and pair, sorted by run, method (display order) and pair.

    Returns:
        Columns ``run`` (position in ``runs``), ``label`` (what the report calls the method: its name, or ``RUN/NAME``
        where several runs have it), ``folder`` (the pair's folder, as text), ``dataset``, ``group`` (what pairs that
        depend on each other share: the prompt, or the photo of an edit), the record's keys except ``metrics``, and one
        float column per metric (NaN: absent).
    """
    labels = method_labels(runs)
    rows = []
    for position, run in enumerate(runs):
        order = {method: rank for rank, method in enumerate(ordered_methods(run))}
        for record in sorted(run.records, key=lambda record: (order[record.method], record.pair_id)):
            row: dict[str, Any] = {"run": position, "label": labels[position, record.method]}
            row |= {"folder": str(run.pair_folder(record.method, record.pair_id)), "dataset": _dataset(record, run)}
            row |= {"group": _group(record, run)}
            row |= {name: _clean(getattr(record, name)) for name in _KEYS}
            rows.append({writable(name): value for name, value in record.metrics.items()} | row)
    keys = ["run", "label", "folder", "dataset", "group", *_KEYS]
    metrics = sorted({name for row in rows for name in row} - set(keys))
    return pd.DataFrame(rows, columns=[*keys, *metrics]).astype({name: "float64" for name in metrics})


def ordered_methods(run: Run) -> list[str]:
    """Return the methods that have records: first in the configuration's order, then vanilla, then the others."""
    present = {record.method for record in run.records}
    configured = run.config.get("methods", ())
    names = [str(name) for name in configured] if isinstance(configured, (list, tuple, dict)) else []
    first = [name for name in dict.fromkeys(names) if name in present]
    return first + sorted(present - set(first), key=lambda name: (name != BASELINE, name))


def method_labels(runs: Sequence[Run]) -> dict[tuple[int, str], str]:
    """Map (position of the run, method) to the method's label, in display order, with the run's name only if needed.

    Runs on different data sets are parts of one experiment: a method has one label in all of them. Edits of one image
    are of one data set, whatever their runs are called.
    """
    keys = [(position, method) for position, run in enumerate(runs) for method in ordered_methods(run)]
    methods = [method for _, method in keys]
    datasets = [{_dataset(record, run) for record in run.records} for run in runs]
    pairs = [{record.pair_id for record in run.records} for run in runs]
    apart = all(sum(map(len, sets)) == len(set().union(*sets)) for sets in (datasets, pairs))
    return {
        (position, method): writable(
            method if apart or methods.count(method) == 1 else f"{runs[position].name}/{method}"
        )
        for position, method in keys
    }


def baseline_labels(runs: Sequence[Run], baseline: str = BASELINE) -> dict[str, str | None]:
    """Map each label to the label it is compared with: the baseline of its own run, else of the first run with one.

    It is ``OWN_FIRST`` if no run has the baseline, and None for the baseline itself.
    """
    labels = method_labels(runs)
    found = {position: label for (position, method), label in labels.items() if method == baseline}
    fallback = next(iter(found.values()), OWN_FIRST)
    return {
        label: None if method == baseline else found.get(position, fallback)
        for (position, method), label in labels.items()
    }


def compared_with(runs: Sequence[Run], against: Sequence[str] = ()) -> list[str]:
    """Return the methods that the others are compared with: those of ``against``, each once, else vanilla.

    Raises:
        SgoolError: No run has one of these methods.
    """
    present = list(dict.fromkeys(method for _, method in method_labels(runs)))
    unknown = [name for name in dict.fromkeys(against) if name not in present]
    if unknown:
        raise SgoolError(
            f"--against {unknown[0]}: expected a method with results in the given runs, which have {', '.join(present)}"
        )
    return list(dict.fromkeys(against)) or [BASELINE]


def _load_run(path: Path, taken: Sequence[str], command: str) -> Run:
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
            f"{sweep_hint(path, command)}"
        )
    scan = folder.scan()
    notes += [writable(problem) for problem in (*scan.problems, scan.note(path)) if problem]
    base = writable(path.resolve().name)
    name, number = base, 2
    while name in taken:
        name, number = f"{base} ({number})", number + 1
    unfinished = tuple(map(writable, scan.unfinished))
    earlier = _earlier_configs(path, notes)
    return Run(
        folder,
        name,
        config,
        tuple(folder.environments()),
        scan.records,
        tuple(notes),
        unfinished,
        earlier,
        {writable(name): _cleaned(description) for name, description in folder.descriptions().items()},
        folder.networks(),
    )


def _earlier_configs(path: Path, notes: list[str]) -> dict[str, Mapping[str, Any]]:
    """Read the earlier configurations of a folder that was continued with changed settings."""
    found: dict[str, Mapping[str, Any]] = {}
    for file in sorted(path.glob("config-*.yaml")):
        try:
            found[writable(file.name)] = read_config(file)
        except SgoolError as error:
            notes.append(writable(str(error)))
    return found


def _dataset(record: PairRecord, run: Run) -> str:
    """Return the data set's name, from the pair's id or else the configuration; all edits of a run are one data set."""
    match = _PAIR_ID.fullmatch(record.pair_id)
    if run.edits:
        return writable(str(run.config.get("name") or run.name))
    if match:
        return writable(match["dataset"])
    data = run.config.get("data")
    name = data.get("name") if isinstance(data, Mapping) else None
    return writable(str(name)) if name else "unknown"


def _group(record: PairRecord, run: Run) -> str:
    match = _PAIR_ID.fullmatch(record.pair_id)
    return writable(match["dataset"] if run.edits and match else record.prompt)


def _cleaned(description: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _clean(value) for key, value in description.items()}


def _clean(value: Any) -> Any:
    return writable(value) if isinstance(value, str) else value
