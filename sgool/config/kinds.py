"""The components of one kind: a schema, completion, checks and building, for shipped ones and for the user's own."""

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
    """All components of one kind, by the names that the configuration has for them.

    Attributes:
        word: What a component is called in messages: "a sampler".
        key: Entry of a component's mapping that names it: "name", "type" or "kind".
        components: Name -> class of options, without those of the user's own.
        custom: Class of options, derived from `CustomOptions`, of a component that is given by ``_target_``.
        default: Name of the component whose mapping may be without ``key``; None: every mapping has it.
        parts: Attributes that a built component must have.
        docs: The page that says how to write one.
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
        """What the mapping of a component may hold."""
        schemas = {name: options.schema() for name, options in self.components.items()}
        return Variants(self.key, {**schemas, CUSTOM: self.custom.schema()}, self.default, unlisted=(CUSTOM,))

    def options(self, node: Config) -> type[OptionsT]:
        """The class of options of a component's mapping."""
        name = node.get(self.key, self.default)
        return self.custom if name == CUSTOM else self.components[str(name)]

    def able(self, capability: str) -> list[str]:
        """Names of the components that have a capability."""
        return [name for name, options in self.components.items() if getattr(options, capability)]

    def complete(self, node: Any) -> None:
        """Writes in place what a component's mapping leaves out.

        Beside ``_target_``, all entries that are no options of the kind itself are moved into ``arguments``.
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
        """`Options.problems` of a completed mapping."""
        yield from self.options(node).read(node).problems(where, config)

    def build(self, name: str, options: Config, where: str, offered: Config | None = None) -> Any:
        """The component.

        Args:
            name: In the configuration; "custom" for one of the user's own.
            options: What its builder is called with; for one of the user's own, ``_target_`` and ``arguments``.
            where: Dotted key of the component, for messages.
            offered: Further arguments, for builders that have parameters of these names.

        Raises:
            ConfigError: An unknown name, or what a user's component objects to by its own ``options``.
            SgoolError: Options that do not fit, or something that is no such component.
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
        """Raises a SgoolError that names what a component of the user's own lacks."""
        lacking = [part for part in self.parts if not hasattr(built, part)]
        if lacking:
            raise SgoolError(
                f"`{where}.{_TARGET}`: expected {self.word}, with {_listed(self.parts)}; what {path} makes lacks "
                f"{', '.join(lacking)} (see {self.docs})"
            )


def _listed(words: Sequence[str]) -> str:
    return choice(*words).expected.replace(" or ", " and ")


def _gather(node: dict[str, Any], kept: Sequence[str]) -> None:
    """Moves every entry that is not kept into ``arguments``."""
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
    """Calls what a dotted path names.

    A class or function may have an attribute ``options``, a dataclass derived from `sgool.config.options.Options`:
    then the arguments follow its rules, and its defaults are filled in.

    Args:
        path: ``MODULE.NAME``.
        arguments: Keyword arguments.
        where: Dotted key of the configuration, for messages.
        offered: Further arguments, passed only where there are parameters of these names.
        known_as: The component's name in the configuration, for messages; None: one of the user's own.

    Raises:
        ConfigError: Everything that its ``options`` object to.
        SgoolError: Nothing there, or arguments that do not fit.
    """
    make = locate(path, f"{where}._target_")
    arguments = _by_its_own_options(make, dict(arguments), where)
    given = list(arguments)
    try:
        signature = inspect.signature(make)
        for name, value in (offered or {}).items():
            if name in signature.parameters:
                arguments.setdefault(name, value)
    except ValueError:  # a builtin that does not say what it takes
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
    """The parameters that the configuration may set, as they are written in Python."""
    parameters = [entry for name, entry in signature.parameters.items() if name not in offered]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
