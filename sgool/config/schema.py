"""What each key of the configuration may hold. The YAML files in configs/ say what the keys mean, and their units."""

from __future__ import annotations

from typing import Any

from sgool.config.rules import (
    Each,
    Rule,
    Schema,
    Variants,
    choice,
    either,
    flag,
    integer,
    list_of,
    matching,
    number,
    optional,
    text,
)
from sgool.config.schema_judges import JUDGE
from sgool.config.schema_method import METHOD, OPTIMIZATION
from sgool.config.schema_objective import CLIP, OBJECTIVE
from sgool.config.schema_saliency import SALIENCY

_DEVICES = "a number of devices of at least 1, or a list of device numbers, each once"


def _are_devices(value: Any) -> bool:
    if isinstance(value, list):
        whole = all(type(number) is int and number >= 0 for number in value)
        return whole and 0 < len(value) == len(set(value))
    return type(value) is int and value >= 1


_MODELS: dict[str, Schema] = {
    "path": text(),
    "guide": CLIP,
    "judges": Each(JUDGE),
    "scene_reader": optional(text()),
    "height": optional(integer(1)),
    "width": optional(integer(1)),
    "dtype": choice("float64", "float32", "float16", "bfloat16"),
    "device": matching(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, mps, cuda or cuda:NUMBER"),
    "channels_last": flag(),
    "compile": flag(),
}

_ANY_SAMPLER: dict[str, Schema] = {
    "num_inference_steps": integer(1),
    "guidance_scale": number(least=0),
}
_SAMPLER = Variants(
    "name",
    {
        "ddim": _ANY_SAMPLER,
        "dpm_solver": _ANY_SAMPLER,
        "belm": _ANY_SAMPLER,
        "bdia": {**_ANY_SAMPLER, "gamma": number(above=0, most=1)},
        "edict": {
            **_ANY_SAMPLER,
            "mixing_coeff": number(above=0.5, most=1),
            "leapfrog": flag(),
            "decode": choice("both", "x"),
        },
    },
)
#: Samplers with an exact inverse.
INVERTIBLE = ("edict", "belm", "bdia")

_ANY_ENGINE: dict[str, Schema] = {"gradient_steps": optional(integer(1)), "split_guidance": flag()}
_ENGINE = Variants(
    "name",
    {
        "checkpoint": {**_ANY_ENGINE, "memory_mib": number(least=0)},
        "reversible": {**_ANY_ENGINE, "warn_drift": number(above=0), "max_drift": number(above=0)},
        "direct": _ANY_ENGINE,
    },
)

_DATA: dict[str, Schema] = {
    "prompts": text(),
    "split": optional(text()),
    "subset": optional(text()),
    "revision": optional(text()),
    "prompt_column": optional(text()),
    "category_column": optional(text()),
    "duplicates": choice("error", "keep", "drop"),
    "name": optional(text()),
    "seeds": either(integer(1), list_of(integer(0))),
    "indices": optional(either(matching(r"\d*:\d*", "a range such as '10:50', in quotes"), list_of(integer(0)))),
    "categories": optional(either(text(), list_of(text()))),
    "limit": optional(integer(1)),
    "negative_prompt": text(empty=True),
}

_TRAINER: dict[str, Schema] = {
    "devices": Rule(_DEVICES, _are_devices),
    "num_nodes": integer(1),
    "strategy": choice("auto", "pair_parallel"),
    "shard": matching(r"auto|[1-9]\d*/[1-9]\d*", "auto, or PART/PARTS such as 2/4"),
    "save_every_n_updates": optional(integer(1)),
    "precision": choice("64-true", "32-true", "bf16-mixed"),
    "pairs_per_fit": integer(1),
    "threads": optional(integer(1)),
}

_LOGGER = Variants(
    "name",
    {
        "csv": {},
        "none": {},
        "wandb": {
            "mode": choice("offline", "online", "disabled"),
            "project": matching(r"[^/\\#?%:]{1,128}", "1 to 128 characters without / \\ # ? % :"),
            "entity": optional(text()),
            "tags": list_of(matching(r".{1,64}", "a text of 1 to 64 characters"), at_least=0),
            "images": optional(integer(0)),
            "image_size": integer(16),
        },
    },
)

#: Mappings in which users add names of their own.
NAMED = ("models.judges", "objective.terms", "method")

SCHEMA: dict[str, Any] = {
    "name": text(),
    "run_dir": text(),
    "methods": list_of(text()),
    "resume": flag(),
    "debug": flag(),
    "models": _MODELS,
    "sampler": _SAMPLER,
    "engine": _ENGINE,
    "optimization": OPTIMIZATION,
    "objective": OBJECTIVE,
    "saliency": SALIENCY,
    "method": Each(METHOD, at_least=1),
    "data": _DATA,
    "trainer": _TRAINER,
    "logger": _LOGGER,
}
