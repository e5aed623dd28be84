"""Methods of the user's own that update latents: what only their classes know, and the rules that hold for them too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sgool.config.locate import locate
from sgool.errors import ConfigError
from sgool.methods.options import METHODS, method_optimization, optimization_problems


def updates_latents(entry: Mapping[str, Any], where: str = "method.NAME") -> bool:
    """Returns whether a method updates latents as ``optimization`` says.

    A class of the user's own is imported for it: one that is derived from `sgool.methods.LatentPairModule` does. What a
    function will make is not known before it is called; `sgool.methods.build.build_method` looks at that.

    Args:
        entry: What stands below ``method.NAME``.
        where: Dotted key of the method, for messages.

    Raises:
        SgoolError: There is no such class.
    """
    known = METHODS.options(entry).optimizes
    return bool(getattr(_made_by(entry, where), "makes_updates", False)) if known is None else known


def check_custom(config: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuses settings of ``optimization`` that do not go together, for methods of the user's own that follow them.

    The configuration's own checks refuse them for the shipped methods. They do not run the user's code, which this
    does; it loads no network.

    Raises:
        ConfigError: All of them, a sentence each.
        SgoolError: There is no such class.
    """
    problems: list[str] = []
    for name in names:
        entry, where = config["method"][name], f"method.{name}"
        if METHODS.options(entry).optimizes is None and updates_latents(entry, where):
            taken = inspect.signature(_made_by(entry, where)).parameters
            unread = {"optimizer", "num_optimization_steps"} - taken.keys()
            settings = method_optimization(config, name)
            problems += optimization_problems(where, config, settings, bool(entry.get("use_saliency")), unread)
    if problems:
        raise ConfigError(problems)


def _made_by(entry: Mapping[str, Any], where: str) -> Callable[..., Any]:
    return locate(entry["_target_"], f"{where}._target_")
