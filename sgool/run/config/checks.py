"""Checks of several keys at once, or of files on the disk; none of them imports or loads a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sgool.config.families import REPLAY
from sgool.config.kinds import Kind
from sgool.config.loading import LOADING, offload_problems
from sgool.config.paths import TEXT, asset_path, prompt_file
from sgool.config.pipeline import call_problems, kind_problems, size_problems
from sgool.config.rules import Problem, check
from sgool.config.sources import described_by, is_single_file, replaced_configs, source_problems
from sgool.config.suggest import did_you_mean
from sgool.config.weights import weights_problems
from sgool.diffusion.options import ENGINES, SAMPLERS
from sgool.errors import ConfigError
from sgool.loggers.options import logger_problems, with_source
from sgool.methods.base_options import method_saliency, own_budget_problems, own_saliency_problems
from sgool.methods.options import METHODS, method_optimization, own_optimization_problems
from sgool.metrics.options import JUDGES
from sgool.objectives.options import TERMS
from sgool.run.config.schema import SCHEMA
from sgool.saliency.options import DETECTORS, SALIENCY

Config = Mapping[str, Any]


def find_problems(config: Config) -> list[str]:
    """Returns all problems of a composed, plain configuration: first of single values, then of several together."""
    problems = [with_source(problem, config.get("logger")) for problem in check(config, SCHEMA)]
    if _are_sound(("method", "optimization"), problems):
        problems += own_optimization_problems(config)
    if _are_sound(("method", "budget"), problems):
        problems += own_budget_problems(config)
    if _are_sound(("method", "saliency"), problems):
        problems += own_saliency_problems(config, SALIENCY)
    texts = [problem.text for problem in problems]
    # A check runs only on values that are right by themselves, so that one mistake gives one message.
    for needs, look in _CHECKS:
        if _are_sound(needs, problems):
            texts.extend(look(config))
    for where, kind, node in _components(config, problems):
        if _are_sound((where, *kind.options(node).sees), problems):
            texts.extend(kind.problems(node, where, config))
            texts.extend(weights_problems(node, where))
    for key in ("path", "components", "loras", "guide", "scene_reader"):
        if _are_sound([f"models.{key}"], problems):
            texts.extend(weights_problems(config["models"][key], f"models.{key}"))
    return texts


def _are_sound(keys: Iterable[str], problems: Iterable[Problem]) -> bool:
    """Whether none of the problems is at one of the dotted keys, below it or above it."""
    return not any(_contains(key, problem.key) or _contains(problem.key, key) for problem in problems for key in keys)


def _contains(key: str, other: str) -> bool:
    """Whether one dotted key is the other or stands above it."""
    return f"{other}.".startswith(f"{key}.")


def _components(config: Config, problems: Sequence[Problem]) -> Iterator[tuple[str, Kind[Any], Config]]:
    """Returns, for each component without problems so far, its dotted key, its kind and its options."""
    found: list[tuple[str, Kind[Any], Any]] = []
    found += [(key, kind, config.get(key)) for key, kind in (("sampler", SAMPLERS), ("engine", ENGINES))]
    if not any(_contains(problem.key, "objective.terms") for problem in problems):
        found += [(f"objective.terms.{name}", TERMS, term) for name, term in config["objective"]["terms"].items()]
    if not any(_contains(problem.key, "models.judges") for problem in problems):
        found += [(f"models.judges.{name}", JUDGES, judge) for name, judge in config["models"]["judges"].items()]
    if _are_sound(("methods", "method"), problems):
        # All methods are composed, but only those that run are checked.
        chosen = {name: config["method"][name] for name in config["methods"] if name in config["method"]}
        found += [(f"method.{name}", METHODS, method) for name, method in chosen.items()]
        # Only methods that use saliency need the detector's files.
        looks = any(_looks(config, name) for name in chosen) if _are_sound(["optimization"], problems) else False
        if looks and _are_sound(["saliency"], problems):
            found.append(("saliency.detector", DETECTORS, config["saliency"]["detector"]))
    yield from (entry for entry in found if _are_sound([entry[0]], problems))


def _looks(config: Config, name: str) -> bool:
    """Whether a method has salient regions in its objective, or chooses by an objective that has them."""
    method = config["method"][name]
    chooses = METHODS.options(method).optimizes and method_optimization(config, name)["choose_by"] == "salient"
    return bool(method.get("use_saliency") or chooses)


def _methods(config: Config) -> Iterator[str]:
    known = list(config["method"])
    for method in dict.fromkeys(config["methods"]):
        if method not in known:
            hint = did_you_mean(method, known) or "."
            yield (
                f"`methods`: unknown method {method!r}{hint} Methods: {', '.join(known)}. One of your own, "
                f"method/{method}.yaml in --config-dir, is added with +method@method.{method}={method}."
            )
        if config["methods"].count(method) > 1:
            yield f"`methods`: {method!r} stands there {config['methods'].count(method)} times; once is enough"


def _streams(config: Config) -> Iterator[str]:
    sampler = config["sampler"]
    if SAMPLERS.options(sampler).adds_noise is not False:
        return
    for name in dict.fromkeys(config["methods"]):
        method = config["method"].get(name)
        if method is None or not METHODS.options(method).works_on_streams:
            continue
        if method_optimization(config, name)["streams"] == "all":
            yield (
                f"`optimization.streams`: all (with {name}) needs a sampler that adds noise on the way, "
                f"{' or '.join(SAMPLERS.able('adds_noise'))}, and {sampler['name']} adds none; use "
                "optimization.streams=first"
            )


def _replay(config: Config) -> Iterator[str]:
    """What a pipeline's own call cannot do: only its own loop and scheduler are run."""
    if config["models"]["family"] != REPLAY:
        return
    sampler, engine, why = config["sampler"], config["engine"], f"with models.family={REPLAY}"
    if SAMPLERS.options(sampler) is not SAMPLERS.components["native"]:
        yield f"`sampler`: expected native {why}, which runs the pipeline's own scheduler, got {sampler['name']}"
    if engine["name"] not in ("checkpoint", "direct"):
        yield f"`engine`: expected checkpoint or direct {why}, whose loop cannot be run backwards, got {engine['name']}"
    for name in config["methods"]:
        method = config["method"].get(name)
        masked = method is not None and METHODS.options(method).optimizes
        if masked and method_optimization(config, name)["saliency_mask"]:
            yield f"`optimization.saliency_mask`: expected false {why}, whose latents may have any layout ({name})"
    for key, off in (
        ("gradient_steps", None),
        ("split_guidance", False),
        ("block_checkpointing", False),
        ("memory_mib", 0),
    ):
        if engine.get(key, off) != off:
            yield f"`engine.{key}`: expected {str(off).replace('None', 'null').lower()} {why}, got {engine[key]}"


