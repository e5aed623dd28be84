"""Checks that look at several keys at once, or at the disk; none imports or loads a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.pipeline import kind_problems, size_problems, steps_problems
from sgool.config.rules import check
from sgool.config.schema import INVERTIBLE, SCHEMA
from sgool.config.suggest import did_you_mean
from sgool.errors import ConfigError
from sgool.paths import prompt_file

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


def _method_flags(config: Config) -> Iterator[str]:
    for name, method in config["method"].items():
        if method["use_saliency"] and not method["optimize"]:
            yield f"`method.{name}`: expected optimize=true where use_saliency=true; saliency is part of the objective"


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


def _saliency_weights(config: Config) -> Iterator[str]:
    if config["saliency"]["w_global"] == config["saliency"]["w_salient"] == 0:
        yield "`saliency.w_global` and `saliency.w_salient`: expected one above 0; nothing would be optimised"


def _prompts(config: Config) -> Iterator[str]:
    try:
        prompt_file(config["data"]["prompts"])
    except ConfigError as error:
        yield from error.problems


_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Config], Iterator[str]]], ...] = (
    (("methods", "method"), _methods),
    (("method",), _method_flags),
    (("models.path", "models.height", "models.width"), _size),
    (("models.path", "sampler"), _steps),
    (("engine", "sampler"), _engine),
    (("models.path",), _model_folder),
    (("objective.terms",), _weights),
    (("saliency.w_global", "saliency.w_salient"), _saliency_weights),
    (("data.prompts",), _prompts),
)
