"""LoRAs: low-rank changes of a pipeline's weights, which are added to the weights once and forgotten."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from sgool.config.loading import Lora, missing_package
from sgool.errors import SgoolError

#: What the tensors of a LoRA's first matrices are called, in the layouts that diffusers gives them.
_FIRST = ("lora_A", "lora.down", "lora_down", "lora_linear_layer.down")
_NAME = "sgool"


def fuse_lora(pipeline: Any, lora: Lora) -> None:
    """Adds a LoRA to a pipeline's weights, in place, as ``load_lora_weights`` and ``fuse_lora`` do.

    The sum is made in the weights' own data type. No adapter is left, so that nothing of it is trained or computed.

    Args:
        pipeline: A pipeline of diffusers.
        lora: A file with its weight.

    Raises:
        SgoolError: peft is not installed, or the LoRA is for other networks.
        OSError: The file cannot be found or read.
    """
    if problems := list(missing_package("peft", "`models.loras`", "lora")):
        raise SgoolError(problems[0])
    if not hasattr(pipeline, "load_lora_weights"):
        raise SgoolError(f"`models.loras`: expected null, since diffusers has none for {type(pipeline).__name__}")
    source, options = _place(lora)
    with _in_silence():
        expected = _number_of_changes(pipeline, source, options)
        try:
            pipeline.load_lora_weights(source, adapter_name=_NAME, **options)
            found = sum(_adapters(part) for part in pipeline.components.values())
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise _other_base(pipeline, lora, _reason(error)) from error
        if not expected or found < expected:
            raise _other_base(pipeline, lora, f"these networks have {found} of the {expected} layers that it changes")
        try:
            # All parts are named: by default FLUX's pipeline fuses its transformer alone.
            parts = [name for name in pipeline._lora_loadable_modules if getattr(pipeline, name, None) is not None]
            pipeline.fuse_lora(components=parts, lora_scale=lora.weight, safe_fusing=True, adapter_names=[_NAME])
        except ValueError as error:
            raise SgoolError(f"`models.loras`: {lora.path!r} gives weights that are not finite") from error
        pipeline.unload_lora_weights()


def _place(lora: Lora) -> tuple[str, dict[str, Any]]:
    """Returns what diffusers is told of a LoRA: a folder or hub id, and the file's name."""
    path = Path(lora.path).expanduser()
    if path.is_file():
        return str(path.parent), {"weight_name": path.name, "local_files_only": True}
    options: dict[str, Any] = {} if lora.file is None else {"weight_name": lora.file}
    if not path.is_dir():
        return lora.path, options
    if lora.file is None:
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        if len(files) != 1:
            raise SgoolError(
                f"`models.loras`: expected one file of weights in {lora.path!r}, got {len(files)}"
                f"{''.join(f', {file.name}' for file in files[:6])}; say which: {{path: {lora.path}, file: NAME}}"
            )
        options["weight_name"] = files[0].name
    return str(path), {**options, "local_files_only": True}


def _number_of_changes(pipeline: Any, source: str, options: Mapping[str, Any]) -> int:
    """Returns how many layers a LoRA's file changes."""
    more = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
    loaded = pipeline.lora_state_dict(source, **options, **more)
    state = loaded[0] if isinstance(loaded, tuple) else loaded
    return sum(any(part in name for part in _FIRST) for name in state)


def _adapters(part: Any) -> int:
    """Returns the number of a network's layers that the LoRA has changed."""
    if not isinstance(part, nn.Module):
        return 0
    adapters: list[Any] = [getattr(module, "lora_A", ()) for module in part.modules()]
    return sum(_NAME in names for names in adapters)


def _other_base(pipeline: Any, lora: Lora, why: str) -> SgoolError:
    return SgoolError(
        f"`models.loras`: {lora.path!r} is a LoRA for another base model than this {type(pipeline).__name__}: {why}. "
        "Its page says which base it was trained on"
    )


def _reason(error: Exception) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    # torch lists each tensor in a line of its own.
    return " ".join(line.strip() for line in lines[:2])[:300].rstrip(".")


@contextmanager
def _in_silence() -> Iterator[None]:
    """Hides the libraries' records and warnings: what matters in them is said as an error."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
