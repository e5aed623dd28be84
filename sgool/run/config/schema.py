"""The schema of a run's configuration: what each key may hold.

The components' keys come from their rooms; those of the run itself are here. The YAML files in
configs/ say what the keys mean, and their units.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from sgool.config.families import FAMILIES
from sgool.config.loading import LOADING, expanded
from sgool.config.paths import home
from sgool.config.rules import (
    Each,
    Rule,
    Schema,
    choice,
    either,
    flag,
    integer,
    list_of,
    mapping,
    matching,
    number,
    optional,
    text,
)
from sgool.diffusion.options import ENGINES, SAMPLERS
from sgool.loggers.options import LOGGER, complete_logger
from sgool.methods.base_options import BUDGET, BUDGET_DEFAULTS
from sgool.methods.options import METHODS, OPTIMIZATION, OPTIMIZATION_DEFAULTS
from sgool.metrics.options import JUDGES, complete_judges
from sgool.models.options import CLIP, expand_clip
from sgool.objectives.options import OBJECTIVE, OBJECTIVE_DEFAULTS, complete_term
from sgool.saliency.options import DETECTORS, SALIENCY, SALIENCY_DEFAULTS

_DEVICES = "a number of devices of at least 1, or a list of device numbers, each once"


def _are_devices(value: Any) -> bool:
    if isinstance(value, list):
        whole = all(type(number) is int and number >= 0 for number in value)
        return whole and 0 < len(value) == len(set(value))
    return type(value) is int and value >= 1


_MODELS: dict[str, Schema] = {
    "path": text("the folder of a diffusers pipeline, its hub id or a single file of weights"),
    "family": optional(choice(*FAMILIES)),
    "call": optional(mapping("arguments of the pipeline's call")),
    **LOADING,
    "guide": CLIP,
    "judges": Each(JUDGES.schema),
    "scene_reader": optional(text()),
    "height": optional(integer(1)),
    "width": optional(integer(1)),
    "steps_offset": optional(integer(0)),
    "timestep_spacing": optional(choice("leading", "trailing", "linspace")),
    "dtype": choice("float64", "float32", "float16", "bfloat16"),
    "device": matching(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, mps, cuda or cuda:NUMBER"),
    "vae_dtype": optional(choice("float64", "float32", "float16", "bfloat16")),
    "vae_tile_size": optional(integer(1)),
    "channels_last": flag(),
    "offload_text_encoders": flag(),
    "offload": optional(choice("model")),
    "compile": either(flag(), choice("blocks")),
}

#: Settings that suit a model, which files of other groups refer to. null, or left out: what those files say themselves.
_PRESET: dict[str, Schema] = {
    "num_inference_steps": optional(integer(1)),
    "guidance_scale": optional(number(least=0)),
    "num_optimization_steps": optional(integer(1)),
    "gradient_rms": optional(number(above=0)),
    "grad_clip_value": optional(number(above=0)),
    "timesteps": optional(list_of(number(least=0))),
    "reno_lr": optional(number(above=0)),
    "search_share": optional(number(above=0, below=1)),
    "detector": optional(mapping("the keys of `saliency.detector`")),
}
_MODELS["preset"] = _PRESET

#: What keys are where a file of the user's own leaves them out.
_MODELS_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("steps_offset", "timestep_spacing", "family", "call", "vae_tile_size")),
    **dict.fromkeys(LOADING),
    "offload_text_encoders": False,
    "offload": None,
}
_DATA_DEFAULTS = {"phrases_column": None, "phrases": "rule"}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "models": _MODELS_DEFAULTS,
    "optimization": OPTIMIZATION_DEFAULTS,
    "data": _DATA_DEFAULTS,
    "objective": OBJECTIVE_DEFAULTS,
    "saliency": SALIENCY_DEFAULTS,
    "budget": BUDGET_DEFAULTS,
}

_DATA: dict[str, Schema] = {
    "prompts": text(),
    "split": optional(text()),
    "subset": optional(text()),
    "revision": optional(text()),
    "prompt_column": optional(text()),
    "category_column": optional(text()),
    "seed_column": optional(text(empty=True)),
    "negative_prompt_column": optional(text(empty=True)),
    "phrases_column": optional(text(empty=True)),
    "phrases": matching(r"rule|spacy:\S+", "rule, or spacy: and a pipeline of spaCy such as spacy:en_core_web_sm"),
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

#: Mappings in which users add names of their own.
NAMED = ("models.judges", "objective.terms", "method")

SCHEMA: dict[str, Schema] = {
    "name": text(),
    "run_dir": text(),
    "methods": list_of(text()),
    "resume": flag(),
    "debug": flag(),
    "models": _MODELS,
    "sampler": SAMPLERS.schema,
    "engine": ENGINES.schema,
    "optimization": OPTIMIZATION,
    "budget": BUDGET,
    "objective": OBJECTIVE,
    "saliency": SALIENCY,
    "method": Each(METHODS.schema, at_least=1),
    "data": _DATA,
    "trainer": _TRAINER,
    "logger": LOGGER,
}


def complete(config: dict[str, Any]) -> None:
    """Completes a configuration in place: expands short forms and adds what components leave out.

    Values that are wrong stay as they are; `sgool.run.config.checks.find_problems` reports them.
    """
    models = _mapping(config, "models")
    if "guide" in models:
        models["guide"] = expand_clip(models["guide"])
    models.update(expanded(models))
    complete_judges(models.get("judges"))
    config.setdefault("budget", {})
    for node, defaults in _DEFAULTS.items():
        for key, value in defaults.items():
            # Copies: a mapping among the defaults is not the configuration's to change.
            _mapping(config, node).setdefault(key, deepcopy(value))
    if isinstance(preset := models.setdefault("preset", {}), dict):
        preset.update({key: preset.get(key) for key in _PRESET})
    SAMPLERS.complete(config.get("sampler"))
    ENGINES.complete(config.get("engine"))
    DETECTORS.complete(_mapping(config, "saliency").get("detector"))
    for term in _mapping(_mapping(config, "objective"), "terms").values():
        complete_term(term)
    for method in _mapping(config, "method").values():
        METHODS.complete(method)
    complete_logger(config.get("logger"))
    expand_homes(config)


#: Keys whose text is no path, whatever it begins with; arguments of a user's own components are theirs as well.
_NO_PATHS = (
    "name",
    "data.negative_prompt",
    "data.categories",
    "data.name",
    "data.prompt_column",
    "data.phrases_column",
)


def expand_homes(node: Any, key: str = "") -> None:
    """Replaces ``~`` at the beginning of every path by the home folder, in place: no shell does that after a ``=``."""
    for name, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        where = f"{key}.{name}" if key else str(name)
        if isinstance(value, (dict, list)) and name != "arguments":
            expand_homes(value, where)
        elif isinstance(value, str) and not where.startswith(_NO_PATHS):
            node[name] = home(value)


def _mapping(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}
