"""All components of one kind, shipped or the user's own: their schema, defaults, checks and construction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sgool.config.locate import locate
from sgool.config.options import Options
from sgool.config.rules import Variants, check, choice
from sgool.errors import ConfigError, SgoolError

Config = Mapping[str, Any]
#: The name, in a completed configuration, of every component that is given by ``_target_``.
CUSTOM = "custom"
_TARGET, _ARGUMENTS = "_target_", "arguments"

OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True)
class Kind(Generic[OptionsT]):
    """All components of one kind, by their names in the configuration.

    Attributes:
        word: How messages call a component, for example "a sampler".
        key: Entry of a component's mapping that names it: "name", "type" or "kind".
        components: Name -> class of options, for the shipped components.
        custom: Class of options, derived from `CustomOptions`, of a component that is given by ``_target_``.
        default: Name of the component whose mapping need not have ``key``; None: every mapping has it.
        parts: Attributes that a built component must have.
        docs: Page that explains how to write such a component.
    """

    word: str
    key: str
    components: Mapping[str, type[OptionsT]]
    custom: type[OptionsT]
    default: str | None = None
    parts: Sequence[str] = ()
    docs: str = ""

    @property
    def schema(self) -> Variants:
        """Schema of a component's mapping in the configuration."""
        schemas = {name: options.schema() for name, options in self.components.items()}
        return Variants(self.key, {**schemas, CUSTOM: self.custom.schema()}, self.default, unlisted=(CUSTOM,))

    def options(self, node: Config) -> type[OptionsT]:
        """Returns the class of options that a component's mapping belongs to."""
        name = node.get(self.key, self.default)
        return self.custom if name == CUSTOM else self.components[str(name)]

    def able(self, capability: str) -> list[str]:
        """Returns the names of the shipped components that have a capability, an attribute of their options."""
        return [name for name, options in self.components.items() if getattr(options, capability)]

    def complete(self, node: Any) -> None:
        """Writes the defaults of all options that a component's mapping leaves out, in place.

        If it has a ``_target_``, all entries that are no options of the kind itself are moved into ``arguments``.
        """
        if not isinstance(node, dict):
            return
        if _TARGET in node and node.get(self.key, CUSTOM) == CUSTOM:
            node.setdefault(self.key, CUSTOM)
            _gather(node, (self.key, *self.custom.schema()))
        name = node.get(self.key, self.default)
        if isinstance(name, str) and (name == CUSTOM or name in self.components):
            self.options(node).complete(node)

    def problems(self, node: Config, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of a completed mapping; see `Options.problems`."""
        yield from self.options(node).read(node).problems(where, config)

    def build(self, name: str, options: Config, where: str, offered: Config | None = None) -> Any:
        """Builds a component.

        Args:
            name: Its name in the configuration; "custom" for one of the user's own.
            options: Arguments of its builder; for one of the user's own, ``_target_`` and ``arguments``.
            where: Dotted key of the component, for messages.
            offered: Further arguments, passed to builders that have parameters of these names.

        Raises:
            ConfigError: The name is unknown, or the ``options`` of a user's own component refuse the arguments.
            SgoolError: The options do not fit, or the result is no such component.
        """
        if name == CUSTOM:
            path = options[_TARGET]
            built = build(path, options[_ARGUMENTS], where, offered)
            self.check(built, where, path)
            return built
        if name not in self.components:
            raise ConfigError([f"`{where}.{self.key}`: expected one of {', '.join(self.components)}, got {name!r}"])
        return build(self.components[name].builder, options, where, offered, known_as=name)

    def check(self, built: Any, where: str, path: str) -> None:
        """Raises a SgoolError that names the attributes which a user's own component lacks."""
        lacking = [part for part in self.parts if not hasattr(built, part)]
        if lacking:
            raise SgoolError(
                f"`{where}.{_TARGET}`: expected {self.word}, with {_listed(self.parts)}; what {path} makes lacks "
                f"{', '.join(lacking)} (see {self.docs})"
            )


def _listed(words: Sequence[str]) -> str:
    return choice(*words).expected.replace(" or ", " and ")


def _gather(node: dict[str, Any], kept: Sequence[str]) -> None:
    """Moves every entry whose key is not in ``kept`` into ``arguments``."""
    given = node.get(_ARGUMENTS, {})
    arguments = {key: node.pop(key) for key in list(node) if key not in kept}
    node[_ARGUMENTS] = {**given, **arguments} if isinstance(given, Mapping) else given


def build(
    path: str,
    arguments: Mapping[str, Any],
    where: str,
    offered: Mapping[str, Any] | None = None,
    known_as: str | None = None,
) -> Any:
    """Calls the class or function at a dotted path and returns the result.

    It may have an attribute ``options``, a dataclass derived from `sgool.config.options.Options`. Then the arguments
    are checked by its rules, and its defaults are filled in.

    Args:
        path: ``MODULE.NAME``.
        arguments: Keyword arguments.
        where: Dotted key of the configuration, for messages.
        offered: Further arguments, passed only where there are parameters of these names.
        known_as: A shipped component's name in the configuration, for messages; None for one of the user's own.

    Raises:
        ConfigError: Its ``options`` refuse the arguments; it lists all problems.
        SgoolError: There is nothing at the path, or the arguments do not fit.
    """
    make = locate(path, f"{where}._target_")
    arguments = _by_its_own_options(make, dict(arguments), where)
    given = list(arguments)
    try:
        signature = inspect.signature(make)
        for name, value in (offered or {}).items():
            if name in signature.parameters:
                arguments.setdefault(name, value)
    except ValueError:  # a builtin has no signature
        return make(**arguments)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        if known_as:
            raise SgoolError(f"`{where}`: {known_as} does not take {sorted(given)}: {error}") from error
        raise SgoolError(
            f"`{where}`: the arguments do not fit {path}: {error}. Expected {path.rpartition('.')[2]}"
            f"{_parameters(signature, offered or {})}, got {', '.join(given) or 'none'}"
        ) from error
    return make(**arguments)


def _by_its_own_options(make: Callable[..., Any], arguments: dict[str, Any], where: str) -> dict[str, Any]:
    own = getattr(make, "options", None)
    if not (isinstance(own, type) and issubclass(own, Options)):
        return arguments
    own.complete(arguments)
    problems = [problem.text for problem in check(arguments, own.schema(), where)]
    problems = problems or list(own.read(arguments).problems(where, {}))
    if problems:
        raise ConfigError(problems)
    return arguments


def _parameters(signature: inspect.Signature, offered: Mapping[str, Any]) -> str:
    """Returns the parameters that the configuration may set, as they are written in Python."""
    parameters = [entry for name, entry in signature.parameters.items() if name not in offered]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
