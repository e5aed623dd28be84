"""What the keys below ``optimization`` and ``method.NAME`` may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgool.config.rules import Rule, Schema, Variants, choice, flag, integer, number, optional, text

OPTIMIZATION: dict[str, Schema] = {
    "num_optimization_steps": integer(1),
    "lr": number(above=0),
    "momentum": number(least=0, below=1),
    "nesterov": flag(),
    "grad_clip_value": optional(number(above=0)),
    "grad_clip_norm": optional(number(above=0)),
    "gradient_rms": optional(number(above=0)),
    "saliency_mask": flag(),
    "norm_regularizer": number(least=0),
    "gaussianity": {"weight": number(least=0), "dim": integer(1), "permutations": integer(1)},
    "perturb_std": number(least=0),
    "perturb_schedule": choice("constant", "linear", "spherical"),
    "tie": flag(),
    "renormalize": flag(),
    "keep": choice("best", "last"),
    "early_stop": {"term": optional(text()), "patience": integer(1)},
    "snapshot_every": optional(integer(1)),
}

#: Keys of ``optimization``, as many as a method has values of its own for; `sgool.config.checks` looks into it.
_OWN_OPTIMIZATION = Rule("a mapping of keys of `optimization`", lambda value: isinstance(value, Mapping))

METHOD = Variants(
    "kind",
    {
        "vanilla": {},
        "optimize": {"use_saliency": flag(), "optimization": _OWN_OPTIMIZATION},
        "clip_guidance": {
            "use_saliency": flag(),
            "use_crops": flag(),
            "clip_guidance_scale": number(least=0),
            "through_network": flag(),
            "estimate": choice("x0", "blended"),
        },
        "best_of_n": {
            "use_saliency": flag(),
            "num_candidates": optional(integer(1)),
            "same_budget_as": text(),
        },
    },
)
#: Samplers that classifier guidance knows how to change.
GUIDABLE = ("ddim", "dpm_solver")


def method_optimization(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``optimization`` with a method's own values over it; for ``best_of_n`` that of the method it is compared with."""
    method = config["method"][name]
    if method["kind"] == "best_of_n" and method["same_budget_as"] in config["method"]:
        method = config["method"][method["same_budget_as"]]
    return _merged(config["optimization"], method.get("optimization", {}))


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged
