"""Reads and checks the command line's overrides one by one, so that every mistake is reported."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sgool.config.quoting import list_override, prompt_command, quoted_override
from sgool.config.rules import Schema, Variants, rules_at
from sgool.config.suggest import did_you_mean, known_keys, unknown_key

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

#: Groups of which several choices may be taken side by side; a list in place of any other choice is refused.
SEVERAL = ("judges", "logger")


def is_launch_setting(line: str) -> bool:
    """Whether an override sets how Hydra launches the runs of a sweep, such as ``hydra/launcher=submitit_slurm``."""
    return re.match(r"[+~]{0,2}hydra[./]", line) is not None


@dataclass
class Overrides:
    """Overrides sorted by kind.

    Attributes:
        groups: Choices of a configuration group, as text.
        values: Overrides of single values, parsed.
        problems: A sentence for each override that cannot be used.
        refused: Groups whose choice cannot be used, so that it is unknown which keys they would have.
    """

    groups: list[str] = field(default_factory=list)
    values: list[Override] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)


class Reader:
    """Reads overrides and checks them against the configuration folders.

    Args:
        folders: Configuration folders, in which groups are subfolders and their choices are files.
        schema: The rules of all keys of the configuration, for hints.
        named: Dotted keys of the mappings in which users add names of their own, for hints.
    """

    def __init__(self, folders: Sequence[Path], schema: Mapping[str, Schema], named: Sequence[str]) -> None:
        self._folders, self._schema, self._named = folders, schema, named

    def read(self, overrides: Sequence[str]) -> Overrides:
        """Sorts overrides into choices of a group (``sampler=edict``) and values (``sampler.guidance_scale=3``).

        Args:
            overrides: In Hydra's grammar.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        found, parser = Overrides(), OverridesParser.create()
        lines, found.problems, found.refused = _without_spaced(overrides)
        for line in lines:
            try:
                override = parser.parse_overrides([line])[0]
            except HydraException as error:
                found.problems.append(_unreadable(line, str(error), self._schema))
                continue
            group = override.key_or_group
            if is_launch_setting(line):
                found.problems.append(
                    f"`{line}`: Hydra's launchers and sweepers start the runs of sgool fit -m; add -m"
                )
            elif override.is_sweep_override():
                found.problems.append(self._sweep(line))
                found.refused.add(group)  # of a key that is no group, nothing is below
            elif not any((folder / group).is_dir() for folder in self._folders):
                if hint := self._choice_hint(override):
                    found.problems.append(hint)
                    found.refused.add(group.partition(".")[0])
                else:
                    found.values.append(override)
            elif problem := self._unknown_choice(override):
                found.problems.append(problem)
                found.refused.add(group)
            else:
                found.groups.append(line)
        return found

    def unknown_keys(self, values: Sequence[Override], config: Mapping[str, Any]) -> dict[str, str]:
        """Returns a sentence for each override that changes or deletes a key which ``config`` does not have."""
        problems = {}
        groups = {path.name for folder in self._folders for path in folder.iterdir() if path.is_dir()}
        keys = [*known_keys(config), *sorted(groups - set(config) - {"method"})]
        for override in values:
            key = override.key_or_group
            if not (override.is_add() or override.is_force_add() or _has(config, key)):
                problems[str(override.input_line)] = unknown_key(key, keys, self._hint(key, override))
        return problems

    def _choices(self, group: str) -> list[str]:
        """Returns the names of a configuration group's files, without their suffix, sorted."""
        return sorted({path.stem for folder in self._folders for path in (folder / group).glob("*.yaml")})

    def _unknown_choice(self, override: Override) -> str | None:
        group, value = override.key_or_group, override.value()
        options = self._choices(group)
        if group == "method" and override.package is None:
            return self._method_hint(override)
        if group == "method" and not str(override.package).startswith("method."):
            return f"`{override.input_line}`: {_added(value, override.package)}"
        wanted = value if isinstance(value, list) else [value]
        wrong = [entry for entry in wanted if entry is not None and str(entry) not in options]
        if not wrong or override.is_delete():
            return None
        hint = did_you_mean(str(wrong[0]), options) or "."
        if group == "data" and Path(str(wrong[0])).suffix:
            hint += f" A file of prompts is data.prompts={shlex.quote(str(wrong[0]))}."
        if group == "method" and len(self._folders) == 1:
            hint += f" A file of your own is method/{wrong[0]}.yaml in a folder given with --config-dir."
        return f"`{group}`: there is no choice {str(wrong[0])!r}{hint} Choices: {', '.join(options)}."

    def _sweep(self, line: str) -> str:
        """Returns advice for an override with several values, ``optimization.lr=1,2``."""
        key, _, value = line.partition("=")
        rules, name = rules_at(self._schema, key.lstrip("+")), key.lstrip("+")
        ways = [f"for a run with each value: sgool fit -m {shlex.quote(line)}"]
        if numbers := re.fullmatch(r"range\((?:(\d+),)?\s*(\d{1,2})\)", value):
            value = ",".join(map(str, range(int(numbers[1] or 0), int(numbers[2]))))
        # Entries that are no numbers or words are texts; a comma may also belong to a text.
        entries = yaml.safe_load(f"[{value}]") if re.fullmatch(r"[^\[\]{}:#'\"]*", value) else None
        if name in SEVERAL or (entries is not None and any(rule.accepts(entries) for rule in rules)):
            ways.insert(0, f"a list is written {list_override(key, value)}")
        elif any(rule.accepts(value) for rule in rules):
            ways.insert(0, f"a text with commas is written {quoted_override(key, value)}")
        return f"`{line}`: one run has one value per key; {'; '.join(ways)}"

    def _method_hint(self, override: Override) -> str:
        """Returns advice for ``method=sgool`` and ``+method=hot``: methods are composed side by side."""
        value = override.value()
        values = [str(entry) for entry in (value if isinstance(value, list) else [value])]
        names = ",".join(values)
        shipped = {path.stem for path in (self._folders[0] / "method").glob("*.yaml")}
        own = [f"+method@method.{name}={name}" for name in values if name not in shipped]
        added = f", after adding your own with {' '.join(own)}" if own else ""
        chosen = list_override("methods", names)
        return f"`{override.input_line}`: a run has several methods; choose those to run with {chosen}{added}"

    def _choice_hint(self, override: Override) -> str | None:
        """Returns advice for an override like ``sampler.name=edict``, which would keep the other sampler's keys."""
        group, _, key = override.key_or_group.partition(".")
        variants, value = self._schema.get(group), override.value()
        if group == "method" and key and "." not in key and isinstance(value, str):
            return f"`{override.input_line}`: {_added(value, key)}"
        if isinstance(variants, Variants) and key == variants.key and value in self._choices(group):
            return f"`{override.input_line}`: use `{group}={value}`, which brings the other keys of {value} along"
        return None

    def _hint(self, key: str, override: Override) -> str:
        """Returns a sentence on where an unknown key belongs or how to add it, or an empty text."""
        if key in ("prompt", "data.prompt"):
            value = override.value()
            return f"For one prompt: {prompt_command(value if isinstance(value, str) else '')}. "
        for parent in self._named:
            if key.startswith(f"{parent}."):
                return f"A new name is added with +{key}=VALUE. "
        group, _, rest = key.partition(".")
        choices = []
        for name in self._choices(group) if rest else []:
            for folder in self._folders:
                file = folder / group / f"{name}.yaml"
                if file.is_file() and _has(yaml.safe_load(file.read_text(encoding="utf-8")), rest):
                    choices.append(f"{group}={name}")
        return f"It belongs to {' and '.join(choices)}. " if choices else ""


