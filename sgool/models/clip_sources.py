"""Finds a CLIP among embedded models, local folders and open_clip's registry, and checks it before it is loaded."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.config.paths import ASSETS, is_embedded_name
from sgool.config.weights import folder_files
from sgool.errors import SgoolError
from sgool.models.checkpoints import refuse_broken

CONFIG_FILE = "open_clip_config.json"
_LOCAL, _HUB = "local-dir:", "hf-hub:"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")


@dataclass(frozen=True)
class ClipSource:
    """A CLIP that was found, as arguments for open_clip.

    Attributes:
        name: Short name for tables and records, without machine-dependent paths.
        model: ``local-dir:/absolute/folder``, ``hf-hub:owner/name`` or a name of open_clip's registry.
        pretrained: Tag or checkpoint file; None for folders and hub models.
        tokenizer_options: Further keyword arguments for ``open_clip.get_tokenizer``.
    """

    name: str
    model: str
    pretrained: str | None
    tokenizer_options: dict[str, Any]

    @property
    def may_fetch(self) -> bool:
        """Whether loading it may fetch files from the hub."""
        return not self.model.startswith(_LOCAL)


def resolve_clip(model: str, pretrained: str | None = None) -> ClipSource:
    """Finds what ``model`` means; a folder of the user's own wins over an embedded model of that name.

    Args:
        model: See `sgool.models.clip.load_clip`.
        pretrained: Tag or checkpoint file for a name of open_clip's registry.

    Raises:
        SgoolError: There is no such model, the folder is incomplete, or the tag does not belong to the model.
    """
    folder = Path(model).expanduser()
    embedded = is_embedded_name(model) and not folder.is_dir()
    whole = embedded or model.startswith((_LOCAL, _HUB)) or folder.is_dir() or _looks_like_path(model)
    if pretrained is not None and whole:
        raise SgoolError(
            f"CLIP {model!r}: expected `pretrained` to be null, since the weights lie beside the configuration, got "
            f"{pretrained!r}; a checkpoint file goes with a name of open_clip's registry, such as ViT-H-14"
        )
    if embedded:
        return _folder_source(_embedded_folder(model), name=model)
    if model.startswith(_LOCAL):
        return _folder_source(Path(model.removeprefix(_LOCAL)).expanduser())
    if model.startswith(_HUB):
        return ClipSource(model.removeprefix(_HUB), model, None, {})
    if folder.is_dir() or _looks_like_path(model):
        return _folder_source(folder)
    return _registry_source(model, pretrained)


def _looks_like_path(model: str) -> bool:
    return model.startswith((".", "~", os.sep)) or model.endswith(os.sep)


def _embedded_folder(model: str) -> Path:
    folder = ASSETS / model
    if not folder.is_dir():
        found = sorted(str(path.parent.relative_to(ASSETS)) for path in ASSETS.glob(f"*/*/{CONFIG_FILE}"))
        raise SgoolError(
            f"There is no embedded CLIP {model!r}; this installation has: {', '.join(found) or 'none'}. "
            "Choose one of these, or give an existing folder."
        )
    return folder


def _folder_source(folder: Path, name: str | None = None) -> ClipSource:
    if not folder.is_dir():
        raise SgoolError(f"Expected a CLIP folder at {folder}, but there is none. Check the path.")
    folder = folder.resolve()
    config = _read_config(folder)
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise SgoolError(
            f"The CLIP folder {folder} holds no weights; expected open_clip_model.safetensors beside {CONFIG_FILE}."
        )
    refuse_broken(folder_files(folder))
    text = config["text_cfg"]
    tower = text.get("hf_model_name")
    if tower and not Path(tower).is_dir():
        raise SgoolError(
            f"The CLIP folder {folder} is not self-contained: its text tower {tower!r} would be fetched from the hub. "
            f"Save that model to a folder and write its path as hf_model_name into {CONFIG_FILE}."
        )
    # A folder given by the user must never cause a look at the network, not even for a missing tokenizer file.
    options = {"local_files_only": True} if text.get("hf_tokenizer_name") else {}
    return ClipSource(name or folder.name, f"{_LOCAL}{folder}", None, options)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise SgoolError(
            f"The folder {folder} is no CLIP in open_clip's layout: expected {CONFIG_FILE} in it, with the weights "
            "(open_clip_model.safetensors) and the tokenizer's files."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SgoolError(f"Cannot read {path} as JSON: {error}. Save the model again.") from error
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("text_cfg"), dict):
        raise SgoolError(f"{path} must hold an object 'model_cfg' with 'text_cfg' in it, as open_clip saves it.")
    return model


def _registry_source(model: str, pretrained: str | None) -> ClipSource:
    import open_clip

    name = model.replace("/", "-")  # open_clip accepts OpenAI's spelling, "ViT-B/32"
    names = open_clip.list_models()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
        hint = f"Close names: {', '.join(near)}. " if near else ""
        raise SgoolError(
            f"Unknown CLIP {model!r}: expected a name of open_clip (with a pretrained tag), a folder with "
            f"{CONFIG_FILE}, 'local-dir:FOLDER', 'hf-hub:OWNER/NAME', or an embedded model such as "
            f"'emoji_world/guide'. {hint}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise SgoolError(
            f"CLIP {name!r} needs pretrained weights; without them it would be random. Tags: {', '.join(tags)}."
        )
    if not Path(pretrained).is_file() and open_clip.get_pretrained_cfg(name, pretrained) == {}:
        raise SgoolError(
            f"{pretrained!r} is neither a checkpoint file nor a pretrained tag of CLIP {name!r}. "
            f"Tags: {', '.join(tags)}."
        )
    if Path(pretrained).is_file():
        refuse_broken([Path(pretrained)])
    _check_activation(name, pretrained)
    label = Path(pretrained).stem if Path(pretrained).is_file() else pretrained
    return ClipSource(f"{name}/{label}", name, pretrained, {})


def _check_activation(name: str, pretrained: str) -> None:
    """Refuses weights trained with QuickGELU in a model with GELU.

    They would give plausible but wrong embeddings, and open_clip only warns.
    """
    import open_clip

    needed = open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False)
    if needed and not open_clip.get_model_config(name).get("quick_gelu", False):
        raise SgoolError(
            f"The weights {pretrained!r} were trained with the activation QuickGELU, which CLIP {name!r} does not "
            f"have. Use '{name}-quickgelu' with this tag."
        )
