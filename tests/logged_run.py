"""A run folder filled pair by pair, with made-up values, and logged as the runner would; also as a program."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sgool.loggers import Process, RunLogs
from sgool.results import RunFolder
from sgool.types import PairRecord, PromptSeed

PROMPTS = (
    "a cat",
    "a [red]dog[/red] \U0001f415, \u201cthe other\u201d",
    "x " * 5000,
    "<b>two</b> birds",
    "five",
    "six",
)
UPDATES = 3


def pair(index: int) -> PromptSeed:
    """One of the pairs."""
    return PromptSeed(PROMPTS[index % len(PROMPTS)], seed=index, index=index, category="odd" if index % 2 else "")


def options(**changes: Any) -> dict[str, Any]:
    """The ``logger`` part of a configuration."""
    wandb = {"name": "wandb", "mode": "offline", "project": "sgool", "entity": None, "tags": ["try"]}
    return wandb | {"images": None, "image_size": 32} | changes


def history(index: int) -> list[dict[str, float]]:
    """A pair's history; N updates make N + 1 rows."""
    return [{"update": u, "loss": 1 / (u + 3) + index, "selection": index - u / 7} for u in range(UPDATES + 1)]


def record(index: int, status: str = "done") -> PairRecord:
    """A pair's record."""
    metrics = {"judge/clip_score": 20 + index / 3, "judge/clip_score_initial": 19.5, "scene/accuracy": 0.5}
    return PairRecord(
        pair_id=pair(index).pair_id,
        method="doodl",
        prompt=pair(index).prompt,
        category=pair(index).category,
        seed=index,
        status=status,
        error=None if status == "done" else "non-finite loss at update 1",
        num_optimization_steps=UPDATES,
        best_step=2,
        metrics=metrics if status == "done" else {},
        network_evaluations=40,
        seconds=1.5,
        peak_memory_mib=100.0,
    )


def log_pair(logs: RunLogs, run_dir: Path, index: int, *, updates: int = UPDATES, status: str = "done") -> None:
    """Makes a pair: its updates, and its results if these are all of them."""
    logs.begin([pair(index)])
    for row in history(index)[:updates]:
        for logger in logs.loggers:
            # Lightning counts the updates of all batches together; the row's own number is the pair's.
            logger.log_metrics({**row, "batch": 0.0, "epoch": 0}, step=1000 * index + int(row["update"]))
    if updates < UPDATES:
        return
    first = torch.full((3, 40, 60), 0.25)
    images = {"initial": first, "final": first + 0.5}
    RunFolder(run_dir).write(record(index, status), images, torch.eye(40, 60), history(index))
    logs.end([record(index, status)])


def open_logs(run_dir: Path, process: Process | None = None, **changes: Any) -> RunLogs:
    """The logs of the method doodl."""
    run_dir.mkdir(parents=True, exist_ok=True)
    config = {"name": "try", "sampler": {"name": "ddim"}}
    place = {"run_dir": run_dir, "name": "try", "method": "doodl", "config": config}
    return RunLogs(options(**changes), **place, process=process, environment={"device": "cpu"})


def main(run_dir: Path) -> None:
    """Logs two pairs and two updates of a third, to CSV and W&B, and dies."""
    with open_logs(run_dir, name="csv") as to_csv, open_logs(run_dir) as to_wandb:
        for index, updates in ((0, UPDATES), (1, UPDATES), (2, 2)):
            for logs in (to_csv, to_wandb):
                log_pair(logs, run_dir, index, updates=updates)
            if index == 0:
                time.sleep(2.5)  # W&B's service writes the first pair; what comes after it is lost
        print("logged", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
