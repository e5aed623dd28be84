"""Where a model's parts come from, and what their small files say, before any weights are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.loading import Component, Loading, loading_problems, missing_package
from sgool.config.paths import asset_path
from sgool.errors import ConfigError

#: Part -> the key of its configuration by which another one has to equal it, and what the key says.
_CHANNELS = {
    "vae": ("latent_channels", "channels of latents"),
    "unet": ("in_channels", "input channels"),
    "transformer": ("in_channels", "input channels"),
}
_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf")


def is_single_file(path: str) -> bool:
    """Whether a path names a file of weights, by its suffix; hub ids have none of these."""
    return path.lower().endswith(_SUFFIXES)


def described_by(models: Mapping[str, Any]) -> str:
    """Returns the folder or hub id whose small files describe a model: `models.config` of a single file, else its path.

    Args:
        models: The configuration's ``models``.
    """
    path = str(models["path"])
    return str(models.get("config") or path) if is_single_file(path) else path


def replaced_configs(models: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the configurations of parts that are not the folder's own, by their names; of hub ids none are known.

    Nothing is known of values that follow no rule; `source_problems` reports them.

    Args:
        models: The configuration's ``models``.
    """
    try:
        loading = Loading.of(models)
    except ConfigError:
        return {}
    found = {name: config for name, part in loading.components.items() if (config := _own_config(name, part))}
    if loading.scheduler:
        folder = Path(asset_path(described_by(models)))
        own = _read(folder / "scheduler" / "scheduler_config.json")
        kind = loading.scheduler.get("class") or own.get("_class_name")
        found["scheduler"] = {**own, **loading.scheduler, "_class_name": kind}
    return found


def source_problems(models: Mapping[str, Any]) -> Iterator[str]:
    """Yields a problem for each file, folder or package that is missing, and for parts that do not fit the pipeline.

    Args:
        models: The configuration's ``models``, whose values are valid but for the keys of `sgool.config.loading`.
    """
    path = str(models["path"])
    if is_single_file(path):
        if not Path(path).expanduser().is_file():
            yield f"`models.path`: there is no file {path!r} (relative paths start at {Path.cwd()})"
    elif models.get("config") is not None:
        yield (
            "`models.config`: expected null with a pipeline's folder or hub id, which has its own configuration, got "
            f"{models['config']!r}; it is for models.path=FILE"
        )
    yield from loading_problems(models)
    try:
        loading = Loading.of(models)
    except ConfigError:
        return  # said already
    folder = Path(asset_path(described_by(models)))
    places = [("models.config", loading.config)] if loading.config else []
    places += [(f"models.components.{name}", part.path) for name, part in loading.components.items()]
    for key, place in [*places, *(("models.loras", lora.path) for lora in loading.loras)]:
        yield from _missing(key, place)
    for name, part in loading.components.items():
        yield from _component_problems(name, part, folder)
    for tokenizer in sorted(folder.glob("tokenizer*")):
        if tokenizer.name not in loading.components and needs_sentencepiece(tokenizer):
            yield from missing_package("sentencepiece", f"`models.path`: {tokenizer}", "sentencepiece")


def needs_sentencepiece(tokenizer: Path) -> bool:
    """Whether a folder has a tokenizer in SentencePiece's format alone, as T5's often are."""
    return any(tokenizer.glob("*.model")) and not (tokenizer / "tokenizer.json").is_file()


def _missing(key: str, place: str) -> Iterator[str]:
    """Yields a problem for what looks like a path, and not like a hub id, and is not there."""
    looks_local = place.startswith((".", "~", os.sep)) or place.count("/") != 1 or is_single_file(place)
    if looks_local and not Path(place).expanduser().exists():
        yield f"`{key}`: there is no file or folder {place!r} (relative paths start at {Path.cwd()})"


def _component_problems(name: str, part: Component, folder: Path) -> Iterator[str]:
    index = _read(folder / "model_index.json")
    if index and name not in index:
        parts = ", ".join(sorted(key for key, entry in index.items() if isinstance(entry, list)))
        yield f"`models.components`: expected parts that the pipeline has ({parts}), got {name!r}"
        return
    place = Path(part.path).expanduser()
    if part.file is not None and place.is_dir() and not (place / (part.subfolder or "") / part.file).is_file():
        yield f"`models.components.{name}.file`: there is no file {part.file!r} in {part.path!r}"
    if name not in _CHANNELS:
        return
    key, what = _CHANNELS[name]
    got, expected = _own_config(name, part).get(key), _read(folder / name / "config.json").get(key)
    if None not in (got, expected) and got != expected:
        yield (
            f"`models.components.{name}`: expected {expected} {what}, as the pipeline's own has, got {got}: "
            f"{part.path!r} is for another model"
        )


def _own_config(name: str, part: Component) -> Mapping[str, Any]:
    """Returns the configuration in a part's folder; empty for a file, which has none, and for a hub id."""
    place = Path(part.path).expanduser()
    if part.file is not None or not place.is_dir():
        return {}
    return _read(place / (part.subfolder or "") / "config.json") or _read(place / name / "config.json")


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