def _size(config: Config) -> Iterator[str]:
    models = config["models"]
    yield from size_problems(described_by(models), models["height"], models["width"], replaced_configs(models))


def _model_folder(config: Config) -> Iterator[str]:
    models = config["models"]
    path, described = models["path"], described_by(models)
    if not (is_single_file(path) and described == path):
        yield from kind_problems(described, models["family"])
        yield from call_problems(described, models["family"], models["call"])
    if not is_single_file(path) and Path(path).expanduser().is_file():
        yield (
            "`models.path`: expected a pipeline's folder, a hub id or a file of weights (.safetensors, .ckpt), got the "
            f"file {path!r}"
        )
        return
    no_hub_id = path.startswith((".", "~", os.sep)) or "/" not in path
    if not is_single_file(path) and no_hub_id and not Path(asset_path(path)).expanduser().exists():
        yield (
            f"`models.path`: there is no folder {path!r} (relative paths start at {Path.cwd()}), and a hub id has the "
            "form owner/name"
        )


def _sources(config: Config) -> Iterator[str]:
    yield from source_problems(config["models"])


def _weights(config: Config) -> Iterator[str]:
    if all(term["weight"] == 0 for term in config["objective"]["terms"].values()):
        yield "`objective.terms`: expected at least one weight other than 0; nothing would be optimised"


