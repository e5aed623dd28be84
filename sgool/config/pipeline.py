"""Checks a pipeline, in a folder or of the hub, by its JSON files, before any model is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from sgool.config.families import REPLAY, family_for, known_families, replay_call_problems, wrong_call
from sgool.config.paths import asset_path

_INDEX = "model_index.json"
_UNET = "unet/config.json"
_FILES = (_INDEX, _UNET, "vae/config.json", "scheduler/scheduler_config.json")
#: The small files of a pipeline that say what kind it is.
KIND_FILES = (_INDEX, _UNET)
#: Configurations of parts that are not a folder's own, by their names.
Replaced: TypeAlias = Mapping[str, Mapping[str, Any]]
_NONE_REPLACED: Replaced = MappingProxyType({})
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def kind_problems(path: str, family: str | None = None) -> Iterator[str]:
    """Yields problems if a folder, an embedded model or a hub id is no pipeline that sgool can use.

    A ``family`` that the user names serves any class. Of a hub id only the files in the cache are looked at; nothing
    is downloaded here.
    """
    folder = Path(asset_path(path))
    if not folder.is_dir():
        yield from class_problems(path, _cached(path), family)
        return
    if not (folder / _INDEX).is_file():
        yield f"`models.path`: {path!r} is a folder without {_INDEX}, so no pipeline as diffusers saves it"
        return
    yield from class_problems(path, {name: folder / name for name in _FILES}, family)


def class_problems(path: str, files: Mapping[str, Path], family: str | None = None) -> list[str]:
    """Returns what makes a pipeline one that sgool cannot use.

    Args:
        path: The folder or hub id, for messages.
        files: Where the pipeline's JSON files lie, by their names in it; files that are not known are not looked at.
        family: The family that the user names, if any.
    """
    if broken := [problem for file in files.values() if (problem := _broken(file))]:
        return broken
    index = _read(files[_INDEX]) if _INDEX in files else None
    kind = None if index is None else index.get("_class_name")
    found = family or family_for(str(kind))
    if index is not None and found is None:
        what = f"a {kind}" if kind else "of no named class"
        return [
            f"`models.path`: {path!r} is {what} (`_class_name` in its {_INDEX}), and there is no model family for "
            f"that; expected a pipeline of one of these families: {known_families()}"
        ]
    if found not in ("stable_diffusion", None):
        return []
    return [f"`models.path`: {path!r} {problem}" for problem in unet_problems(_read(files.get(_UNET)))]


def call_problems(path: str, family: str | None, call: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields a problem for arguments of the pipeline's call that its family does not take, or not here.

    Args:
        path: The folder, embedded model or hub id.
        family: The family that the user names, if any.
        call: The arguments by their names.
    """
    index = Path(asset_path(path)) / _INDEX
    found = family or family_for(str(_read(index if index.is_file() else _cached(path).get(_INDEX)).get("_class_name")))
    if found == REPLAY:
        yield from replay_call_problems(call or {})
        return
    if found is not None and (problem := wrong_call(call or {}, found)):
        yield problem


def unet_problems(config: Mapping[str, Any]) -> list[str]:
    """Returns what a UNet's configuration says that a `StableDiffusionPipeline` without further inputs cannot serve."""
    found = []
    inputs, outputs = config.get("in_channels"), config.get("out_channels")
    if isinstance(inputs, int) and isinstance(outputs, int) and inputs != outputs:
        found.append(
            f"has a UNet of {inputs} input and {outputs} output channels, as for inpainting, depth or edit "
            "instructions; expected as many inputs as outputs"
        )
    if config.get("time_cond_proj_dim") is not None:
        found.append(
            "has a UNet that is told the guidance scale (`time_cond_proj_dim`), as LCM's; save it as a "
            "LatentConsistencyModelPipeline, which has the family lcm"
        )
    if config.get("addition_embed_type") is not None:
        kind = config["addition_embed_type"]
        found.append(f"has a UNet with further conditioning (`addition_embed_type` {kind}), as SDXL's; not supported")
    return found


def _cached(path: str) -> dict[str, Path]:
    """Returns the small files of a hub id that are in the cache, by their names; empty for what is no hub id."""
    if not _HUB_ID.fullmatch(path):
        return {}
    from huggingface_hub import try_to_load_from_cache

    found = {name: try_to_load_from_cache(path, name) for name in KIND_FILES}
    return {name: Path(file) for name, file in found.items() if isinstance(file, str)}


