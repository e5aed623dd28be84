"""Checks that look at several keys at once, or at the disk; none imports or loads a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.judges import judge_problems
from sgool.config.paths import prompt_file
from sgool.config.pipeline import kind_problems, size_problems, steps_problems
from sgool.config.rules import check
from sgool.config.saliency_files import detector_problems
from sgool.config.schema import INVERTIBLE, SCHEMA
from sgool.config.schema_method import GUIDABLE, OPTIMIZATION, method_optimization
from sgool.config.suggest import did_you_mean
from sgool.config.term_files import term_problems
from sgool.errors import ConfigError

Config = Mapping[str, Any]


def find_problems(config: Config) -> list[str]:
    """All that is wrong with a composed configuration, in plain types: first single values, then what spans several."""
    problems = check(config, SCHEMA)
    texts = [problem.text for problem in problems]
    for needs, look in _CHECKS:
        # A check runs only on values that are sound by themselves: one mistake, one message.
        if not any(_overlap(problem.key, need) for problem in problems for need in needs):
            texts.extend(look(config))
    return texts


def _overlap(key: str, other: str) -> bool:
    """Whether one dotted key is the other or contains it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _methods(config: Config) -> Iterator[str]:
    known = list(config["method"])
    for method in dict.fromkeys(config["methods"]):
        if method not in known:
            hint = did_you_mean(method, known) or "."
            yield f"`methods`: unknown method {method!r}{hint} Methods: {', '.join(known)}."
        if config["methods"].count(method) > 1:
            yield f"`methods`: {method!r} stands there {config['methods'].count(method)} times; once is enough"


def _own_optimization(config: Config) -> Iterator[str]:
    """A method's own values of ``optimization`` follow the rules of that."""
    for name, method in config["method"].items():
        if method.get("optimization"):
            merged = method_optimization(config, name)
            yield from (problem.text for problem in check(merged, OPTIMIZATION, f"method.{name}.optimization"))


def _optimizers(config: Config) -> Iterator[str]:
    """What spans several keys of one optimisation; only for methods that run, since all are composed."""
    for name in _chosen(config, "optimize"):
        settings = method_optimization(config, name)
        where = f"`method.{name}`: "
        if settings["nesterov"] and not settings["momentum"]:
            yield f"{where}expected a momentum above 0 where nesterov=true, got {settings['momentum']}"
        if settings["saliency_mask"] and not config["method"][name]["use_saliency"]:
            yield (
                f"{where}expected use_saliency=true where `optimization.saliency_mask` is, which weights the gradient "
                "with the map; for one method alone set +method.NAME.optimization.saliency_mask=true"
            )
        yield from _early_stop(config, where, settings["early_stop"]["term"])


def _early_stop(config: Config, where: str, term: str | None) -> Iterator[str]:
    terms = config["objective"]["terms"]
    if term is None:
        return
    if term not in terms:
        hint = did_you_mean(term, terms) or "."
        yield f"{where}`optimization.early_stop.term`: there is no term {term!r}{hint} Terms: {', '.join(terms)}."
    elif terms[term].get("weight") != 0:
        yield (
            f"{where}`optimization.early_stop.term`: expected a term that is not optimised, with "
            f"objective.terms.{term}.weight=0, got weight {terms[term].get('weight')}"
        )


def _guidance(config: Config) -> Iterator[str]:
    sampler = config["sampler"]["name"]
    for name in _chosen(config, "clip_guidance"):
        if sampler not in GUIDABLE:
            yield (
                f"`method.{name}`: classifier guidance changes the noise of each step of {' or '.join(GUIDABLE)}, not "
                f"that of {sampler}; use sampler=ddim, or leave {name} out of `methods`"
            )


def _best_of_n(config: Config) -> Iterator[str]:
    methods = config["method"]
    for name in _chosen(config, "best_of_n"):
        other = methods[name]["same_budget_as"]
        known = [entry for entry, method in methods.items() if method["kind"] == "optimize"]
        if methods[name]["num_candidates"] is None and other not in known:
            hint = did_you_mean(other, known) or "."
            yield (
                f"`method.{name}.same_budget_as`: expected a method of kind optimize, got {other!r}{hint} Those are: "
                f"{', '.join(known) or 'none; set num_candidates'}."
            )


def _chosen(config: Config, kind: str) -> list[str]:
    """The methods of a kind that are to run."""
    chosen = dict.fromkeys(config["methods"])
    return [name for name in chosen if name in config["method"] and config["method"][name]["kind"] == kind]


