"""Base classes for a component's options: what is known of it before torch is imported.

That is its options with their rules, its capabilities and the files it needs. Each room of the package has a file
``options.py`` with one frozen dataclass per component, derived from `Options`, and a `sgool.config.kinds.Kind` that
lists them by their names in the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from sgool.config.locate import module_problems
from sgool.config.rules import MISSING, Schema, dotted, mapping

Config = Mapping[str, Any]

OptionsT = TypeVar("OptionsT", bound="Options")


def option(default: Any, rule: Schema, *, expand: Callable[[Any], Any] | None = None) -> Any:
    """Makes a field of options that the user may leave out.

    Args:
        default: Value of the field if it is left out; lists and mappings are copied.
        rule: The rule for its value; see `sgool.config.rules`.
        expand: Turns a short form that the user may write into the full one.
    """
    return field(default_factory=lambda: deepcopy(default), metadata={"rule": rule, "expand": expand})


def required(rule: Schema, *, expand: Callable[[Any], Any] | None = None) -> Any:
    """Makes a field of options that the user must give; for the arguments see `option`."""
    return field(metadata={"rule": rule, "expand": expand})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one component, each of them a field made by `option` or `required`.

    Capabilities are class attributes of the derived classes: True or False if they are known before the component is
    imported, None if they are known only when it is built.

    Attributes:
        builder: Dotted path of the class or function that builds the component. It gets the options as keyword
            arguments.
        sees: Dotted keys of other parts of the configuration that `problems` reads. `problems` is called only if the
            values of all of them are valid.
    """

    builder: ClassVar[str]
    sees: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def schema(cls) -> dict[str, Schema]:
        """Returns the rule of each option, by the option's name."""
        return {entry.name: entry.metadata["rule"] for entry in fields(cls)}

    @classmethod
    def complete(cls, node: dict[str, Any]) -> None:
        """Writes defaults and the full forms of short ones into a mapping of options, in place."""
        for entry in fields(cls):
            if entry.default_factory is not NO_DEFAULT:
                node.setdefault(entry.name, entry.default_factory())
            expand = entry.metadata["expand"]
            if expand is not None and node.get(entry.name, MISSING) != MISSING:
                node[entry.name] = expand(node[entry.name])

    @classmethod
    def read(cls: type[OptionsT], node: Config) -> OptionsT:
        """Makes the options from a mapping whose values are valid; other entries are ignored."""
        return cls(**{entry.name: node[entry.name] for entry in fields(cls) if entry.name in node})

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem for each missing file and for options that do not go together; single values are valid.

        Args:
            where: Dotted key of these options.
            config: The whole configuration, for what depends on other components. It has the keys named in `sees`.
        """
        yield from ()


@dataclass(frozen=True, kw_only=True)
class CustomOptions(Options):
    """Options of a user's own component: its dotted path and its keyword arguments."""

    _target_: str = required(dotted())
    arguments: Mapping[str, Any] = option({}, mapping("keyword arguments"))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem if the module cannot be found; it is not executed."""
        yield from super().problems(where, config)
        yield from module_problems(self._target_, f"{where}._target_")
