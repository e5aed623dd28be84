"""Variants of a pipeline's weights, such as fp16: which ones a folder has, and which one is taken."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

#: The variant stands before the suffix: model.fp16.safetensors, model.safetensors.index.fp16.json.
_FILE = re.compile(r"(?:diffusion_pytorch_model|model|pytorch_model)\.([\w-]+)\.(?:safetensors|bin)")
_INDEX = re.compile(r"(?:diffusion_pytorch_model|model|pytorch_model)\.\w+\.index\.([\w-]+)\.json")
_PLAIN = re.compile(r"(?:diffusion_pytorch_model|model|pytorch_model)(?:\.\w+\.index\.json|\.safetensors|\.bin)")
_SHARD = re.compile(r".*\d+-of-\d+")


def named(file: str, variant: str | None) -> str:
    """Returns the name that a file of weights, or the index of its shards, has in a variant."""
    if variant is None:
        return file
    stem, _, suffix = file.rpartition(".")
    return f"{stem}.{variant}.{suffix}"


def variants_of(part: Path) -> set[str]:
    """Returns the variants of the weights in the folder of a network; its plain weights are none of them."""
    names = [entry.name for entry in part.iterdir()] if part.is_dir() else []
    matches = [found for name in names for kind in (_FILE, _INDEX) if (found := kind.fullmatch(name))]
    return {found[1] for found in matches if not _SHARD.fullmatch(found[1])}


def has_plain_weights(part: Path) -> bool:
    """Whether the folder of a network has weights of no variant."""
    return any(_PLAIN.fullmatch(entry.name) for entry in part.iterdir())


def variant_of(
    folder: Path, wanted: str | None, lacking: Collection[str], parts: Collection[str]
) -> tuple[str | None, str | None]:
    """Returns the variant that a pipeline's weights are read from, and a sentence if there is no such one.

    Args:
        folder: Folder of the pipeline.
        wanted: The variant that the user names; None: the plain weights or, where networks have none, the only variant
            that all of these have.
        lacking: Networks of the folder without plain weights.
        parts: All networks of the folder.
    """
    found = {part: variants_of(folder / part) for part in parts}
    if wanted is not None:
        if any(wanted in variants for variants in found.values()):
            return wanted, None
        others = sorted(set().union(*found.values())) or ["none"]
        return None, (
            f"`models.variant`: expected one that {folder} has, got {wanted!r}; its variants: {', '.join(others)} "
            "(null takes the plain weights)"
        )
    bare = [part for part in lacking if found[part]]
    if not bare:
        return None, None
    common = sorted(set.intersection(*(found[part] for part in bare)))
    if len(common) == 1:
        return common[0], None
    which = "; ".join(f"{part} has {', '.join(sorted(found[part]))}" for part in bare)
    return None, f"`models.variant`: expected one, since {folder} has networks without plain weights: {which}"


def only_variant(folder: Path, variant: str) -> str:
    """Says that a folder's weights are those of a variant that nobody asked for."""
    return (
        f"`models.variant`: {folder} has no plain weights, only those of the variant {variant}, so they are taken "
        f"(models.variant={variant} says so)"
    )