def size_problems(
    path: str, height: int | None, width: int | None, replaced: Replaced = _NONE_REPLACED
) -> Iterator[str]:
    """Yields a problem for each side that the networks of a folder cannot make.

    Nothing is reported where the folder's files do not say.

    Args:
        path: The folder, embedded model or hub id.
        height: Height of the images in pixels; None: the model's own.
        width: Their width.
        replaced: Configurations of parts that are not the folder's own, by their names.
    """
    folder = Path(asset_path(path))
    multiple, factor, default = _sides(folder, replaced)
    if not multiple:
        return
    for name, side, own in (("height", height, default[0]), ("width", width, default[1])):
        pixels = own if side is None else side
        if pixels is not None and (pixels < multiple or pixels % multiple):
            near = max(multiple, round(pixels / multiple) * multiple)
            yield (
                f"`models.{name}`: expected a multiple of {multiple} pixels (VAE factor {factor}), got {pixels}; "
                f"{near} would do"
            )


def _sides(folder: Path, replaced: Replaced) -> tuple[int, int, tuple[int | None, int | None]]:
    """Returns what the sides of images are a multiple of, the VAE's factor, and the model's own size in pixels.

    These are the rules of the families' `latent_shape`; 0 where the files do not say.
    """
    unet, vae, transformer = (
        replaced.get(part) or _read(folder / part / "config.json") for part in ("unet", "vae", "transformer")
    )
    family = family_for(str(_read(folder / _INDEX).get("_class_name")))
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or vae.get("dim_mult")
    if family is None or not (isinstance(blocks, list) and blocks):
        return 0, 0, (None, None)
    factor = 2 ** (len(blocks) - 1)
    if family == "stable_diffusion":
        halvings, sample = unet.get("block_out_channels"), unet.get("sample_size")
        if not (isinstance(halvings, list) and halvings):
            return 0, 0, (None, None)
        sides = sample if isinstance(sample, list) and len(sample) == 2 else [sample, sample]
        own = [side * factor if isinstance(side, int) else None for side in sides]
        # Each block of the network but the last halves the latents' sides.
        return factor * 2 ** (len(halvings) - 1), factor, (own[0], own[1])
    patch = 2 if family == "flux" else transformer.get("patch_size", 1)
    patch = patch[-1] if isinstance(patch, list) and patch else patch
    return factor * (patch if isinstance(patch, int) else 1), factor, (None, None)


def guidance_problems(path: str, guidance_scale: float | None) -> Iterator[str]:
    """Yields a problem for guidance of a folder's model that is distilled without it: FLUX.1 schnell."""
    folder = Path(asset_path(path))
    is_flux = family_for(str(_read(folder / _INDEX).get("_class_name"))) == "flux"
    told = _read(folder / "transformer" / "config.json").get("guidance_embeds", True)
    if is_flux and not told and guidance_scale is not None and guidance_scale > 1:
        yield no_guidance(path, guidance_scale)


def clipping_problems(path: str, replaced: Replaced = _NONE_REPLACED) -> Iterator[str]:
    """Yields a problem if a folder's scheduler says that it clips, so that its steps are not linear.

    A scheduler that clips by its class's default shows when its steps are read out. For ``replaced`` see
    `size_problems`.
    """
    config = replaced.get("scheduler") or _read(Path(asset_path(path)) / "scheduler" / "scheduler_config.json")
    kind = str(config.get("_class_name"))
    # Other classes keep a file's `clip_sample` without reading it.
    keys = ("clip_sample", "thresholding") if kind.startswith(("DDIM", "DDPM", "LCM", "TCD")) else ("thresholding",)
    if cuts := [key for key in keys if config.get(key) is True]:
        yield not_linear(kind, cuts)


def not_linear(kind: str, cuts: Sequence[str]) -> str:
    """Says that a scheduler's steps are not linear.

    Args:
        kind: The scheduler's class.
        cuts: Those of its settings that cut off large numbers.
    """
    why = f" with {' and '.join(cuts)}, which cuts off large numbers" if cuts else ""
    off = ", ".join(f"{cut}: false" for cut in cuts)
    mend = f"switch it off ('models.scheduler={{{off}}}'), or " if cuts else ""
    return (
        f"`sampler`: native needs a scheduler whose steps are linear, got {kind}{why}; {mend}use sampler=ddim, which "
        "never cuts off"
    )


def no_guidance(path: str, guidance_scale: float) -> str:
    """Says that a model is distilled without guidance."""
    return (
        f"`sampler.guidance_scale`: expected 1 or less, since {path!r} is distilled without guidance "
        f"(`guidance_embeds` of its transformer is false, as in FLUX.1 schnell), got {guidance_scale:g}"
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
    return bool(_read(Path(asset_path(path)) / _INDEX).get("_class_name") != "StableDiffusionPipeline")


def _load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _read(file: Path | None) -> Mapping[str, Any]:
    """Returns a JSON file's mapping; empty if the file is missing or broken."""
    if file is None:
        return {}
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
