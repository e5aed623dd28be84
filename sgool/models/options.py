"""Options of networks that several kinds of components use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.config.options import Config, Options, option, required
from sgool.config.paths import file_problems
from sgool.config.rules import MISSING, Rule, Schema, choice, optional, text
from sgool.models.hps_v3_text import instruction_problems

#: Rules of a CLIP's options, the arguments of `sgool.models.clip.load_clip`; `expand_clip` makes them of a plain name.
CLIP: dict[str, Schema] = {"model": text(), "pretrained": optional(text())}


def expand_clip(value: Any) -> Any:
    """Expands a CLIP that is given by its name alone to its options; returns any other value as it is."""
    return {"model": value, "pretrained": None} if isinstance(value, str) and value != MISSING else value


def clip_option() -> Any:
    """Makes a field of options for a CLIP, which the user must give."""
    return required(CLIP, expand=expand_clip)


#: Rule of a question with a place for a text.
TEMPLATE = Rule("a text with {} in it", lambda value: isinstance(value, str) and "{}" in value)
#: Rule of the type in which transformers loads a network.
LOADED_AS = choice("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class VisionLanguageOptions(Options):
    """Options of a vision-language model and of how it is asked, which judges and terms share."""

    model: str = required(text())
    dtype: str = option("auto", LOADED_AS)

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of the other base classes, and one if the model's folder is missing."""
        yield from super().problems(where, config)
        yield from folder_problems(self.model, "a vision-language model such as Qwen2.5-VL", f"{where}.model")


@dataclass(frozen=True, kw_only=True)
class HPSv3Options(Options):
    """Options of HPSv3's network, which its judge and its term share."""

    checkpoint: str = required(text())
    model: str = option("Qwen/Qwen2-VL-7B-Instruct", text())
    instruction: str | None = option(None, optional(text()))
    dtype: str = option("auto", LOADED_AS)

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of the other base classes, and one for each file that is missing."""
        yield from super().problems(where, config)
        published = "HPSv3.safetensors, published at https://huggingface.co/MizzenAI/HPSv3"
        yield from file_problems(self.checkpoint, published, f"{where}.checkpoint")
        yield from folder_problems(self.model, "Qwen2-VL-7B-Instruct", f"{where}.model")
        yield from instruction_problems(self.instruction, f"{where}.instruction")


def folder_problems(model: str, what: str, key: str) -> Iterator[str]:
    """Yields a problem if a model is given as a folder that is missing or has no ``config.json``.

    A text that is no folder and has the form OWNER/NAME is a hub id.

    Args:
        model: The folder or hub id.
        what: What it should hold, for the message.
        key: Dotted key of the configuration that names it.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            found = ", ".join(sorted(os.listdir(folder))[:6]) or "nothing"
            yield f"`{key}`: expected a folder with config.json, {what} in transformers' layout, found {found}"
    elif model.startswith((".", "~", os.sep)) or model.count("/") > 1:
        yield (
            f"`{key}`: there is no folder {model!r} (relative paths start at {Path.cwd()}). Expected {what} in "
            f"transformers' layout, or a hub id (OWNER/NAME)"
        )
