"""The texts in a PNG file that say where the picture comes from: prompt, seed, method, model, version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from PIL.PngImagePlugin import PngInfo

from sgool import __version__
from sgool.types import PairRecord

#: Each key of its own starts with this: the plain key `prompt` is where ComfyUI expects a graph in JSON.
PREFIX = "sgool_"
#: The text of a contact sheet that says how many frames it has.
FRAMES = f"{PREFIX}frames"
#: What the first image of every method says: plain sampling makes it.
PLAIN_SAMPLING = "vanilla"
#: Names of samplers that other tools know by another name.
_SAMPLERS = {"ddim": "DDIM", "dpm_solver": "DPM++ 2M"}
_QUOTED = re.compile(r'[,:"\n]')


def picture_texts(
    record: PairRecord, update: int | None, size: tuple[int, ...], origin: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Returns the texts of one picture of a pair, by their keys.

    ``parameters`` is laid out as the web UI of AUTOMATIC1111 writes it, which other tools read too. The other keys have
    one fact each: ``sgool_prompt``, ``sgool_negative_prompt``, ``sgool_seed``, ``sgool_method``, ``sgool_update``,
    ``sgool_model``, ``sgool_version``, and ``Software``. Nothing in them depends on the machine or the time.

    Args:
        record: The pair's record.
        update: The update whose latents give the picture; None: it is that of the pair's first latents, which every
            method begins with, so it is the same file in each of them: update 0 of ``vanilla``.
        size: (H, W) in pixels.
        origin: What a record does not hold, as far as it is known: ``negative_prompt``, ``model``, ``sampler``,
            ``num_inference_steps``, ``guidance_scale``.
    """
    known = {name: value for name, value in (origin or {}).items() if value is not None}
    negative, model = _clean(known.get("negative_prompt", "")), _model_name(str(known.get("model", "")))
    sampler = str(known.get("sampler", ""))
    method, update = (PLAIN_SAMPLING, 0) if update is None else (record.method, update)
    settings = {
        "Steps": known.get("num_inference_steps"),
        "Sampler": _SAMPLERS.get(sampler, sampler) or None,
        "CFG scale": known.get("guidance_scale"),
        "Seed": record.seed,
        "Size": "x".join(map(str, reversed(size))),
        "Model": model or None,
        "Method": method,
        "Update": update,
        "Version": f"sgool {__version__}",
    }
    last = ", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None)
    lines = [_clean(record.prompt), f"Negative prompt: {negative}" if negative else "", last]
    facts = {
        "prompt": _clean(record.prompt),
        "negative_prompt": negative,
        "seed": str(record.seed),
        "method": method,
        "update": str(update),
        "model": model,
        "version": __version__,
    }
    own = {f"{PREFIX}{name}": text for name, text in facts.items()}
    return {"parameters": "\n".join(filter(None, lines)), **own, "Software": f"sgool {__version__}"}


def png_info(texts: Mapping[str, str]) -> PngInfo:
    """Returns these texts as chunks of a PNG: tEXt where a text is ASCII, else iTXt in UTF-8."""
    info = PngInfo()
    for key, text in texts.items():
        if text.isascii():
            info.add_text(key, text)
        else:  # tEXt is Latin-1, and some readers take it for UTF-8
            info.add_itxt(key, text)
    return info


def _clean(text: str) -> str:
    """Without NUL, which would end a text."""
    return text.replace("\0", " ").strip()


def _model_name(path: str) -> str:
    """Of a folder its own name alone: a picture that is given away need not tell how the disk is laid out."""
    is_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    return path if is_id else PurePath(path.replace("\\", "/")).name


def _quoted(value: Any) -> str:
    """A value of the last line of ``parameters``, in quotes where it would be cut otherwise."""
    text = f"{value:g}" if isinstance(value, float) else _clean(str(value))
    if not _QUOTED.search(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
