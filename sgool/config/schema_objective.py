"""What the keys below ``objective`` may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sgool.config.rules import (
    Each,
    Rule,
    Schema,
    Variants,
    choice,
    either,
    integer,
    list_of,
    matching,
    number,
    optional,
    text,
)

#: A CLIP: arguments of `sgool.models.clip.load_clip`. `sgool.config` expands a plain name to this form.
CLIP: dict[str, Schema] = {"model": text(), "pretrained": optional(text())}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_fractions(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(_is_number(v) and 0 <= v <= 1 for v in value)


def _is_box(value: Any) -> bool:
    return _is_fractions(value, 4) and value[0] < value[2] and value[1] < value[3]


_VIEWS = choice("crops", "whole")
_GOAL = Rule(
    "maximize, minimize or a number to aim at", lambda value: value in ("maximize", "minimize") or _is_number(value)
)
_RGB = Rule("red, green and blue, each in [0, 1]", lambda value: _is_fractions(value, 3))
_BOX = Rule("[top, left, bottom, right] as growing fractions in [0, 1]", _is_box)
_DOTTED = matching(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", "a dotted path such as my_module.score")
_ARGUMENTS = Rule("a mapping of keyword arguments", lambda value: isinstance(value, Mapping))

_TERMS: dict[str, dict[str, Schema]] = {
    "text_alignment": {"clip": CLIP, "views": _VIEWS},
    "image_alignment": {"clip": CLIP, "images": either(text(), list_of(text())), "views": _VIEWS},
    "classifier": {
        "source": choice("timm", "torchvision", "wsdan", "local"),
        "model": optional(text()),
        "checkpoint": optional(text()),
        "labels": optional(text()),
        "target": either(integer(0), text()),
        "loss": choice("cross_entropy", "binary_cross_entropy"),
        "views": _VIEWS,
    },
    "aesthetic": {"clip": CLIP, "checkpoint": text(), "goal": _GOAL, "views": _VIEWS},
    "hps": {"clip": CLIP, "goal": _GOAL, "views": _VIEWS},
    "pickscore": {"model": text(), "processor": text(), "goal": _GOAL, "views": _VIEWS},
    "image_reward": {
        "checkpoint": text(),
        "med_config": optional(text()),
        "tokenizer": text(),
        "goal": _GOAL,
        "views": _VIEWS,
    },
    "symmetry": {"axis": choice("horizontal", "vertical")},
    "color": {"rgb": _RGB, "region": optional(_BOX)},
    "sharpness": {"goal": _GOAL},
    "black_box": {
        "function": _DOTTED,
        "goal": _GOAL,
        "gradient": choice("spsa", "none"),
        "probes": integer(1),
        "sigma": number(above=0, most=1),
        "frequencies": integer(1),
    },
    # A term of the user's own; `complete_term` brings it to this form.
    "custom": {"_target_": _DOTTED, "arguments": _ARGUMENTS},
}
#: What a term that is written by hand may leave out; the shipped files write all of it.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "text_alignment": {"views": "crops"},
    "image_alignment": {"views": "crops"},
    "classifier": {"model": None, "checkpoint": None, "labels": None, "loss": "cross_entropy", "views": "crops"},
    "aesthetic": {"goal": "maximize", "views": "crops"},
    "hps": {"goal": "maximize", "views": "whole"},
    "pickscore": {"goal": "maximize", "views": "whole"},
    "image_reward": {"med_config": None, "tokenizer": "bert-base-uncased", "goal": "maximize", "views": "whole"},
    "symmetry": {"axis": "horizontal"},
    "color": {"region": None},
    "sharpness": {"goal": "maximize"},
    "black_box": {"goal": "maximize", "gradient": "spsa", "probes": 8, "sigma": 0.05, "frequencies": 8},
}

OBJECTIVE: dict[str, Schema] = {
    "terms": Each(
        Variants("type", {name: {"weight": number(), **schema} for name, schema in _TERMS.items()}), at_least=1
    ),
    "crops": {
        "num": integer(0),
        "power": number(above=0),
        "min_side": number(above=0, most=1),
        "reduction": choice("min", "mean"),
    },
}


def complete_term(term: dict[str, Any]) -> None:
    """Writes in place what a term leaves out: defaults, and for ``_target_`` the keyword arguments as ``arguments``."""
    if "_target_" in term:
        kept = ("type", "weight", "_target_", "arguments")
        given = term.get("arguments", {})
        arguments = {key: term.pop(key) for key in list(term) if key not in kept}
        term.setdefault("type", "custom")
        term["arguments"] = {**given, **arguments} if isinstance(given, Mapping) else given
    term.setdefault("type", "text_alignment")
    term.setdefault("weight", 1.0)
    for key, value in _DEFAULTS.get(str(term["type"]), {}).items():
        term.setdefault(key, value)