def _saliency_weights(config: Config) -> Iterator[str]:
    known = [name for name in config["methods"] if name in config["method"]]
    own = {f"method.{name}.saliency": method_saliency(config, name) for name in known}
    for where, saliency in {"saliency": config["saliency"], **own}.items():
        if saliency["w_global"] == saliency["w_salient"] == 0:
            yield f"`{where}.w_global` and `{where}.w_salient`: expected one above 0; nothing would be optimised"
            return


def _prompts(config: Config) -> Iterator[str]:
    prompts = config["data"]["prompts"]
    if prompts.startswith(("hub:", TEXT)) or Path(prompts).expanduser().is_dir():
        return  # only the datasets library can read a data set; that happens later, but before models load
    try:
        prompt_file(prompts)
    except ConfigError as error:
        yield from error.problems


def _devices(config: Config) -> Iterator[str]:
    """Where there are several devices, ``trainer.devices`` numbers them, not ``models.device``."""
    trainer, device = config["trainer"], config["models"]["device"]
    several = trainer["devices"] != 1 or trainer["num_nodes"] > 1
    if several and ":" in device:
        kind = device.partition(":")[0]
        yield (
            f"`models.device`: expected {kind} without a number where `trainer.devices` chooses them, got {device} "
            f"with trainer.devices={trainer['devices']} and trainer.num_nodes={trainer['num_nodes']}"
        )
    if device == "mps" and trainer["devices"] not in (1, [0]):
        yield f"`trainer.devices`: expected 1 with models.device=mps, of which there is one, got {trainer['devices']}"


def _precision(config: Config) -> Iterator[str]:
    models, precision = config["models"], config["trainer"]["precision"]
    half = [f"models.{key}" for key in ("dtype", "vae_dtype") if models.get(key) == "float16"]
    if half and precision == "bf16-mixed":
        yield (
            f"`trainer.precision`: expected 32-true with {' and '.join(half)}=float16, got bf16-mixed, which makes the "
            "networks work in bfloat16; use one of the two"
        )


def engine_offload_problems(config: Config) -> Iterator[str]:
    """Yields a problem for each setting with which networks cannot take turns on the device."""
    models, engine = config["models"], config["engine"]
    yield from offload_problems(models)
    if models["offload"] and (engine["name"] == "direct" or engine.get("memory_mib")):
        what = "direct" if engine["name"] == "direct" else f"engine.memory_mib={engine['memory_mib']:g}"
        yield (
            f"`engine`: expected checkpoint (with memory_mib 0) or reversible with models.offload={models['offload']}, "
            f"got {what}: activations that are kept hold the network's weights on the device"
        )


def _shard(config: Config) -> Iterator[str]:
    shard = config["trainer"]["shard"]
    if shard != "auto":
        part, parts = map(int, shard.split("/"))
        if part > parts:
            yield f"`trainer.shard`: expected a part of at most {parts}, got {shard}; parts count from 1"


#: Keys that say how a model is loaded.
_LOADING = tuple(f"models.{key}" for key in LOADING)

_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Config], Iterator[str]]], ...] = (
    (("methods", "method"), _methods),
    (("methods", "method", "optimization", "sampler"), _streams),
    (("models.path", *_LOADING, "models.height", "models.width"), _size),
    (("models.path", *_LOADING), _sources),
    (("models.path", "models.family", "models.call"), _model_folder),
    (("models.family", "sampler", "engine", "methods", "method", "optimization"), _replay),
    (("objective.terms",), _weights),
    (("saliency.w_global", "saliency.w_salient", "methods", "method"), _saliency_weights),
    (("data.prompts",), _prompts),
    (("models.device", "trainer.devices", "trainer.num_nodes"), _devices),
    (("models.dtype", "models.vae_dtype", "trainer.precision"), _precision),
    (("models.offload", "models.compile", "models.quantization", "engine"), engine_offload_problems),
    (("trainer.shard",), _shard),
    (("logger",), lambda config: logger_problems(config["logger"])),
)
