"""Composes the configuration from the shipped files, the user's folder and the overrides."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.locate import add_search_folder
from sgool.config.overrides import Reader
from sgool.config.paths import config_folder
from sgool.config.rules import Schema
from sgool.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def compose(
    overrides: Sequence[str],
    config_dir: str | os.PathLike[str] | None,
    schema: Mapping[str, Schema],
    named: Sequence[str],
) -> tuple[dict[str, Any], list[str]]:
    """Composes a configuration; its values are not checked yet.

    Args:
        overrides: In Hydra's grammar: ``sampler=edict``, ``data.seeds=[0,1]``, ``experiment=paper``.
        config_dir: A folder of the user's own with further choices, laid out like the shipped configs/. Python modules
            in it can be imported from then on.
        schema: The rules of all keys, for hints.
        named: Dotted keys of the mappings in which users add names of their own, for hints.

    Returns:
        The configuration as dictionaries, lists, numbers and text, with all references resolved, and a sentence for
        each override that cannot be used.

    Raises:
        ConfigError: Nothing can be composed; it lists all problems that were found.
    """
    folders = _folders(config_dir)
    for own in folders[1:]:
        add_search_folder(own)
    reader = Reader(folders, schema, named)
    found = reader.read(overrides)
    problems = found.problems
    with _together_with(problems):
        base = _compose(found.groups, folders)
        unknown = reader.unknown_keys(found.values, _container(base, resolve=False))
        problems += unknown.values()
        sound = [str(value.input_line) for value in found.values if str(value.input_line) not in unknown]
        plain = _container(_compose([*found.groups, *sound], folders) if sound else base, resolve=True)
    return plain, problems


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Converts a configuration to dictionaries, lists, numbers and text."""
    return _container(config, resolve=True)


@contextmanager
def _together_with(problems: Sequence[str]) -> Iterator[None]:
    """Adds the problems found so far to those of a ConfigError that ends the search."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error


def _folders(config_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Returns the shipped folder and the user's, if given.

    Raises:
        ConfigError: There is no such folder, or it has files that the shipped ones would hide.
    """
    shipped = config_folder()
    if config_dir is None:
        return [shipped]
    own = Path(config_dir).expanduser().resolve()
    if not own.is_dir():
        raise ConfigError([f"--config-dir: expected a folder, got {str(config_dir)!r}, which is none"])
    files = sorted(path.relative_to(own) for path in own.rglob("*.yaml"))
    hidden = [path.as_posix() for path in files if (shipped / path).exists()]
    if hidden and own != shipped:
        raise ConfigError(
            [
                f"--config-dir: {', '.join(hidden)} would be hidden by sgool's own file; rename it, for example "
                f"to my_{Path(hidden[0]).name}"
            ]
        )
    return [shipped, own]


def _compose(overrides: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    """Calls Hydra's compose and leaves Hydra's global state as it was.

    Raises:
        ConfigError: Hydra, OmegaConf or YAML refuse the configuration.
    """
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    more = [f'hydra.searchpath=["file://{_quoted(folder)}"]' for folder in folders[1:]]
    before = GlobalHydra.instance().hydra
    # The caller may be a Hydra application: Hydra refuses to initialise a second time unless the first is set aside.
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(folders[0]), job_name="sgool", version_base="1.3"):
            return hydra_compose("config", overrides=[*overrides, *more])
    # ValueError: what Hydra itself raises for some malformed defaults lists.
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError([_first_part(error)]) from error
    finally:
        GlobalHydra.instance().hydra = before


def _quoted(folder: Path) -> str:
    return str(folder).replace("\\", "\\\\").replace('"', '\\"')


def _first_part(error: Exception) -> str:
    """Returns Hydra's message on one line, without its search path and the advice that follows it."""
    return " ".join(str(error).partition("Config search path:")[0].split())


def _container(config: DictConfig, *, resolve: bool) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(config, resolve=resolve)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        reason = " ".join(str(error.msg or error).partition("full_key:")[0].split())
        raise ConfigError([f"`{error.full_key}`: {reason}"]) from error
