"""Options and capabilities of the methods that the configuration names, and the keys of `optimization`.

Nothing here imports torch: the configuration is checked with it before a network loads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sgool.config.kinds import Kind
from sgool.config.options import Config, CustomOptions, option, required
from sgool.config.rules import (
    Problem,
    Rule,
    Schema,
    check,
    choice,
    flag,
    integer,
    mapping,
    number,
    optional,
    text,
)
from sgool.config.suggest import did_you_mean
from sgool.diffusion.options import SAMPLERS
from sgool.methods.base_options import MethodOptions, merged, method_budget
from sgool.methods.search_options import BestOfNOptions, EvolutionOptions, FKSteeringOptions, ZeroOrderOptions
from sgool.methods.step_rules import are_betas, optimizer_problems, warmup_problems, whiten_problems

#: What the configuration's ``optimization`` may hold.
OPTIMIZATION: dict[str, Schema] = {
    "num_optimization_steps": integer(1),
    "lr": number(above=0),
    "momentum": number(least=0, below=1),
    "nesterov": flag(),
    "optimizer": choice("sgd", "adam", "adamw"),
    "adam": {
        "betas": Rule("two numbers, each at least 0 and below 1", are_betas),
        "eps": number(above=0),
        "weight_decay": number(least=0),
    },
    "lr_schedule": choice("constant", "cosine", "linear"),
    "warmup_updates": integer(0),
    "whiten": {"gradient": flag(), "latents": flag(), "block": optional(integer(2))},
    "grad_clip_value": optional(number(above=0)),
    "grad_clip_norm": optional(number(above=0)),
    "gradient_rms": optional(number(above=0)),
    "saliency_mask": flag(),
    "norm_regularizer": number(least=0),
    "gaussianity": {"weight": number(least=0), "dim": integer(1), "permutations": integer(1)},
    "power_spectrum": {
        "weight": number(least=0),
        "spectrum_weight": number(above=0),
        "block": integer(1),
        "target": number(above=0),
    },
    "perturb_std": number(least=0),
    "perturb_schedule": choice("constant", "linear", "spherical"),
    "clamp_images": flag(),
    "steps_offset": optional(integer(0)),
    "tie": flag(),
    "renormalize": flag(),
    "keep": choice("best", "last"),
    "early_stop": {"term": optional(text()), "patience": integer(1)},
    "snapshot_every": optional(integer(1)),
    "candidates": integer(1),
    "search_share": optional(number(above=0, below=1)),
    "max_updates": optional(integer(1)),
    "choose_by": choice("own", "global", "salient"),
    "streams": choice("first", "all"),
}
#: What the keys of ``optimization`` are where a file of the user's own leaves them out.
OPTIMIZATION_DEFAULTS: dict[str, Any] = {
    "clamp_images": False,
    "steps_offset": None,
    "candidates": 1,
    "search_share": None,
    "max_updates": None,
    "choose_by": "own",
    "streams": "first",
    "optimizer": "sgd",
    "adam": {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0},
    "lr_schedule": "constant",
    "warmup_updates": 0,
    "whiten": {"gradient": False, "latents": False, "block": 16},
    "power_spectrum": {"weight": 0, "spectrum_weight": 25.0, "block": 16, "target": 0.875},
}
#: Keys of ``optimization``, as many as a method has values of its own for; `own_optimization_problems` looks into it.
_OWN_OPTIMIZATION = mapping("keys of `optimization`")


@dataclass(frozen=True, kw_only=True)
class VanillaOptions(MethodOptions):
    """Options of plain sampling: there are none."""

    builder = "sgool.methods.vanilla.Vanilla"
    needs_objective = False


@dataclass(frozen=True, kw_only=True)
class OptimizeOptions(MethodOptions):
    """Options of an optimisation of the first latents."""

    builder = "sgool.methods.latent_pairs.LatentPairModule"
    sees: ClassVar[tuple[str, ...]] = ("optimization", "objective.terms", "budget")
    optimizes = True
    starts_from_image = True
    works_on_streams = True

    use_saliency: bool = option(False, flag())
    optimization: Mapping[str, Any] = option({}, _OWN_OPTIMIZATION)

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Finds keys of the optimisation that do not go together."""
        settings = merged(config["optimization"], self.optimization)
        yield from optimization_problems(where, config, settings, self.use_saliency)


