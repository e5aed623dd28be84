"""Composes the configuration from the shipped files, the user's folder and the overrides."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.locate import add_search_folder
from sgool.config.overrides import SEVERAL, Reader
from sgool.config.paths import config_folder
from sgool.config.quoting import hydra_quoted, list_override
from sgool.config.rules import Schema, Variants
from sgool.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.default_element import ResultDefault
    from hydra.plugins.config_source import ConfigResult, ConfigSource
    from omegaconf import DictConfig

#: Group whose files' keys do not stand under its own name -> where they stand, as the files' first line says.
PACKAGES = {"experiment": "_global_", "judges": "models.judges", "match": "saliency"}
_HEADER = re.compile(r"^#\s*@package\s+\S", re.MULTILINE)


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
    folders = config_folders(config_dir)
    for own in folders[1:]:
        add_search_folder(own)
    reader = Reader(folders, schema, named)
    found = reader.read(overrides)
    problems = found.problems
    with _together_with(problems), hydra_reads(folders):
        groups = [*found.groups, *search_path(folders)]
        base, choices = _with_choices(groups)
        chosen = _lists(groups, choices)
        refused = {group: names for group, names in chosen.items() if group not in SEVERAL}
        problems += [_one_choice(group, names) for group, names in refused.items()]
        if refused:  # the keys of the last choice alone, so that nothing more is said of those of the others
            groups += [f"{group}={names[-1]}" for group, names in refused.items()]
            base = _compose(groups)
        unknown = reader.unknown_keys(found.values, _container(base, resolve=False))
        places = [f"{PACKAGES.get(group, group)}." for group in (*refused, *found.refused)]
        problems += [text for line, text in unknown.items() if not line.lstrip("+~").startswith(tuple(places))]
        sound = [str(value.input_line) for value in found.values if str(value.input_line) not in unknown]
        plain = _container(_compose([*groups, *sound]) if sound else base, resolve=True)
        # Hydra is asked for its files only where a message names one, since it reads all of them again each time.
        misplaced = [group for group in PACKAGES if plain.get(group)]
        files = [str(entry.config_path) for entry in _defaults(groups)] if misplaced else []
    _without_header(plain, problems, folders, files)
    problems += _not_run(plain, found.groups)
    for group in chosen.keys() & plain.keys():
        if isinstance(variants := schema.get(group), Variants) and variants.several:
            plain[group][variants.key] = chosen[group]  # the files' own names have overwritten each other
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


def config_folders(config_dir: str | os.PathLike[str] | None) -> list[Path]:
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


@contextmanager
def hydra_reads(folders: Sequence[Path]) -> Iterator[None]:
    """Lets Hydra read these folders, and leaves its global state as it was.

    Raises:
        ConfigError: Hydra, OmegaConf or YAML refuse the configuration.
    """
    import yaml
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    before = GlobalHydra.instance().hydra
    # The caller may be a Hydra application: Hydra refuses to initialise a second time unless the first is set aside.
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(folders[0]), job_name="sgool", version_base="1.3"):
            for source in GlobalHydra.instance().config_loader().get_sources():
                _parse_once(source)
            yield
    # ValueError: what Hydra itself raises for some malformed defaults lists.
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError([_first_part(error, folders)]) from error
    finally:
        GlobalHydra.instance().hydra = before


def _parse_once(source: ConfigSource) -> None:
    """Lets one of Hydra's sources parse each file once, since a configuration is composed in several passes."""
    parse, parsed = source.load_config, {}

    def load_config(config_path: str) -> ConfigResult:
        if config_path not in parsed:
            parsed[config_path] = parse(config_path)
        return copy.deepcopy(parsed[config_path])  # Hydra takes the defaults list out of what it gets

    vars(source)["load_config"] = load_config


def search_path(folders: Sequence[Path]) -> list[str]:
    """Returns the override that makes Hydra read the user's folder too."""
    return [f"hydra.searchpath=[{hydra_quoted(f'file://{folder}')}]" for folder in folders[1:]]


def _compose(overrides: Sequence[str]) -> DictConfig:
    from hydra import compose as hydra_compose

    return hydra_compose("config", overrides=list(overrides))


def _with_choices(overrides: Sequence[str]) -> tuple[DictConfig, set[str]]:
    """Composes, and returns too the groups of which Hydra took one choice or none."""
    from hydra import compose as hydra_compose
    from omegaconf import open_dict

    config = hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    choices = {str(group) for group in config.hydra.runtime.choices}
    with open_dict(config):
        del config["hydra"]
    return config, choices


