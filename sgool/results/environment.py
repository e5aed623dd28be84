"""Describes where a run is made: versions, machine, device, git commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = {
    "sgool": "sgool",
    "torch": "torch",
    "lightning": "lightning",
    "diffusers": "diffusers",
    "open_clip": "open_clip_torch",
    "torchmetrics": "torchmetrics",
    "numpy": "numpy",
}


def describe_environment(device: str | None = None) -> dict[str, Any]:
    """Returns the content of ``environment.json``.

    Args:
        device: Name of the device the run uses; None: the first accelerator, or else the processor.

    Returns:
        ``versions`` (None: not installed), ``platform``, ``device``, ``cpu_count`` (cores this process may use),
        ``git_commit`` (with ``+changes`` if the checkout has uncommitted ones; None outside a checkout), ``date``.
    """
    return {
        "versions": {"python": platform.python_version()} | {name: _version(d) for name, d in _DISTRIBUTIONS.items()},
        "platform": platform.platform(),
        "device": device or device_name(),
        "cpu_count": usable_cores(),
        "git_commit": git_commit(Path(__file__).resolve().parents[2]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def device_name() -> str:
    """Returns the first accelerator's name as its driver gives it, or else the processor's."""
    import torch  # the run needs it anyway; reading a run folder never comes here

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return f"{_processor()} (MPS)"
    return _processor()


def git_commit(checkout: Path) -> str | None:
    """Returns the commit of the git checkout with the top folder ``checkout``; None if there is none, or no git.

    An installed sgool may lie inside the virtual environment of another project's checkout, whose commit would mislead.
    """
    top = _git(checkout, "rev-parse", "--show-toplevel")
    commit = _git(checkout, "rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != checkout.resolve():
        return None
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git, or a slow network file system: provenance is optional
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Counts the cores that this process may use: what SLURM or a container leaves of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    """Returns the processor's model, which ``platform.processor`` does not know on Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