def _size(config: Config) -> Iterator[str]:
    height, width = config["models"]["height"], config["models"]["width"]
    if (height is None) != (width is None):
        yield f"`models.height` and `models.width`: expected both or neither, got {height} and {width}"
    else:
        yield from size_problems(config["models"]["path"], height, width)


def _steps(config: Config) -> Iterator[str]:
    yield from steps_problems(config["models"]["path"], config["sampler"]["num_inference_steps"])


def _engine(config: Config) -> Iterator[str]:
    engine, sampler = config["engine"], config["sampler"]
    if engine["name"] == "reversible":
        if sampler["name"] not in INVERTIBLE:
            yield (
                f"`engine`: reversible needs a sampler with an exact inverse ({', '.join(INVERTIBLE)}), and "
                f"{sampler['name']} has none; use engine=checkpoint"
            )
        if engine["warn_drift"] > engine["max_drift"]:
            yield (
                f"`engine.warn_drift`: expected at most `engine.max_drift`, {engine['max_drift']}, got "
                f"{engine['warn_drift']}"
            )
    steps = sampler["num_inference_steps"]
    if engine["gradient_steps"] is not None and engine["gradient_steps"] > steps:
        yield (
            f"`engine.gradient_steps`: expected at most `sampler.num_inference_steps`, {steps}, or null for all, got "
            f"{engine['gradient_steps']}"
        )


def _model_folder(config: Config) -> Iterator[str]:
    path = config["models"]["path"]
    folder = Path(path).expanduser()
    yield from kind_problems(path)
    if folder.is_file():
        yield f"`models.path`: expected a pipeline's folder or a hub id, got the file {path!r}"
    elif not folder.exists() and path.startswith((".", "~", os.sep)):
        yield f"`models.path`: there is no folder {path!r} (relative paths start at {Path.cwd()})"


def _weights(config: Config) -> Iterator[str]:
    if all(term["weight"] == 0 for term in config["objective"]["terms"].values()):
        yield "`objective.terms`: expected at least one weight other than 0; nothing would be optimised"


def _terms(config: Config) -> Iterator[str]:
    yield from term_problems(config["objective"]["terms"])


def _judges(config: Config) -> Iterator[str]:
    yield from judge_problems(config["models"]["judges"], config["objective"]["terms"])


def _detector(config: Config) -> Iterator[str]:
    """Only where a method that runs looks at saliency: the others do not need its files."""
    if any(config["method"].get(name, {}).get("use_saliency") for name in config["methods"]):
        yield from detector_problems(config["saliency"]["detector"])


def _saliency_weights(config: Config) -> Iterator[str]:
    if config["saliency"]["w_global"] == config["saliency"]["w_salient"] == 0:
        yield "`saliency.w_global` and `saliency.w_salient`: expected one above 0; nothing would be optimised"


def _prompts(config: Config) -> Iterator[str]:
    prompts = config["data"]["prompts"]
    if prompts.startswith("hub:") or Path(prompts).expanduser().is_dir():
        return  # a data set, which only the datasets library can look at: before models load, but not here
    try:
        prompt_file(prompts)
    except ConfigError as error:
        yield from error.problems


def _devices(config: Config) -> Iterator[str]:
    """Several devices are numbered by ``trainer.devices``."""
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


def _shard(config: Config) -> Iterator[str]:
    shard = config["trainer"]["shard"]
    if shard != "auto":
        part, parts = map(int, shard.split("/"))
        if part > parts:
            yield f"`trainer.shard`: expected a part of at most {parts}, got {shard}; parts count from 1"


_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Config], Iterator[str]]], ...] = (
    (("methods", "method"), _methods),
    (("method", "optimization"), _own_optimization),
    (("method", "methods", "optimization", "objective.terms"), _optimizers),
    (("method", "methods", "sampler"), _guidance),
    (("method", "methods"), _best_of_n),
    (("models.path", "models.height", "models.width"), _size),
    (("models.path", "sampler"), _steps),
    (("engine", "sampler"), _engine),
    (("models.path",), _model_folder),
    (("objective.terms",), _weights),
    (("objective.terms",), _terms),
    (("models.judges", "objective.terms"), _judges),
    (("methods", "method", "saliency.detector"), _detector),
    (("saliency.w_global", "saliency.w_salient"), _saliency_weights),
    (("data.prompts",), _prompts),
    (("models.device", "trainer.devices", "trainer.num_nodes"), _devices),
    (("trainer.shard",), _shard),
)