@dataclass(frozen=True, kw_only=True)
class ClipGuidanceOptions(MethodOptions):
    """Options of classifier guidance at each denoising step."""

    builder = "sgool.methods.clip_guidance.ClipGuidance"
    sees: ClassVar[tuple[str, ...]] = ("sampler",)

    use_saliency: bool = option(False, flag())
    use_crops: bool = option(True, flag())
    clip_guidance_scale: float = required(number(least=0))
    through_network: bool = option(True, flag())
    estimate: str = option("x0", choice("x0", "blended"))
    estimate_from: str = option("guided", choice("guided", "prompt", "negative_prompt"))
    clamp_images: bool | None = option(None, optional(flag()))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Finds a sampler whose steps cannot be guided."""
        sampler, name = config["sampler"], where.removeprefix("method.")
        if SAMPLERS.options(sampler).guidable is False:
            yield (
                f"`{where}`: classifier guidance changes the noise of each step of "
                f"{' or '.join(SAMPLERS.able('guidable'))}, not that of {sampler['name']}; use sampler=ddim, or leave "
                f"{name} out of `methods`"
            )


@dataclass(frozen=True, kw_only=True)
class CustomMethodOptions(CustomOptions, MethodOptions):
    """A method of the user's own, which may use the objective, salient regions and the settings of an optimisation.

    Whether it optimises, its class knows (`sgool.methods.custom`).
    """

    optimizes = None
    starts_from_image = None

    use_saliency: bool = option(False, flag())
    use_crops: bool = option(True, flag())
    clamp_images: bool | None = option(None, optional(flag()))
    optimization: Mapping[str, Any] = option({}, _OWN_OPTIMIZATION)


METHODS: Kind[MethodOptions] = Kind(
    word="a method",
    key="kind",
    components={
        "vanilla": VanillaOptions,
        "optimize": OptimizeOptions,
        "clip_guidance": ClipGuidanceOptions,
        "best_of_n": BestOfNOptions,
        "zero_order": ZeroOrderOptions,
        "evolution": EvolutionOptions,
        "fk_steering": FKSteeringOptions,
    },
    custom=CustomMethodOptions,
    docs="docs/methods.md",
)


def method_optimization(config: Config, name: str) -> dict[str, Any]:
    """Returns ``optimization`` with a method's own values over it; for ``best_of_n`` that of the method it follows."""
    method = config["method"][name]
    method = config["method"].get(method.get("same_budget_as"), method)
    return merged(config["optimization"], method.get("optimization", {}))


def own_optimization_problems(config: Config) -> list[Problem]:
    """Finds own values of ``optimization`` in methods that break its rules; all else must be sound."""
    problems = []
    for name, method in config["method"].items():
        if method.get("optimization"):
            own = merged(config["optimization"], method["optimization"])
            where = f"method.{name}.optimization"
            problems += check(own, OPTIMIZATION, where)
            if method["optimization"].get("steps_offset") is not None:
                text = f"`{where}.steps_offset`: all methods share one schedule; set models.steps_offset for the run"
                problems.append(Problem(f"{where}.steps_offset", text))
    return problems


def optimization_problems(
    where: str, config: Config, settings: Config, use_saliency: bool, unread: Collection[str] = ()
) -> Iterator[str]:
    """Finds settings of an optimisation that do not go together.

    Args:
        where: Dotted key of the method, ``method.NAME``.
        config: The whole configuration, with sound values.
        settings: Those of the method's optimisation, `method_optimization`.
        use_saliency: Whether the method's objective has salient regions.
        unread: Keys that the method does not look at, so that nothing is wrong with them.
    """
    if "optimizer" not in unread:
        yield from optimizer_problems(where, settings)
    yield from whiten_problems(where, settings)
    budget = method_budget(config, where.removeprefix("method."))
    if "num_optimization_steps" not in unread:
        yield from warmup_problems(where, settings, budget)
    if settings["saliency_mask"] and not use_saliency:
        yield (
            f"`{where}`: expected use_saliency=true where `optimization.saliency_mask` is, which weights the "
            "gradient with the map; for one method alone set +method.NAME.optimization.saliency_mask=true"
        )
    for key, known in (("perturb_schedule", ("constant", "spherical")), ("lr_schedule", ("constant",))):
        if budget["seconds"] is not None and settings[key] not in known:
            yield (
                f"`{where}`: expected {key} {' or '.join(known)} where `budget.seconds` is set, got "
                f"{settings[key]}: how many updates there will be is not known beforehand"
            )
    yield from _early_stop_problems(where, settings["early_stop"]["term"], config["objective"]["terms"])


def _early_stop_problems(where: str, term: str | None, terms: Mapping[str, Config]) -> Iterator[str]:
    if term is None:
        return
    if term not in terms:
        hint = did_you_mean(term, terms) or "."
        yield f"`{where}`: `optimization.early_stop.term`: there is no term {term!r}{hint} Terms: {', '.join(terms)}."
    elif terms[term].get("weight") != 0:
        yield (
            f"`{where}`: `optimization.early_stop.term`: expected a term that is not optimised, with "
            f"objective.terms.{term}.weight=0, got weight {terms[term].get('weight')}"
        )
