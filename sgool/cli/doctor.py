"""Facts for `sgool doctor` and `sgool models`: this machine, the installed releases, the embedded models."""

from __future__ import annotations

import math
import os
import platform
from importlib import metadata
from pathlib import Path

from sgool import __version__
from sgool.config.paths import ASSETS, config_folder, prompt_sets
from sgool.errors import SgoolError
from sgool.results.environment import usable_cores

_PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "wandb",
)
#: Embedded model, or a part of one -> the file that its folder must have, and what it is for.
_PARTS = {
    "emoji_world": ("model_index.json", "text-to-image pipeline (models.path)"),
    "emoji_world/guide": ("open_clip_config.json", "guidance CLIP (models.guide)"),
    "emoji_world/judge": ("open_clip_config.json", "judge CLIP (models.judges)"),
    "emoji_world/reader": ("config.json", "scene reader (models.scene_reader)"),
    "emoji_world_turbo": ("model_index.json", "the same for 1 to 4 denoising steps (models=emoji_world_turbo)"),
}
_MIB = 2**20


def machine_facts() -> list[tuple[str, str]]:
    """Returns (name, value) of versions, cores, memory and devices of this machine. It imports torch."""
    facts = [("sgool", __version__), ("python", platform.python_version()), ("platform", platform.platform())]
    facts += [(name, _version(name)) for name in _PACKAGES]
    facts += [("cores", str(usable_cores())), ("memory", _memory())]
    facts += [("device", device) for device in _devices()]
    return [*facts, ("configuration", str(config_folder()))]


def asset_facts(assets: Path = ASSETS) -> list[tuple[str, str, str]]:
    """Returns each embedded model's name in the configuration, its use, and its size or that it is missing."""
    facts = []
    for name, (marker, purpose) in _PARTS.items():
        folder = assets / name
        # A pipeline's folder holds the folders of its other parts too.
        skip = (*(assets / other for other in _PARTS if other.startswith(f"{name}/")), folder / "prompts")
        size = _mebibytes(folder, skip)
        facts.append((name, purpose, f"{size:.1f} MiB" if (folder / marker).is_file() else "missing"))
    return facts


def prompt_facts(assets: Path = ASSETS) -> list[tuple[str, int]]:
    """Returns the built-in prompt sets with their numbers of prompts."""
    from sgool.prompts import read_prompts

    return [(name, len(read_prompts(path))) for name, path in prompt_sets(assets).items()]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _devices() -> list[str]:
    import torch

    devices = ["cpu"]
    if torch.backends.mps.is_available():
        devices.append("mps")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    return devices


def card_memory(gibibytes: float | None) -> int | None:
    """Returns the bytes of a card: those given, or those of this machine's first CUDA device; None without one.

    Raises:
        SgoolError: The number is not positive.
    """
    if gibibytes is not None:
        if not 0 < gibibytes < math.inf:
            raise SgoolError(f"--memory: expected a number of GiB above 0, got {gibibytes:g}")
        return int(gibibytes * 2**30)
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _mebibytes(folder: Path, skip: tuple[Path, ...]) -> float:
    files = (path for path in folder.rglob("*") if path.is_file() and not any(s in path.parents for s in skip))
    return sum(path.stat().st_size for path in files) / _MIB
