"""Finds files of weights that are broken by how they came here: cut short, git-lfs pointers, web pages.

It reads a few bytes of each file and imports no library, so that a run's files are checked before anything loads.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.paths import asset_path
from sgool.config.variants import named, variant_of

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar")
#: In the order in which open_clip looks for a folder's weights.
_OPEN_CLIP = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_TRANSFORMERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_DIFFUSERS = tuple(f"diffusion_pytorch_{name.removeprefix('pytorch_')}" for name in _TRANSFORMERS)
#: Part of a pipeline's folder -> names of its weights, in the order in which they are looked for.
_PARTS = {
    **dict.fromkeys(("unet", "transformer", "vae"), _DIFFUSERS),
    **dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3"), _TRANSFORMERS),
}
_HEAD = 1024
_AGAIN = "Fetch the file again."


def file_problem(path: Path) -> str | None:
    """Returns a sentence on a file that cannot hold what it should, or None if nothing is seen to be wrong.

    Pointers of git-lfs and web pages are found whatever the file is meant to be. Files with a suffix of weights must
    also have as many bytes as their header says (safetensors), or the end of their archive (PyTorch).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head.startswith(b"version https://git-lfs"):
            return _pointer(path, head, size)
        if path.suffix.lower() not in _SUFFIXES:
            return None
        if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
            return f"{path} is a web page, not weights. Download the raw file that the page offers."
        if not size:
            return f"{path} is empty: expected weights, got 0 bytes. {_AGAIN}"
        if path.suffix.lower() == ".safetensors":
            return _safetensors(path, head, size)
        if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
            return (
                f"{path} is cut short: expected a PyTorch archive with its end, got the first {size:,} bytes of one. "
                f"{_AGAIN}"
            )
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}. Check its permissions, or fetch it again."
    return None


def folder_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Returns the files of weights that are read from a folder in the layout of diffusers, open_clip or transformers.

    Files beside them (other variants, other formats) are not read, so they do not matter. Networks without files of the
    variant are read from their plain ones.
    """
    if (folder / "model_index.json").is_file():
        files = [file for part, names in _PARTS.items() for file in _weights(folder / part, names, variant)]
        return [*files, *sorted((folder / "tokenizer").glob("*.*"))]
    if (folder / "open_clip_config.json").is_file():
        return _first(folder, _OPEN_CLIP)
    return _first(folder, _TRANSFORMERS) if (folder / "config.json").is_file() else []


def missing_weights(folder: Path, variant: str | None = None, replaced: Collection[str] = ()) -> list[str]:
    """Returns a sentence for each network of a pipeline's folder whose weights are not there.

    Args:
        folder: Folder of the pipeline.
        variant: Variant whose files are read, if any.
        replaced: Networks that come from elsewhere.
    """
    sentences = []
    for name, names in _PARTS.items():
        part = folder / name
        if part.is_dir() and name not in replaced and not _weights(part, names, variant):
            found = ", ".join(sorted(os.listdir(part))[:8]) or "nothing"
            sentences.append(f"{part}: expected weights ({names[0]} or {names[2]}), found {found}")
    return sentences


def chosen_variant(folder: Path, wanted: str | None, replaced: Collection[str] = ()) -> tuple[str | None, str | None]:
    """Returns the variant that a pipeline's folder is read from; see `sgool.config.variants.variant_of`."""
    parts = {name: names for name, names in _PARTS.items() if (folder / name).is_dir() and name not in replaced}
    lacking = [name for name, names in parts.items() if not _first(folder / name, names)]
    return variant_of(folder, wanted, lacking, list(parts))


def weights_problems(node: Any, key: str) -> Iterator[str]:
    """Yields a problem for each broken file that a part of the configuration names, also inside a folder.

    Args:
        node: Any part of the configuration. Arguments of a user's own component are left out: it knows its formats.
        key: Its dotted key, for the message.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name != "arguments":
                yield from weights_problems(value, f"{key}.{name}")
    elif isinstance(node, list):
        for value in node:
            yield from weights_problems(value, key)
    elif isinstance(node, str) and 0 < len(node) < 4096 and "\n" not in node:
        path = Path(asset_path(node.removeprefix("local-dir:"))).expanduser()
        # An empty file is a matter of its loader: it stands for weights where only the configuration is looked at.
        files = [path] if path.is_file() and path.stat().st_size else folder_files(path) if path.is_dir() else []
        yield from (f"`{key}`: {problem}" for file in files if (problem := file_problem(file)))


def _weights(part: Path, names: tuple[str, ...], variant: str | None) -> list[Path]:
    """Returns the files of a network: those of the variant, else the plain ones."""
    return _first(part, tuple(named(name, variant) for name in names)) or _first(part, names)


def _first(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Returns the first of the names that the folder has; for an index, the files that it lists."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None or found.suffix != ".json":
        return [] if found is None else [found]
    try:
        shards = json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [found]
    return [folder / str(name) for name in sorted(set(shards)) if os.path.isfile(folder / str(name))]


def _pointer(path: Path, head: bytes, size: int) -> str:
    told = re.search(rb"^size (\d+)", head, re.MULTILINE)
    expected = f"{int(told[1]):,} bytes" if told else "its content"
    return (
        f"{path} is a git-lfs pointer, not weights: expected {expected}, got a note of {size} bytes. "
        " Run `git lfs pull` in its repository, or fetch the file itself."
    )


def _safetensors(path: Path, head: bytes, size: int) -> str | None:
    """Compares a file's size with its header: 8 bytes of the header's length, JSON, then the tensors."""
    length = int.from_bytes(head[:8], "little")
    if size < 8 or head[8:9] != b"{":
        return f"{path} is no safetensors file: expected a header, got {head[:16]!r}. {_AGAIN}"
    if size >= 8 + length:
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(8 + length)[8:])
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return f"{path} is no safetensors file: its header cannot be read. {_AGAIN}"
        expected = 8 + length + max(ends, default=0)
        if expected == size:
            return None
        what = "is cut short" if size < expected else "is longer than its header says"
        return f"{path} {what}: expected {expected:,} bytes, got {size:,}. {_AGAIN}"
    return f"{path} is cut short: expected more than {8 + length:,} bytes, got {size:,}. {_AGAIN}"
