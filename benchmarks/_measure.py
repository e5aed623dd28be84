"""Seconds and memory of one run."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Seconds:
    """Least of all repeats so far."""

    wall: float = float("inf")
    cpu: float = float("inf")

    def measure(self, run: Callable[[], object], device: str) -> None:
        """Runs once more."""
        _wait(device)
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        _wait(device)
        self.wall = min(self.wall, time.perf_counter() - wall)
        self.cpu = min(self.cpu, time.process_time() - cpu)

    def fair(self, threads: int, device: str) -> float:
        """What ratios are taken from.

        On one CPU thread, CPU seconds: an idle core's wall seconds, whoever else uses the machine.
        """
        return self.cpu if threads == 1 and device == "cpu" else self.wall


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def alternate(runs: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, Seconds]:
    """All runs one after the other, ``repeats`` times over, there and back: a slow minute hits all alike."""
    seconds = {name: Seconds() for name in runs}
    for repeat in range(repeats):
        for name in reversed(runs) if repeat % 2 else runs:
            seconds[name].measure(runs[name], device)
    return seconds


def peak_mib(run: Callable[[], object], device: str) -> float:
    """By how much one run raises the peak of this process, which should do nothing else."""
    if device != "cpu":
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return float(torch.cuda.max_memory_allocated() - base) / 2**20
    base = _reset_peak()
    run()
    return (_peak_kib() - base) / 2**10


def _reset_peak() -> float:
    """Resident KiB now. Loading a model peaks above what stays, so that peak is forgotten where Linux lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak_kib()
    return _status("VmRSS")


def _peak_kib() -> float:
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    # Bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "darwin" else 1)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1])


def start_child(arguments: Mapping[str, Any], *, weigh: bool = False) -> subprocess.Popen[str]:
    """A fresh process of ``chain.py`` that prints one line of JSON.

    ``weigh``: with a fixed low threshold glibc returns every freed tensor to the system; else the peak is its heap's.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"} if weigh else dict(os.environ)
    command = [sys.executable, str(Path(__file__).with_name("chain.py")), "--child", json.dumps(arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def child_result(child: subprocess.Popen[str]) -> Any:
    """What the child printed last."""
    output, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"a child process of the benchmark failed ({child.returncode})")
    return json.loads(output.splitlines()[-1])