def _without_spaced(lines: Sequence[str]) -> tuple[list[str], list[str], set[str]]:
    """Takes out overrides with spaces around their =, which a shell passes on as two or three words.

    Returns:
        The other overrides, a sentence for each of those, and their keys.
    """
    kept: list[str] = []
    problems: list[str] = []
    keys: set[str] = set()
    rest = list(lines)
    while rest:
        words = [rest.pop(0)]
        if words[0].startswith("=") and kept and "=" not in kept[-1]:
            words.insert(0, kept.pop())
        if words[-1].endswith("=") and words[-1].count("=") == 1 and rest and "=" not in rest[0]:
            words.append(rest.pop(0))
        if len(words) == 1 and not words[0].startswith("="):
            kept += words
            continue
        key, _, value = "".join(words).partition("=")
        written = f"write {shlex.quote(f'{key}={value}')}" if key and value else "got no KEY"
        problems.append(f"`{' '.join(words)}`: expected KEY=VALUE with no spaces around the =; {written}")
        keys.add(key)
    return kept, problems, keys - {""}


def _added(file: Any, name: Any) -> str:
    return f"a method of your own, method/{file}.yaml in --config-dir, is added with +method@method.{name}={file}"


def _unreadable(line: str, error: str, known: Container[str]) -> str:
    if "=" not in line and not line.startswith("~"):
        hint = "" if line in known else f"; for one prompt: {prompt_command(line)}"
        return f"`{line}`: expected KEY=VALUE, got no ={hint}"
    reason = "" if line in error else f" ({error.strip().splitlines()[0]})"
    key, _, value = line.partition("=")
    if not re.fullmatch(r"[+~]{0,2}[\w.@/$-]+", key):
        return f"`{line}`: cannot be read as KEY=VALUE{reason}; {key!r} is no key"
    if value[:1] in ("[", "{", '"', "'"):
        return (
            f"`{line}`: cannot be read as KEY=VALUE{reason}. Brackets and quotes have to be closed; for a text that "
            f"holds them write {quoted_override(key, value)}"
        )
    return (
        f"`{line}`: a text with special characters needs quotes inside those of the shell; write "
        f"{quoted_override(key, value)}"
    )


def _has(config: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(config, Mapping) or name not in config:
            return False
        config = config[name]
    return True
