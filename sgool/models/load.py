"""Loads a text-to-image model from a folder or a hub id, frozen and ready for the chain."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgool.config.loading import Loading, offload_problems
from sgool.config.pipeline import KIND_FILES, class_problems, kind_problems
from sgool.config.sources import is_single_file
from sgool.config.variants import only_variant
from sgool.config.weights import chosen_variant, folder_files, missing_weights
from sgool.errors import ConfigError, SgoolError
from sgool.models.assets import resolve_asset
from sgool.models.autoencoder import overflows_in_float16
from sgool.models.checkpoints import refuse_broken
from sgool.models.complete import refuse_random_weights
from sgool.models.devices import best_device
from sgool.models.families import family_of
from sgool.models.hub import hub_access, not_cached
from sgool.models.memory import compile_denoisers, decode_in_tiles, place
from sgool.models.opening import LOADING_ERRORS, NotLoadedError, Opening, open_pipeline
from sgool.models.quiet import without_notes
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
    offload: str | None = None,
    family: str | None = None,
    call: Mapping[str, Any] | None = None,
    loading: Mapping[str, Any] | None = None,
) -> Any:
    """Loads the components of a pipeline, frozen and in evaluation mode, as a `sgool.models.family.Family`.

    Like the pipeline itself, it reads a ``steps_offset`` of 0 in a scheduler config as 1, unless one is given here.

    Args:
        path: A folder written by ``save_pretrained``, a hub id, a single file of weights, or "emoji_world" for the
            embedded model.
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
        offload: "model": all networks wait in the memory of the CPU, and one at a time is on the device; None: none.
        family: Name of the model's family; None: that of the pipeline's class (`sgool.config.families`).
        call: Arguments of the pipeline's ``__call__`` that differ from their defaults, such as ``max_sequence_length``.
        loading: Any of config, variant, components, scheduler, loras and quantization, as `models` has them
            (docs/models.md); see `sgool.config.loading.Loading`.

    Raises:
        SgoolError: The folder or hub id is no pipeline of this kind, the hub cannot be reached, the scheduler has no
            such key, a file lacks weights, or what is to be loaded beside does not fit the pipeline.

    Examples:
        >>> from sgool import Chain, load_models
        >>> models = load_models("emoji_world_turbo")
        >>> Chain(models, num_inference_steps=2).latent_shape()
        (4, 16, 16)
    """
    how = Loading.of(loading)
    if problems := list(offload_problems({"offload": offload, "compile": compile, "quantization": how.quantization})):
        raise ConfigError(problems)
    device = best_device() if device is None else torch.device(device)
    pipeline = _opened(str(path), how, dtype, vae_dtype, family)
    pipeline.scheduler = respaced(pipeline.scheduler, steps_offset, timestep_spacing)
    models: Any = family_of(pipeline, family, call, name=str(path))
    autoencoder = getattr(pipeline, "vae", None)
    if family == "replay" and overflows_in_float16(autoencoder):
        # Its pipeline has it in float32 while it decodes, and no longer when gradients go back through it.
        pipeline.vae.to(torch.float32)
    networks = [*models.denoisers.values(), *filter(None, [autoencoder])]
    if isinstance(models, StableDiffusion):
        networks.append(models.text_encoder)
        if device.type == "cpu" and _is_small(models):
            _use_plain_attention(models)
    for network in networks if channels_last else ():
        _put_channels_last(network)
    if vae_tile_size is not None and autoencoder is not None:
        decode_in_tiles(autoencoder, vae_tile_size)
    place(pipeline, device, offload_text_encoders=offload_text_encoders, offload=offload)
    compile_denoisers(models, compile)
    return models


def _put_channels_last(network: nn.Module) -> None:
    """Weight by weight: networks of videos have convolutions over time beside others, which ``Module.to`` refuses."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.ndim in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])


