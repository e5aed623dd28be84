"""Options of the loggers; nothing here imports W&B."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from sgool.config.rules import Problem, Rule, Variants, choice, integer, list_of, matching, optional, text

_MODES = ("offline", "online", "disabled")
#: Old names of W&B's modes, which its variable still accepts.
_OLD_MODES = {"dryrun": "offline", "run": "online"}
#: Key -> W&B's variable that counts where the key is null, and the value where the variable is not set either.
_VARIABLES: dict[str, tuple[str, Any]] = {
    "mode": ("WANDB_MODE", "offline"),
    "project": ("WANDB_PROJECT", "sgool"),
    "entity": ("WANDB_ENTITY", None),
    "tags": ("WANDB_TAGS", []),
}

#: Rules of the configuration's ``logger``; ``name`` is one logger or a list of several.
LOGGER = Variants(
    "name",
    {
        "csv": {},
        "none": {},
        "wandb": {
            "mode": Rule(f"{choice(*_MODES).expected} (null: what WANDB_MODE says)", lambda value: value in _MODES),
            "project": matching(r"[^/\\#?%:]{1,128}", "1 to 128 characters without / \\ # ? % :"),
            "entity": optional(text()),
            "tags": list_of(matching(r".{1,64}", "a text of 1 to 64 characters"), at_least=0),
            "images": optional(integer(0)),
            "image_size": integer(16),
        },
    },
    several=True,
)


def logger_names(options: Mapping[str, Any]) -> list[str]:
    """Returns the names of the loggers that the ``logger`` part of a configuration chooses."""
    name = options["name"]
    return list(name) if isinstance(name, (list, tuple)) else [name]


def complete_logger(options: Any, environ: Mapping[str, str] = os.environ) -> None:
    """Writes, in place, what W&B's environment variables say into keys that are null, or else their defaults.

    Args:
        options: The ``logger`` part of a configuration; left alone if it is no mapping with W&B's keys.
        environ: The environment's variables. An empty one counts as not set.
    """
    if not isinstance(options, dict):
        return
    for key, (variable, default) in _VARIABLES.items():
        if key in options and options[key] is None:
            options[key] = _value(key, environ.get(variable, "").strip(), default)


def _value(key: str, said: str, default: Any) -> Any:
    if not said:
        return list(default) if isinstance(default, list) else default
    if key == "tags":
        return [tag.strip() for tag in said.split(",") if tag.strip()]
    return _OLD_MODES.get(said, said) if key == "mode" else said


def with_source(problem: Problem, options: Any, environ: Mapping[str, str] = os.environ) -> Problem:
    """Returns a problem that names W&B's environment variable, if it is of a value that came from one.

    Args:
        problem: Any problem of a configuration.
        options: The ``logger`` part of the configuration, after `complete_logger`.
        environ: The environment's variables.
    """
    key = problem.key.removeprefix("logger.")
    if key == problem.key or key not in _VARIABLES or not isinstance(options, Mapping):
        return problem
    variable, default = _VARIABLES[key]
    said = environ.get(variable, "").strip()
    if not said or options.get(key) != _value(key, said, default):
        return problem
    return Problem(problem.key, f"{problem.text}, from the environment variable {variable}={said}")


def logger_problems(options: Mapping[str, Any]) -> Iterator[str]:
    """Yields a problem if `none` stands beside other loggers."""
    names = logger_names(options)
    if "none" in names and len(names) > 1:
        others = [name for name in names if name != "none"]
        yield f"`logger`: none stands for no logger, so it goes with no other; leave it or {', '.join(others)} out"