def _defaults(overrides: Sequence[str]) -> Sequence[ResultDefault]:
    """Returns the files that Hydra composes."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    return loader.compute_defaults_list("config", list(overrides), RunMode.RUN).defaults


def _lists(overrides: Sequence[str], choices: Container[str]) -> dict[str, list[str]]:
    """Returns the groups of which several choices are taken, on the command line or in a file, with the choices.

    Args:
        overrides: Choices of groups.
        choices: From `_with_choices`. Where all groups of config.yaml are among them, no file has taken several.
    """
    import yaml

    entries = yaml.safe_load((config_folder() / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    groups = [group for entry in entries if isinstance(entry, dict) for group in entry]
    if all(group in choices for group in groups) and not any("[" in line for line in overrides):
        return {}
    found: dict[tuple[str, str | None], list[str]] = {}
    for entry in _defaults(overrides):
        group, _, name = (entry.config_path or "").rpartition("/")
        # A file of the same group that is named inside another one is that file's own business.
        if entry.parent == "config" and not entry.is_self:
            found.setdefault((group, entry.package), []).append(name)
    return {group: list(dict.fromkeys(names)) for (group, _), names in found.items() if len(names) > 1}


def _not_run(plain: Mapping[str, Any], groups: Sequence[str]) -> Iterator[str]:
    """Yields a problem for each method that is added on the command line, but that no pair would get."""
    names = plain.get("methods")
    for line in groups:
        added = re.match(r"\+{1,2}method@method\.(\w+)=", line)
        if added and isinstance(names, list) and added[1] not in names:
            chosen = list_override("methods", added[1])
            yield f"`{line}`: adds a method that `methods` does not name, so it would not run; add {chosen}"


def _one_choice(group: str, names: Sequence[str]) -> str:
    ways = {
        "experiment": ". An experiment of your own can build on others: name them in its `defaults`",
        "objective": ". Further terms are added one by one: '+objective.terms.NAME={type: ..., ...}'",
    }
    several = " and ".join(SEVERAL)
    return (
        f"`{group}`: expected one choice, got {', '.join(names)}; write {group}={names[-1]} (only {several} may be "
        f"lists){ways.get(group, '')}"
    )


def _without_header(plain: dict[str, Any], problems: list[str], folders: Sequence[Path], chosen: Sequence[str]) -> None:
    """Reports chosen files whose keys stand under their group's name, since they lack the line that says otherwise."""
    for group in PACKAGES:
        if not plain.get(group):
            continue
        names = [name for name in chosen if name.startswith(f"{group}/")]
        problems.append(_needs_header(group, list(_headerless(names, folders))))
        del plain[group]  # reported once, and not as unknown keys


def _headerless(names: Iterable[str], folders: Sequence[Path]) -> Iterator[Path]:
    """Yields those of the files, named like ``experiment/mine``, that lack the line that says where they belong."""
    for name in dict.fromkeys(names):
        for file in (folder / f"{name}.yaml" for folder in folders):
            if file.is_file() and not _HEADER.search(file.read_text(encoding="utf-8")):
                yield file


def _needs_header(group: str, lacking: Sequence[Path]) -> str:
    where = " or ".join(map(str, lacking)) or "its file"
    return (
        f"`{group}`: expected `# @package {PACKAGES[group]}` as the first line of {where}, got none; without it Hydra "
        f"puts the file's keys under `{group}`, where nothing reads them"
    )


def _first_part(error: Exception, folders: Sequence[Path]) -> str:
    """Returns Hydra's message on one line, without its search path and the advice that follows it."""
    text = " ".join(str(error).partition("Config search path:")[0].split())
    # Without its first line, a file's `override /sampler` is looked for below the file's own group.
    below = re.match(r"In '((\w+)/.*?)': Could not override '[\w/]+@\2\.", text)
    if below and below[2] in PACKAGES and (lacking := list(_headerless([below[1]], folders))):
        return _needs_header(below[2], lacking)
    # Within a group's file, another group's name means one below the file's own keys.
    if nested := re.match(r"In '(\w+)/.*': Could not override '(\w+)@\1\.\2'", text):
        text += f" Write `override /{nested[2]}@_global_.{nested[2]}: ...`."
    if wrong := re.match(r"In '(\w+)/.*': Could not override '\1/(\w+)@", text):
        text += f" Write `override /{wrong[2]}: ...`, with a slash."
    return text


def _container(config: DictConfig, *, resolve: bool) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(config, resolve=resolve)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        reason = " ".join(str(error.msg or error).partition("full_key:")[0].split())
        raise ConfigError([f"`{error.full_key}`: {reason}"]) from error
