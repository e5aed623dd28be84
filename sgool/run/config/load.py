"""Loads a run's configuration from overrides: composes, completes and checks it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sgool.config.compose import to_plain
from sgool.config.paths import TEXT
from sgool.config.plain import plain as plain_types
from sgool.config.quoting import hydra_quoted, without_references
from sgool.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["load_config", "to_plain", "with_quoted_prompts"]


_PROMPTS = re.compile(rf"(\+{{0,2}}data\.prompts)=({TEXT}.*)", re.DOTALL)


def with_quoted_prompts(overrides: Sequence[str]) -> list[str]:
    """Returns overrides in which ``data.prompts=text:a cat, asleep`` is quoted, so that a prompt may hold anything."""
    found = [(line, _PROMPTS.fullmatch(line)) for line in overrides]
    return [f"{match[1]}={hydra_quoted(match[2])}" if match else line for line, match in found]


def load_config(overrides: Sequence[str] = (), config_dir: str | os.PathLike[str] | None = None) -> DictConfig:
    """Composes and checks the configuration of a run.

    Args:
        overrides: In Hydra's grammar: ``sampler=edict``, ``data.seeds=[0,1]``, ``experiment=paper``.
        config_dir: A folder of the user's own with further choices, laid out like the shipped configs/, and with the
            modules that they name.

    Returns:
        The configuration with all references resolved, read-only.

    Raises:
        ConfigError: There are problems, all of which the message lists: unknown keys and choices, values of a wrong
            type or out of range, missing files, combinations that make no sense.
    """
    from omegaconf import OmegaConf

    from sgool.config.compose import compose
    from sgool.run.config.checks import find_problems
    from sgool.run.config.schema import NAMED, SCHEMA, complete

    plain, problems = compose(with_quoted_prompts(overrides), config_dir, SCHEMA, NAMED)
    complete(plain)
    problems += find_problems(plain)
    if problems:
        raise ConfigError(problems)
    # All references are resolved; what looks like one now is a user's text.
    config = OmegaConf.create(plain_types(plain, without_references))
    OmegaConf.set_struct(config, True)
    OmegaConf.set_readonly(config, True)
    return config