def _opened(path: str, how: Loading, dtype: torch.dtype, vae_dtype: torch.dtype | None, family: str | None) -> Any:
    """Opens a pipeline after its small files are looked at; the hub is asked only where something is not on disk."""
    resolved = resolve_asset(path)
    variant = _check_source(path, Path(resolved), how)
    opening = Opening(resolved, dtype, vae_dtype, how, variant)
    whole = (how.config or "") if is_single_file(path) else resolved
    sources = [whole, *(part.path for part in how.components.values()), *(lora.path for lora in how.loras)]
    on_disk = all(source and Path(source).expanduser().exists() for source in sources)
    unreachable: str | None = None
    try:
        with (
            nullcontext() if on_disk else hub_access() as unreachable,
            _no_progress_bars(),
            without_notes(),
            refuse_random_weights(path),
        ):
            described = opening.described
            _check_kind(path if described == resolved else described, described, Path(described).is_dir(), family)
            return open_pipeline(opening)
    except NotLoadedError as error:
        raise _cannot_load(error.key, error.source, error.cause, unreachable) from error.cause
    except LOADING_ERRORS as error:
        if is_single_file(path) and unreachable:
            raise SgoolError(
                "`models.config`: expected a folder with the configuration of the pipeline that the weights in "
                f"{path!r} are for, got {how.config!r}, and the hub is out of reach ({unreachable})"
            ) from error
        raise _cannot_load("models.path", path, error, unreachable) from error


def _cannot_load(key: str, source: str, error: Exception, unreachable: str | None) -> SgoolError:
    local = Path(resolve_asset(source)).expanduser().exists()
    if unreachable and not local:
        give = f"give a folder with {key}=PATH (`hf download {source} --local-dir PATH` makes one)"
        return SgoolError(f"`{key}`: {not_cached(repr(source), unreachable, give)}")
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "sentencepiece" in why.lower():
        return SgoolError(f"`{key}`: {source!r} needs sentencepiece: pip install 'sgool[sentencepiece]'")
    if isinstance(error, ImportError):
        return SgoolError(f"`{key}`: {source!r} needs a package that is not here: {why}")
    mend = "a missing file: write the folder again" if local else "check the id and the network, or give a folder"
    what = "a pipeline" if key == "models.path" else "it"
    return SgoolError(f"`{key}`: could not load {what} from {source!r}: {why} ({mend})")


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


def _check_source(path: str, resolved: Path, how: Loading) -> str | None:
    """Refuses what is no pipeline by what lies there, and returns the variant of the weights that is taken."""
    if is_single_file(path):
        if not resolved.is_file():
            raise SgoolError(f"`models.path`: there is no file {path!r} (relative paths start at {Path.cwd()})")
        refuse_broken([resolved])
        return None
    local = bool(path) and resolved.is_dir()
    if local and not (resolved / "model_index.json").is_file():
        raise SgoolError(
            f"`models.path`: expected a folder of a diffusers pipeline (with model_index.json), got {path!r}, which "
            f"has {sorted(p.name for p in resolved.iterdir())[:8]}; write one with `pipeline.save_pretrained(folder)`"
        )
    looks_local = not path or path.startswith((".", "/", "~")) or path.count("/") != 1
    if not local and looks_local:
        raise SgoolError(f"`models.path`: expected an existing folder or a hub id (owner/name), got {path!r}")
    return _variant(resolved, how) if local else how.variant


def _variant(folder: Path, how: Loading) -> str | None:
    """Returns the variant that a folder is read from; a warning says so if nobody asked for it."""
    replaced = list(how.components)
    variant, problem = chosen_variant(folder, how.variant, replaced)
    missing = [] if problem else missing_weights(folder, variant, replaced)
    if problem or missing:
        again = f"`models.path`: {'; '.join(missing)}. Fetch the folder again, or save it with safetensors"
        raise SgoolError(problem or again)
    refuse_broken(folder_files(folder, variant))
    if variant != how.variant:
        warnings.warn(only_variant(folder, str(variant)), stacklevel=4)
    return variant


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
