"""Opens a diffusers pipeline from a folder, a hub id or a single file, with the parts that are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from sgool.config.loading import Loading
from sgool.config.sources import is_single_file
from sgool.errors import SgoolError
from sgool.models.components import load_component, own_component
from sgool.models.dtypes import dtype_option
from sgool.models.loras import fuse_lora
from sgool.models.quantization import check_quantization, is_quantised
from sgool.models.schedule import other_scheduler

#: What diffusers, transformers and their readers of files raise where something is not what it should be.
LOADING_ERRORS = (OSError, ValueError, TypeError, ImportError, SafetensorError, UnpicklingError)
#: Classes of pipelines that are saved with a safety checker, which is not loaded.
_CHECKED = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")


class NotLoadedError(Exception):
    """A part of a pipeline could not be loaded.

    Attributes:
        key: The key of the configuration that names it.
        source: What the key says.
        cause: What went wrong.
    """

    def __init__(self, key: str, source: str, cause: Exception) -> None:
        super().__init__(key, source, cause)
        self.key, self.source, self.cause = key, source, cause


@dataclass(frozen=True)
class Opening:
    """What a pipeline is opened with.

    Attributes:
        source: Folder, hub id or file, as it is found.
        dtype: Data type of the networks' weights.
        vae_dtype: That of the autoencoder's; None: ``dtype``.
        loading: Variant, parts, scheduler, LoRAs and quantised weights.
        variant: Variant of the weights that is taken.
    """

    source: str
    dtype: torch.dtype
    vae_dtype: torch.dtype | None
    loading: Loading
    variant: str | None = None

    @property
    def described(self) -> str:
        """Folder or hub id with the pipeline's configuration."""
        if not is_single_file(self.source):
            return self.source
        return self.loading.config or _published_config(self.source)

    def dtype_of(self, part: str) -> torch.dtype:
        """Data type of a part's weights."""
        return self.vae_dtype if part == "vae" and self.vae_dtype is not None else self.dtype


def open_pipeline(opening: Opening) -> Any:
    """Returns the pipeline of the class that its configuration names.

    Raises:
        SgoolError: A part, a LoRA or a scheduler does not fit it.
    """
    import diffusers

    loading, described = opening.loading, opening.described
    index = read_index(described)
    if unknown := [name for name in loading.components if name not in index]:
        known = ", ".join(name for name, entry in index.items() if isinstance(entry, list))
        raise SgoolError(f"`models.components`: the pipeline has these parts: {known}; got {', '.join(unknown)}")
    check_quantization(loading.quantization, index)
    parts: dict[str, Any] = {name: None for name in _left_out(index)}
    for name, part in loading.components.items():
        with _named(f"models.components.{name}", part.path):
            parts[name] = load_component(
                name, part, described, index, dtype=opening.dtype_of(name), quantization=loading.quantization
            )
    kind = getattr(diffusers, index["_class_name"])
    pipeline = _whole(opening, kind, index, parts)
    if loading.scheduler:
        pipeline.scheduler = other_scheduler(pipeline.scheduler, loading.scheduler)
    for lora in loading.loras:
        with _named("models.loras", lora.path):
            fuse_lora(pipeline, lora)
    return pipeline


@contextmanager
def _named(key: str, source: str) -> Iterator[None]:
    try:
        yield
    except LOADING_ERRORS as error:
        raise NotLoadedError(key, source, error) from error


def read_index(described: str) -> dict[str, Any]:
    """Returns the ``model_index.json`` of a folder or hub id: the classes of a pipeline and of its parts."""
    file = Path(described) / "model_index.json"
    if not Path(described).is_dir():
        from huggingface_hub import hf_hub_download

        file = Path(hf_hub_download(described, "model_index.json"))
    index: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return index


def _left_out(index: Mapping[str, Any]) -> list[str]:
    """Parts that a pipeline was saved without, such as T5 of Stable Diffusion 3; diffusers wants to be told of them."""
    checked = ["safety_checker"] if index["_class_name"] in _CHECKED else []
    return [*checked, *(name for name, entry in index.items() if entry == [None, None])]


def _whole(opening: Opening, kind: Any, index: Mapping[str, Any], parts: dict[str, Any]) -> Any:
    local = Path(opening.described).is_dir()
    options: dict[str, Any] = {**dtype_option(opening.dtype), "local_files_only": local, **parts}
    if index["_class_name"] in _CHECKED:
        options["requires_safety_checker"] = False
    if is_single_file(opening.source):
        return _from_file(opening, kind, options)
    quantization = opening.loading.quantization
    for name, entry in index.items():
        apart = is_quantised(quantization, name) or (name == "vae" and opening.vae_dtype is not None)
        if apart and isinstance(entry, list) and name not in parts:
            dtype, variant = opening.dtype_of(name), opening.variant
            with _named("models.quantization", quantization["backend"]) if quantization else nullcontext():
                options[name] = own_component(
                    name, opening.source, index, dtype=dtype, variant=variant, quantization=quantization
                )
    if opening.variant is not None:
        options["variant"] = opening.variant
    return kind.from_pretrained(opening.source, **options)


def _from_file(opening: Opening, kind: Any, options: dict[str, Any]) -> Any:
    """Opens a file with the weights of a whole pipeline."""
    if opening.loading.quantization:
        raise SgoolError(
            "`models.quantization`: expected null with a single file, whose weights diffusers quantises only in a "
            "folder; save it as one first (`pipe.save_pretrained(folder)`), or take a GGUF file as a component"
        )
    if not hasattr(kind, "from_single_file"):
        raise SgoolError(
            f"`models.path`: diffusers reads no single files of a {kind.__name__}; give a folder with models.path and "
            "the file as a part of it ('models.components={transformer: FILE}')"
        )
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    try:
        pipeline = kind.from_single_file(opening.source, config=opening.described, **options)
    except (SingleFileComponentError, KeyError, RuntimeError, AttributeError) as error:
        why = (str(error).strip("'\" \n") or type(error).__name__).splitlines()[0].rstrip(".")
        raise SgoolError(
            f"`models.path`: the weights in {opening.source!r} do not fit the {kind.__name__} that "
            f"{opening.described!r} describes: {why}. A file with one network alone is a part of a pipeline's folder: "
            "'models.components={unet: FILE}'"
        ) from error
    if opening.vae_dtype is not None:
        pipeline.vae.to(opening.vae_dtype)
    return pipeline


def _published_config(file: str) -> str:
    """Hub id of the pipeline that a single file's weights look like they are of.

    Raises:
        SgoolError: diffusers cannot tell.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    try:
        return str(fetch_diffusers_config(load_single_file_checkpoint(file))["pretrained_model_name_or_path"])
    except (KeyError, TypeError) as error:
        raise SgoolError(
            f"`models.config`: expected the folder or hub id of a pipeline that {file!r} belongs to, got none, and its "
            "weights do not tell"
        ) from error
