"""What a component says about itself before torch is imported: its options, their rules, its capabilities, its files.

Each room of the package has a file ``options.py`` with one frozen dataclass per component, derived from `Options`, and
a `sgool.config.kinds.Kind` that lists them by the names that the configuration has for them.
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
    """A field that may be left out.

    Args:
        default: Its value then; lists and mappings are copied.
        rule: What it may hold, in the words of `sgool.config.rules`.
        expand: Turns a short form that the user may write into the full one.
    """
    return field(default_factory=lambda: deepcopy(default), metadata={"rule": rule, "expand": expand})


def required(rule: Schema, *, expand: Callable[[Any], Any] | None = None) -> Any:
    """A field that has to be given; arguments as those of `option`."""
    return field(metadata={"rule": rule, "expand": expand})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one component: a field each, made by `option` or `required`.

    Capabilities are class attributes of the derived classes. True and False are known before the component is imported;
    None is not, and is found out when the component is built.

    Attributes:
        builder: Dotted path of the class or function that builds the component. It gets the options as keyword
            arguments.
        sees: Further dotted keys that `problems` reads. It is called only if all of their values are sound.
    """

    builder: ClassVar[str]
    sees: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def schema(cls) -> dict[str, Schema]:
        """Name of each option -> what it may hold."""
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
        """The options in a mapping whose values are sound; other entries are passed over."""
        return cls(**{entry.name: node[entry.name] for entry in fields(cls) if entry.name in node})

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """What is wrong although every single value is sound: missing files, options that do not go together.

        Args:
            where: Dotted key of these options.
            config: The whole configuration, for what depends on other components. Keys named in `sees` are there.
        """
        yield from ()


@dataclass(frozen=True, kw_only=True)
class CustomOptions(Options):
    """A component of the user's own: a dotted path, and the keyword arguments that stand beside it."""

    _target_: str = required(dotted())
    arguments: Mapping[str, Any] = option({}, mapping("keyword arguments"))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Whether the module can be found; it is not executed."""
        yield from super().problems(where, config)
        yield from module_problems(self._target_, f"{where}._target_")
