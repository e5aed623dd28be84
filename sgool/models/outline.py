"""Pipelines without weights: networks as their configuration files describe them, whose tensors have shapes alone."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sgool.errors import SgoolError
from sgool.models.quiet import without_notes


@dataclass(frozen=True)
class Outline:
    """A pipeline whose networks have no weights.

    Attributes:
        pipeline: Of the class that the folder names. Its denoising network and autoencoder are fake: they compute
            shapes within `computing`. Its text encoders return zeros of the right shape.
        weights: Bytes of the weights of each of its networks, by diffusers' names.
    """

    pipeline: Any
    weights: Mapping[str, int]
    _mode: FakeTensorMode

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Lets operations on the networks compute shapes alone; new tensors within the block have no data."""
        with self._mode:
            yield


class TextEncoderOutline(nn.Module):
    """Stands for a text encoder of transformers: it returns zeros of the shapes that the encoder would return.

    Args:
        config: The encoder's configuration.
        kind: Its class.
        dtype: Data type of what it returns.
    """

    def __init__(self, config: Any, kind: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.dtype, self.device = config, dtype, torch.device("cpu")
        self._is_projected = kind.endswith("WithProjection")

    def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns embeddings of tokens (B, L): zeros (B, L, D), and pooled ones (B, D)."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.clip.modeling_clip import CLIPTextModelOutput

        batch, width = len(input_ids), self.config.hidden_size
        tokens = torch.zeros(*input_ids.shape, width, dtype=self.dtype)
        layers = (tokens,) * (self.config.num_hidden_layers + 1)
        if self._is_projected:
            pooled = torch.zeros(batch, self.config.projection_dim, dtype=self.dtype)
            return CLIPTextModelOutput(text_embeds=pooled, last_hidden_state=tokens, hidden_states=layers)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens[:, 0], hidden_states=layers)


@without_notes()
def outline(
    folder: Path,
    dtype: torch.dtype,
    vae_dtype: torch.dtype | None = None,
    replaced: Mapping[str, Path] | None = None,
) -> Outline:
    """Makes the pipeline of a folder from its configuration files; files of weights are not looked at.

    Args:
        folder: A folder as ``save_pretrained`` writes it; of each network its config.json is enough.
        dtype: Data type of the networks.
        vae_dtype: Data type of the autoencoder; None: ``dtype``.
        replaced: Folders of networks that take the place of the folder's own, by name.

    Raises:
        SgoolError: A file is missing or broken, or names a class that is not there.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    parts: dict[str, Any] = {}
    weights: dict[str, int] = {}
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        kind = _class_of(("diffusers", index["_class_name"]))
        for name, entry in index.items():
            if name.startswith("_") or not isinstance(entry, list):
                continue
            wanted = vae_dtype if name == "vae" and vae_dtype is not None else dtype
            if entry[0] is None or name in ("safety_checker", "feature_extractor", "image_encoder"):
                parts[name] = None
                continue
            place = (replaced or {}).get(name, folder / name)
            part_kind = _class_of(entry) if place.parent == folder else _own_class(place, entry[0])
            if name.startswith("text_encoder"):
                parts[name], weights[name] = _text_encoder(place, part_kind, wanted)
            else:
                parts[name] = _part(place, part_kind, wanted, mode)
        taken = inspect.signature(kind.__init__).parameters
        settings = {name: value for name, value in index.items() if name in taken and not isinstance(value, list)}
        pipeline = kind(**parts, **settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SgoolError(f"`models.path`: the networks of {str(folder)!r} cannot be outlined: {why}") from error
    weights |= {
        name: _bytes(part) for name, part in parts.items() if isinstance(part, nn.Module) and name not in weights
    }
    return Outline(pipeline, weights, mode)


def _class_of(entry: Any) -> Any:
    import diffusers
    import transformers

    library, name = entry
    return getattr(transformers if library == "transformers" else diffusers, name)


def _own_class(folder: Path, library: str) -> Any:
    """Returns the class that a network's own configuration names."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _class_of((library, config.get("_class_name") or config["architectures"][0]))


def _part(folder: Path, kind: Any, dtype: torch.dtype, mode: FakeTensorMode) -> Any:
    """Makes a network without weights; schedulers and tokenizers are read as they are."""
    if not issubclass(kind, nn.Module):
        return kind.from_pretrained(str(folder), local_files_only=True)
    with torch.device("meta"):
        network = kind.from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    # diffusers' own `to` warns of layers that a loader keeps in float32.
    nn.Module.to(network, dtype).eval()
    with mode:
        _pretend_to_be_on_cpu(network)
    return network


def _text_encoder(folder: Path, kind: Any, dtype: torch.dtype) -> tuple[TextEncoderOutline, int]:
    config = kind.config_class.from_pretrained(str(folder), local_files_only=True)
    with torch.device("meta"):
        weights = _bytes(kind(config).to(dtype))
    return TextEncoderOutline(config, kind.__name__, dtype), weights


def _pretend_to_be_on_cpu(network: nn.Module) -> None:
    """Gives a network of the device meta fake tensors of the CPU, for which the kernels of a CPU are chosen."""
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(made[id(parameter)], requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
