"""Measures how much the images of one prompt differ over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from sgool.config.suggest import did_you_mean
from sgool.errors import SgoolError
from sgool.metrics import Diversity
from sgool.models.networks import Networks
from sgool.run.imagesets.files import clip_judges, path_of, pixels
from sgool.run.imagesets.table import Table
from sgool.run.rescore import finished
from sgool.types import PairRecord


def score_diversity(run: Path, judge: str) -> Table:
    """Measures how much a prompt's images differ over seeds, per method and category, into ``RUN/diversity.csv``.

    Args:
        run: The run folder.
        judge: The name of a judge that is a CLIP; images are compared in its embedding space.

    Raises:
        SgoolError: There is no such judge, or no prompt with several seeds.
    """
    folder, config, records = finished(run)
    clips = clip_judges(config)
    if judge not in clips:
        hint = did_you_mean(judge, clips) or "."
        raise SgoolError(f"--diversity: there is no CLIP judge {judge!r}{hint} Judges: {', '.join(clips) or 'none'}")
    networks = Networks(config["models"], config["trainer"]["devices"])
    metric = Diversity(networks.clip(**clips[judge]))
    rows = []
    for method in dict.fromkeys(record.method for record in records):
        mine = [record for record in records if record.method == method]
        for category in ("", *sorted({record.category for record in mine} - {""})):
            metric.reset()
            chosen = [record for record in mine if not category or record.category == category]
            groups = _several_seeds(chosen)
            for group in groups:
                metric.update(torch.stack([pixels(path_of(folder, record)) for record in group]).to(networks.device))
            value = float(metric.compute()) if metric.number else math.nan
            rows.append({"method": method, "category": category, "judge": judge, "diversity": value})
            rows[-1] |= {"prompts": len(groups), "images": sum(map(len, groups))}
    if not any(row["prompts"] for row in rows):
        raise SgoolError(f"--diversity: {run} has no prompt with two seeds; run it with data.seeds=2 or more")
    return Table(folder.path / "diversity.csv", tuple(rows)).write()


def _several_seeds(records: Sequence[PairRecord]) -> list[list[PairRecord]]:
    """Returns the records of each prompt that has several seeds, one record per seed."""
    groups: dict[str, dict[int, PairRecord]] = {}
    for record in records:
        groups.setdefault(record.prompt, {}).setdefault(record.seed, record)
    return [list(group.values()) for group in groups.values() if len(group) > 1]
