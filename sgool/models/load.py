"""Loads a text-to-image model from a folder or a hub id, frozen and ready for the chain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from sgool.config.pipeline import KIND_FILES, class_problems, kind_problems
from sgool.config.weights import folder_files, missing_weights
from sgool.errors import SgoolError
from sgool.models.assets import resolve_asset
from sgool.models.checkpoints import refuse_broken
from sgool.models.devices import best_device
from sgool.models.families import family_of
from sgool.models.hub import hub_access, not_cached
from sgool.models.memory import compile_denoisers, decode_in_tiles, place
from sgool.models.schedule import respaced
from sgool.models.stable_diffusion import StableDiffusion


def load_models(
    path: str | Path = "emoji_world",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    compile: bool | str = False,
    steps_offset: int | None = None,
    timestep_spacing: str | None = None,
    vae_dtype: torch.dtype | None = None,
    vae_tile_size: int | None = None,
    offload_text_encoders: bool = False,
    family: str | None = None,
    call: Mapping[str, Any] | None = None,
) -> Any:
    """Loads the components of a pipeline, frozen and in evaluation mode, as a `sgool.models.family.Family`.

    Like the pipeline itself, it reads a ``steps_offset`` of 0 in a scheduler config as 1, unless one is given here.

    Args:
        path: A folder written by ``save_pretrained``, a hub id, or "emoji_world" for the embedded model.
        device: Device of the networks; None: the accelerator if there is one.
        dtype: Data type of the networks' weights.
        channels_last: Whether convolutions work in that memory format.
        compile: Whether torch.compile translates the denoising network at its first calls; "blocks": only one of each
            kind of its repeated blocks.
        steps_offset: Another one than the folder's; see `sgool.models.schedule.respaced`.
        timestep_spacing: Another one than the folder's.
        vae_dtype: Data type of the autoencoder's weights; None: ``dtype``. Some autoencoders overflow in float16.
        vae_tile_size: Side of the tiles in pixels in which the autoencoder decodes larger images; None: no tiles.
        offload_text_encoders: Whether text encoders wait in the memory of the CPU while they do not encode.
        family: Name of the model's family; None: that of the pipeline's class (`sgool.config.families`).
        call: Arguments of the pipeline's ``__call__`` that differ from their defaults, such as ``max_sequence_length``.

    Raises:
        SgoolError: The folder or hub id is no pipeline of this kind, the hub cannot be reached, or the scheduler has no
            such key.
    """
    device = best_device() if device is None else torch.device(device)
    resolved = resolve_asset(str(path))
    local = bool(resolved) and Path(resolved).is_dir()
    _check_folder(str(path), Path(resolved), local)
    try:
        with nullcontext() if local else hub_access() as unreachable, _no_progress_bars():
            _check_kind(str(path), resolved, local, family)
            pipeline = _pipeline(resolved, local, dtype, vae_dtype)
    except (OSError, ValueError, TypeError, SafetensorError, UnpicklingError) as error:
        raise _cannot_load(str(path), error, local, unreachable) from error
    pipeline.scheduler = respaced(pipeline.scheduler, steps_offset, timestep_spacing)
    models: Any = family_of(pipeline, family, call, name=str(path))
    networks = [*models.denoisers.values(), pipeline.vae]
    if isinstance(models, StableDiffusion):
        networks.append(models.text_encoder)
        if device.type == "cpu" and _is_small(models):
            _use_plain_attention(models)
    if channels_last:
        for network in networks:
            network.to(memory_format=torch.channels_last)
    if vae_tile_size is not None:
        decode_in_tiles(pipeline.vae, vae_tile_size)
    place(pipeline, device, offload_text_encoders=offload_text_encoders)
    compile_denoisers(models, compile)
    return models


def _pipeline(resolved: str, local: bool, dtype: torch.dtype, vae_dtype: torch.dtype | None) -> Any:
    """Loads a pipeline of the class that its folder names."""
    import diffusers

    # diffusers 0.42 renamed this argument; the other name is refused or deprecated.
    name = "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 42) else "torch_dtype"
    index = json.loads(_index_file(resolved, local).read_text(encoding="utf-8"))
    options: dict[str, Any] = {name: dtype, "local_files_only": local}
    if index["_class_name"] == "StableDiffusionPipeline":
        options |= {"safety_checker": None, "requires_safety_checker": False}
    if vae_dtype is not None:
        autoencoder = getattr(diffusers, index["vae"][1])
        more: dict[str, Any] = {name: vae_dtype, "subfolder": "vae", "local_files_only": local}
        options["vae"] = autoencoder.from_pretrained(resolved, **more)
    # Parts that a pipeline was saved without, such as T5 of Stable Diffusion 3, diffusers wants to be told of again.
    options |= {part: None for part, entry in index.items() if entry == [None, None]}
    return getattr(diffusers, index["_class_name"]).from_pretrained(resolved, **options)


def _index_file(resolved: str, local: bool) -> Path:
    if local:
        return Path(resolved) / "model_index.json"
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(resolved, "model_index.json"))


def _cannot_load(path: str, error: Exception, local: bool, unreachable: str | None) -> SgoolError:
    if unreachable:
        give = f"give a folder with models.path=PATH (`hf download {path} --local-dir PATH` makes one)"
        return SgoolError(f"`models.path`: {not_cached(repr(path), unreachable, give)}")
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    mend = "a missing file: write the folder again" if local else "check the id and the network, or give a folder"
    return SgoolError(f"`models.path`: could not load a pipeline from {path!r}: {why} ({mend})")


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Hides the libraries' progress bars: loading takes seconds, and they would disturb the display of the run."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()


def _check_folder(path: str, resolved: Path, local: bool) -> None:
    if local and not (resolved / "model_index.json").is_file():
        raise SgoolError(
            f"`models.path`: expected a folder of a diffusers pipeline (with model_index.json), got {path!r}, which "
            f"has {sorted(p.name for p in resolved.iterdir())[:8]}; write one with `pipeline.save_pretrained(folder)`"
        )
    looks_local = not path or path.startswith((".", "/", "~")) or path.count("/") > 1
    if not local and looks_local:
        raise SgoolError(f"`models.path`: expected an existing folder or a hub id (owner/name), got {path!r}")
    if local and (missing := missing_weights(resolved)):
        raise SgoolError(f"`models.path`: {'; '.join(missing)}. Fetch the folder again, or save it with safetensors")
    if local:
        refuse_broken(folder_files(resolved))


def _check_kind(path: str, resolved: str, local: bool, family: str | None) -> None:
    """Refuses a pipeline of another kind by its small files, before its weights are read or downloaded.

    Raises:
        SgoolError: Another class of pipeline, or networks that another class needs; all problems at once.
    """
    problems = list(kind_problems(path, family)) if local else class_problems(path, _hub_files(resolved), family)
    if problems:
        raise SgoolError("; ".join(problems))


def _hub_files(repository: str) -> dict[str, Path]:
    """Downloads the small files of a hub repository, or finds them in the cache; ends with the first that is not there.

    What is wrong with the id or the network is said where the pipeline itself is loaded.
    """
    from huggingface_hub import hf_hub_download

    found: dict[str, Path] = {}
    for name in KIND_FILES:
        try:
            found[name] = Path(hf_hub_download(repository, name))
        except Exception:  # errors of HTTP, of the hub, of the cache's files
            break
    return found


def _is_small(models: StableDiffusion) -> bool:
    """Whether the latents of the model's own image size are at most 16 x 16."""
    _, height, width = models.latent_shape()
    return height * width <= 256


def _use_plain_attention(models: StableDiffusion) -> None:
    """Replaces fused attention by plain attention, a softmax between two products.

    On CPUs, fused attention gains nothing for few tokens, and has no second gradient. For the embedded network both
    take the same time in float32, and the plain one is 8 % faster in bfloat16. With 1,024 tokens the fused one is a
    tenth faster in float32 (benchmarks/chain.py), and needs no memory for its matrix.
    """
    from diffusers.models.attention_processor import AttnProcessor

    models.unet.set_attn_processor(AttnProcessor())
