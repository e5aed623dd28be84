"""Scoring of a finished run's images again: after a judge was added or replaced, without optimising anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sgool.errors import SgoolError
from sgool.prompts import load_pairs
from sgool.results import RunFolder
from sgool.runner import Outcome
from sgool.session import Session
from sgool.types import PairRecord, PromptSeed

_BATCH = 32
#: A run folder may hold pairs of several selections.
_ALL = {"limit": None, "indices": None, "categories": None, "duplicates": "keep"}


def rescore(run: Path) -> Outcome:
    """Replaces the metrics of every pair that ended well by those of its PNGs; the objective's values stay.

    A run judges the 8-bit pixels that it saves, so the same judges give the same scores.

    Raises:
        SgoolError: ``run`` is not a run folder, or holds no finished pair.
    """
    folder = RunFolder(run)
    if not folder.config_path.is_file():
        raise SgoolError(f"{run} is no run folder: expected config.yaml in it, as `sgool fit` writes it")
    config = folder.config()
    records = [record for record in folder.records() if record.status == "done"]
    if not records:
        raise SgoolError(f"{run}: expected finished pairs to score, found none")
    pairs = {pair.pair_id: pair for pair in load_pairs(**{**config["data"], **_ALL})}
    session = Session(config)
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        chosen = [pairs.get(record.pair_id) or _pair_of(record) for record in batch]
        rows = [_kept(record) for record in batch]
        for name, suffix in (("initial", "_initial"), ("final", "")):
            for row, values in zip(rows, _scores(session, folder, batch, chosen, name), strict=True):
                row |= {f"{key}{suffix}": value for key, value in values.items()}
        for record, metrics in zip(batch, rows, strict=True):
            folder.replace_record(replace(record, metrics=metrics))
    folder.collate()
    methods = list(config["methods"])
    ordered = sorted(folder.records(), key=lambda record: methods.index(record.method))
    return Outcome(folder.path, tuple(ordered), len(records))


def _pair_of(record: PairRecord) -> PromptSeed:
    return PromptSeed(record.prompt, seed=record.seed, category=record.category)


def _kept(record: PairRecord) -> dict[str, float]:
    """What no judge said: the objective's values, and how well a photo was inverted."""
    return {key: value for key, value in record.metrics.items() if key.startswith(("objective", "inversion_", "vae_"))}


def _scores(
    session: Session, folder: RunFolder, records: list[PairRecord], pairs: list[PromptSeed], name: str
) -> list[dict[str, float]]:
    paths = [folder.pair_folder(record.method, record.pair_id) / f"{name}.png" for record in records]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise SgoolError(f"cannot score: {missing[0]} is missing (and {len(missing) - 1} more)")
    arrays = np.stack([np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255 for path in paths])
    return session.judges.score(torch.from_numpy(arrays).permute(0, 3, 1, 2).to(session.device), pairs)
