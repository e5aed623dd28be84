"""Checks a local pipeline folder by its JSON files, before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.paths import asset_path

#: The one class of pipeline that sgool reads.
PIPELINE = "StableDiffusionPipeline"
_INDEX = "model_index.json"
_FILES = (_INDEX, "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def kind_problems(path: str) -> Iterator[str]:
    """Yields problems if a folder or an embedded model is no pipeline that sgool can use; hub ids are not checked."""
    folder = Path(asset_path(path))
    if not folder.is_dir():
        return
    if not (folder / _INDEX).is_file():
        yield f"`models.path`: {path!r} is a folder without {_INDEX}, so no pipeline as diffusers saves it"
        return
    broken = [problem for name in _FILES if (problem := _broken(folder / name))]
    yield from broken
    kind = _read(folder / _INDEX).get("_class_name")
    if not broken and kind != PIPELINE:
        what = f"a {kind}" if kind else "of no named class"
        yield (
            f"`models.path`: expected a {PIPELINE}, but {path!r} is {what} "
            f"(`_class_name` in its {_INDEX}); SDXL, Stable Diffusion 3, Flux and other pipelines are not supported yet"
        )


def size_problems(path: str, height: int | None, width: int | None) -> Iterator[str]:
    """Yields a problem for each side that the networks of a folder cannot halve as often as they need to.

    Nothing is reported where the folder's files do not say.
    """
    unet, vae = (_read(Path(asset_path(path)) / part / "config.json") for part in ("unet", "vae"))
    halvings, factors = unet.get("block_out_channels"), vae.get("block_out_channels")
    if _is_foreign(path) or not (isinstance(halvings, list) and isinstance(factors, list) and halvings and factors):
        return
    factor = 2 ** (len(factors) - 1)
    multiple = factor * 2 ** (len(halvings) - 1)  # the rule of StableDiffusion.latent_shape
    sample = unet.get("sample_size")
    default = sample if isinstance(sample, list) and len(sample) == 2 else [sample, sample]
    for name, side, latent in (("height", height, default[0]), ("width", width, default[1])):
        pixels = latent * factor if side is None and isinstance(latent, int) else side
        if pixels is not None and (pixels < multiple or pixels % multiple):
            near = max(multiple, round(pixels / multiple) * multiple)
            yield (
                f"`models.{name}`: expected a multiple of {multiple} pixels (VAE factor {factor}), got {pixels}; "
                f"{near} would do"
            )


def steps_problems(path: str, steps: int) -> Iterator[str]:
    """Yields a problem if there are more denoising steps than a folder's model was trained with.

    Nothing is reported where the folder's file does not say.
    """
    most = _read(Path(asset_path(path)) / "scheduler" / "scheduler_config.json").get("num_train_timesteps")
    if not _is_foreign(path) and isinstance(most, int) and steps > most:
        yield f"`sampler.num_inference_steps`: expected at most {most}, those {path!r} was trained with, got {steps}"


def _is_foreign(path: str) -> bool:
    """Whether a folder holds another class of pipeline, whose sizes and steps follow other rules.

    `kind_problems` reports it.
    """
    return bool(_read(Path(asset_path(path)) / _INDEX).get("_class_name") != PIPELINE)


def _load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _read(file: Path) -> Mapping[str, Any]:
    """Returns a JSON file's mapping; empty if the file is missing or broken."""
    try:
        content = _load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _broken(file: Path) -> str | None:
    """Returns a sentence if a JSON file exists but is broken."""
    try:
        content = _load(file) if file.is_file() else {}
    except (OSError, ValueError) as error:
        return f"`models.path`: {file} cannot be read as JSON ({error}); write the folder again"
    if not isinstance(content, dict):
        return f"`models.path`: {file} should hold a JSON object, but holds a {type(content).__name__}"
    return None
