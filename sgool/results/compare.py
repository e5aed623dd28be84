"""Compares two configurations: one line for each changed key that may lead to other results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sgool.config.paths import TEXT
from sgool.config.plain import plain
from sgool.errors import ConfigError, SgoolError

NOT_COMPARED: tuple[str, ...] = (
    "name",
    "run_dir",
    "resume",
    "debug",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.shard",
    "trainer.save_every_n_updates",
    "trainer.pairs_per_fit",
    "trainer.threads",
    "logger",
    "methods",
    "data.limit",
    "data.seeds",
    "data.seed_column",
    "data.categories",
    "data.indices",
    "data.duplicates",
    "models.device",
    "models.compile",
    "models.offload_text_encoders",
    "models.offload",
    "models.preset",
    "engine.name",
    "engine.memory_mib",
    "engine.split_guidance",
    "engine.block_checkpointing",
    "engine.warn_drift",
    "engine.max_drift",
    "optimization.snapshot_every",
)
"""Keys, with all below them, that say where, how fast or for which pairs a run works. They change no pair's result.

``models.preset`` shows in the keys that take their values from it. ``methods`` is here so that a method can be added to
a run; each pair's folder carries its method's name, and settings of a method that the run did not have before are not
compared either (`changed_keys`). ``engine.name`` is compared after all where a budget of network calls is spent:
engines differ in how many an update takes.
"""

_ABSENT = "null"
_LONGEST_VALUE = 200


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a configuration to YAML's types; OmegaConf's references are resolved, paths and the like become text."""
    from omegaconf import OmegaConf

    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return {str(key): plain(value) for key, value in config.items()}


def read_config(path: Path) -> dict[str, Any]:
    """Reads a run folder's ``config.yaml``.

    Raises:
        SgoolError: The file cannot be read or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # YAML's messages have several lines
        raise SgoolError(f"Cannot read {path}: {reason}. Use another run_dir, or delete the folder.") from error
    if not isinstance(content, dict):
        raise SgoolError(
            f"{path} should hold the run's configuration, but holds a {type(content).__name__}. "
            "Use another run_dir, or delete the folder."
        )
    return content


def config_text(config: Mapping[str, Any]) -> str:
    """Returns a plain configuration as YAML text, with its keys in their order."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120)


def changed_keys(
    old: Mapping[str, Any], new: Mapping[str, Any], not_compared: Sequence[str] = NOT_COMPARED
) -> list[str]:
    """Returns a line ``key: was X, is Y`` for each dotted key that differs, sorted; lists are compared as a whole.

    Settings of a method that ``old`` has not run change no result that there is, so they are not compared.
    """
    before, after = flatten(old), flatten(new)
    not_compared = (*not_compared, *_of_new_methods(old, new))
    if _counts_calls(old) or _counts_calls(new):
        not_compared = [name for name in not_compared if name != "engine.name"]
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if _is_below(key, not_compared):
            continue
        was, now = _show(before, key), _show(after, key)
        if was != now:
            lines.append(f"{key}: was {_shorten(was)}, is {_shorten(now)}")
    return lines


def refuse_other_config(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], not_compared: Sequence[str] = NOT_COMPARED
) -> None:
    """Raises an error if results of ``new`` must not be mixed with those of ``old`` in one folder.

    Raises:
        ConfigError: The configurations differ in what decides on results. The message lists the changed keys.
    """
    lines = changed_keys(old, new, not_compared)
    if lines:
        raise ConfigError(
            [
                f"The run folder {folder} was made by another configuration:\n"
                + "".join(f"  {line}\n" for line in lines)
                + f"Use another run_dir, delete the folder {folder} to start again, or add --resume-with-changes (in "
                "Python accept_changes=True): then what is finished stays as it is, the rest is made with the new "
                "settings, and the report says so."
            ]
        )


def config_digest(config: Mapping[str, Any], not_compared: Sequence[str] = NOT_COMPARED) -> str:
    """Returns a hash of what decides on the results; configurations that may share a folder have the same hash."""
    flat = flatten(plain_config(config))
    compared = {key: _show(flat, key) for key in sorted(flat) if not _is_below(key, not_compared)}
    return hashlib.sha256(json.dumps(compared).encode()).hexdigest()[:16]


def _counts_calls(config: Mapping[str, Any]) -> bool:
    """Whether what some method of the run does depends on how many network calls an update takes."""
    for name in config.get("methods") or ():
        method = (config.get("method") or {}).get(name) or {}
        budget = {**(config.get("budget") or {}), **(method.get("budget") or {})}
        if budget.get("calls") is not None:
            return True
        follows = method.get("same_budget_as") is not None and method.get("num_candidates") is None
        if follows and budget.get("seconds") is None:
            return True
    return False


def _of_new_methods(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys ``method.NAME`` of methods that ``old`` neither runs nor refers to; it runs all that its folder has.

    See `join_methods`. A method refers to another one by ``same_budget_as``: what that one costs, it may spend.
    """
    run = old.get("methods")
    if not isinstance(run, list):
        return []
    settings = old.get("method") or {}
    known = {*run, *((settings.get(name) or {}).get("same_budget_as") for name in run)}
    return [f"method.{name}" for name in (*settings, *(new.get("method") or {})) if name not in known]


def _is_below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(name + ".") for name in names)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Maps dotted keys to values; an empty mapping counts as a value, so that adding one is seen as a change."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    # Values are compared as text, so that NaN equals NaN, while 1 and 1.0 and true stay apart.
    # A missing key counts as null: an earlier version may not have known it.
    # Earlier versions recorded a path's ~ as it was given.
    value = flat.get(key)
    # Prompts of the command line are no file that changed: each pair's id has a hash of its prompt.
    value = TEXT if key == "data.prompts" and isinstance(value, str) and value.startswith(TEXT) else value
    value = os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value
    return _ABSENT if value is None else json.dumps(value, ensure_ascii=False)


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def join_methods(old: Mapping[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Returns ``new`` with the methods of the folder's earlier runs too, in the order of their first use."""
    before, now = old.get("methods"), new.get("methods")
    if not isinstance(before, list) or not isinstance(now, list):
        return new
    return new | {"methods": before + [method for method in now if method not in before]}
