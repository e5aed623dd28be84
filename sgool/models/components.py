"""Parts of a pipeline that come from elsewhere: another autoencoder, a file with a UNet or transformer alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgool.config.loading import Component, is_gguf
from sgool.config.sources import is_single_file
from sgool.config.variants import has_plain_weights, variants_of
from sgool.errors import SgoolError
from sgool.models.checkpoints import load_strictly, read_state
from sgool.models.dtypes import dtype_option
from sgool.models.quantization import gguf_config, is_quantised, part_config

#: Share of a network's names that a file has to have to be in diffusers' own layout.
_OWN_LAYOUT = 0.5


def load_component(
    name: str,
    part: Component,
    described: str,
    index: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    quantization: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a part of a pipeline from a folder, a hub id or a file.

    Args:
        name: The part's name in the pipeline, such as "vae".
        part: Where it comes from.
        described: Folder or hub id of the pipeline, whose own part's configuration describes a file of weights.
        index: The pipeline's ``model_index.json``.
        dtype: Data type of the weights.
        quantization: The run's quantised weights, if any.

    Raises:
        SgoolError: Its class is not known, or the weights do not fit it.
    """
    file = _file_of(part)
    if file is None:
        return _from_folder(name, part, index, dtype, quantization)
    kind = _class_of(name, part.kind, index)
    if is_gguf(part) or not _is_in_own_layout(kind, file, name, described):
        return _converted(name, kind, file, described, dtype)
    if is_quantised(quantization, name):
        raise SgoolError(
            f"`models.quantization`: expected null with `models.components.{name}` from a file, which is loaded as it "
            "is; save the network as a folder (`save_pretrained`) first"
        )
    return _own_layout(kind, file, name, described, dtype).eval()


def own_component(
    name: str,
    source: str,
    index: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    variant: str | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a pipeline's own part in another data type than the rest has, or with quantised weights."""
    kind = _class_of(name, None, index)
    options = {**dtype_option(dtype), "subfolder": name, "local_files_only": Path(source).is_dir()}
    folder = Path(source) / name
    if variant is not None and (not folder.is_dir() or variant in variants_of(folder)):
        options["variant"] = variant
    return kind.from_pretrained(source, **options, **_quantised(name, kind, quantization, dtype))


def _quantised(name: str, kind: Any, quantization: Mapping[str, Any] | None, dtype: torch.dtype) -> dict[str, Any]:
    if quantization is None or not is_quantised(quantization, name):
        return {}
    return {"quantization_config": part_config(quantization, kind.__module__.partition(".")[0], dtype)}


def _file_of(part: Component) -> str | None:
    """Returns the path of the file of weights that a part is, or None for a folder or hub id."""
    if part.file is not None:
        place = Path(part.path).expanduser()
        if place.is_dir():
            return str(place / (part.subfolder or "") / part.file)
        from huggingface_hub import hf_hub_download

        return str(hf_hub_download(part.path, part.file, subfolder=part.subfolder))
    return str(Path(part.path).expanduser()) if is_single_file(part.path) else None


def _from_folder(
    name: str, part: Component, index: Mapping[str, Any], dtype: torch.dtype, quantization: Mapping[str, Any] | None
) -> Any:
    place = Path(part.path).expanduser()
    source, local = (str(place), True) if place.is_dir() else (part.path, False)
    subfolder = part.subfolder
    if subfolder is None and local and not (place / "config.json").is_file() and (place / name).is_dir():
        subfolder = name  # of a pipeline's folder
    own = _own_class(source, subfolder, local) if part.kind is None else part.kind
    if own is None and subfolder is None and not local:
        subfolder = name
        own = _own_class(source, subfolder, local)
    kind = _class_of(name, own, index)
    options: dict[str, Any] = {**dtype_option(dtype), "local_files_only": local}
    variants = variants_of(place / (subfolder or "")) if local else set()
    if len(variants) == 1 and not has_plain_weights(place / (subfolder or "")):
        options["variant"] = variants.pop()
    if subfolder is not None:
        options["subfolder"] = subfolder
    return kind.from_pretrained(source, **options, **_quantised(name, kind, quantization, dtype))


def _own_class(source: str, subfolder: str | None, local: bool) -> str | None:
    """Returns the class that a part's own configuration names: AutoencoderTiny where the pipeline has AutoencoderKL."""
    try:
        if local:
            file = Path(source) / (subfolder or "") / "config.json"
        else:
            from huggingface_hub import hf_hub_download

            file = Path(hf_hub_download(source, "config.json", subfolder=subfolder))
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    named = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    return str(named) if named else None


def _class_of(name: str, kind: str | None, index: Mapping[str, Any]) -> Any:
    import diffusers
    import transformers

    wanted = kind or index[name][1]
    for library in (diffusers, transformers):
        if hasattr(library, wanted):
            return getattr(library, wanted)
    raise SgoolError(
        f"`models.components.{name}.class`: expected the name of a class in diffusers or transformers, got {wanted!r}"
    )


def _blank(kind: Any, name: str, described: str) -> nn.Module:
    """A network with the configuration of the pipeline's own part, without memory for its weights."""
    from accelerate import init_empty_weights

    config = kind.load_config(described, subfolder=name, local_files_only=Path(described).is_dir())
    # Buffers get their values, since files need not hold all of them.
    with init_empty_weights(include_buffers=False):
        network: nn.Module = kind.from_config(config)
    return network


def _is_in_own_layout(kind: Any, file: str, name: str, described: str) -> bool:
    """Whether a file's tensors are named as diffusers names the network's, and not as its authors do."""
    if not hasattr(kind, "load_config"):
        raise SgoolError(f"`models.components.{name}`: a {kind.__name__} is loaded from a folder, not from a file")
    expected = set(_blank(kind, name, described).state_dict())
    found = len(expected & set(_names(file)))
    return found >= _OWN_LAYOUT * len(expected) or not hasattr(kind, "from_single_file")


def _names(file: str) -> list[str]:
    if file.endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(file, framework="pt") as content:
            return list(content.keys())
    return list(read_state(file))


def _own_layout(kind: Any, file: str, name: str, described: str, dtype: torch.dtype) -> nn.Module:
    network = _blank(kind, name, described)
    whole = set(getattr(kind, "_keep_in_fp32_modules", None) or ())  # as `from_pretrained` has it
    kept = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    state = {
        key: value.to(kept if whole & set(key.split(".")) else dtype) if value.is_floating_point() else value
        for key, value in read_state(file).items()
    }
    load_strictly(network, state, file, assign=True)
    return network


def _converted(name: str, kind: Any, file: str, described: str, dtype: torch.dtype) -> Any:
    """Loads a file in its authors' layout, which diffusers translates."""
    options: dict[str, Any] = {**dtype_option(dtype), "config": described, "subfolder": name}
    if file.endswith(".gguf"):
        options["quantization_config"] = gguf_config(dtype)
    try:
        return kind.from_single_file(file, local_files_only=Path(described).is_dir(), **options)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SgoolError(
            f"`models.components.{name}`: the weights in {file} do not fit {kind.__name__} as {described!r} has it: "
            f"{why}. Check that the file belongs to this model"
        ) from error
