"""Loads a run's configuration from overrides: composes, completes and checks it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sgool.config.compose import to_plain
from sgool.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["load_config", "to_plain"]


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

    plain, problems = compose(overrides, config_dir, SCHEMA, NAMED)
    complete(plain)
    problems += find_problems(plain)
    if problems:
        raise ConfigError(problems)
    config = OmegaConf.create(plain)
    OmegaConf.set_struct(config, True)
    OmegaConf.set_readonly(config, True)
    return config
