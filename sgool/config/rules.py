"""Rules for the values of the configuration, and the check of a value against them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sgool.config.quoting import list_override, quoted_override
from sgool.config.suggest import did_you_mean, known_keys, unknown_key

#: OmegaConf's mark of a value that the user must give.
MISSING = "???"


class Problem(NamedTuple):
    """One problem of a configuration: the dotted key and a sentence about it."""

    key: str
    text: str


@dataclass(frozen=True)
class Rule:
    """The rule for a single value: in words for the message, and as a test."""

    expected: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """A mapping with at least ``at_least`` entries, from names of the user's choice to values of one schema."""

    schema: Schema
    at_least: int = 0


@dataclass(frozen=True)
class Variants:
    """A mapping whose entry ``key`` says which of several schemas the other entries follow.

    Attributes:
        key: Name of the entry that selects the schema.
        schemas: Value of that entry -> schema of the other entries.
        default: Value that is used if the entry is missing; None: it must be there.
        unlisted: Values that messages do not offer, since users write them in another way.
        several: Whether the entry may also be a list of values; the other entries then follow all their schemas.
    """

    key: str
    schemas: Mapping[str, Mapping[str, Schema]]
    default: str | None = None
    unlisted: tuple[str, ...] = ()
    several: bool = False


Schema = Rule | Each | Variants | Mapping[str, "Schema"]


def integer(minimum: int) -> Rule:
    """Returns the rule for a whole number of at least ``minimum``."""
    return Rule(f"a whole number of at least {minimum}", lambda value: _is_int(value) and value >= minimum)


def number(
    *, above: float | None = None, least: float | None = None, below: float | None = None, most: float | None = None
) -> Rule:
    """Returns the rule for a finite number; ``above`` and ``below`` exclude their bound."""
    bounds = [
        (above, "above", lambda value, bound: value > bound),
        (least, "at least", lambda value, bound: value >= bound),
        (below, "below", lambda value, bound: value < bound),
        (most, "at most", lambda value, bound: value <= bound),
    ]
    given = [(bound, words, holds) for bound, words, holds in bounds if bound is not None]
    expected = " and ".join(f"{words} {bound:g}" for bound, words, _ in given)
    return Rule(
        f"a number {expected}".rstrip(),
        lambda value: _is_number(value) and all(holds(value, bound) for bound, _, holds in given),
    )


def flag() -> Rule:
    """Returns the rule for true or false."""
    return Rule("true or false", lambda value: isinstance(value, bool))


def text(expected: str | None = None, *, empty: bool = False) -> Rule:
    """Returns the rule for a text, which by default must not be empty; ``expected`` says what it is in the message."""
    expected = expected or ("a text" if empty else "a text that is not empty")
    return Rule(expected, lambda value: isinstance(value, str) and (empty or bool(value.strip())))


def choice(*options: str) -> Rule:
    """Returns the rule for one of a few words."""
    return Rule(" or ".join([", ".join(options[:-1]), options[-1]]).removeprefix(" or "), lambda v: v in options)


def matching(pattern: str, expected: str) -> Rule:
    """Returns the rule for a text that a regular expression matches as a whole."""
    return Rule(expected, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def dotted() -> Rule:
    """Returns the rule for the dotted path of a class or function."""
    return matching(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", "a dotted path such as my_module.score")


def mapping(content: str) -> Rule:
    """Returns the rule for a mapping whose entries are not checked here; ``content`` says what they are."""
    return Rule(f"a mapping of {content}", lambda value: isinstance(value, Mapping))


def list_of(item: Rule, *, at_least: int = 1) -> Rule:
    """Returns the rule for a list whose entries all follow one rule."""
    size = f" of at least {at_least}" if at_least > 1 else " that is not empty" if at_least else ""
    return Rule(
        f"a list{size}, each entry {item.expected}",
        lambda value: isinstance(value, list) and len(value) >= at_least and all(map(item.accepts, value)),
    )


def either(*rules: Rule) -> Rule:
    """Returns the rule that accepts what at least one of several rules accepts."""
    return Rule(", or ".join(rule.expected for rule in rules), lambda value: any(r.accepts(value) for r in rules))


def optional(rule: Rule) -> Rule:
    """Returns a rule that also accepts null."""
    return Rule(f"{rule.expected}, or null", lambda value: value is None or rule.accepts(value))


def check(value: Any, schema: Schema, key: str = "") -> list[Problem]:
    """Returns all problems of ``value``, found at the dotted ``key``, under ``schema``."""
    if isinstance(value, str) and value == MISSING:
        return [Problem(key, f"`{key}`: has no value yet; give one with {key}=VALUE")]
    if isinstance(schema, Rule):
        if schema.accepts(value):
            return []
        return [Problem(key, f"`{key}`: expected {schema.expected}, got {value!r}{_how_to_write(key, schema, value)}")]
    if not isinstance(value, Mapping):
        hint = (
            f"; a file chooses {value} by `- override /{key}: {value}` in its `defaults`"
            if _is_choice(key, value)
            else ""
        )
        return [Problem(key, f"`{key}`: expected a mapping, got {value!r}{hint}")]
    if isinstance(schema, Variants):
        return _check_variants(value, schema, key)
    if isinstance(schema, Each):
        return _check_each(value, schema, key)
    return _check_mapping(value, schema, key)


def rules_at(schema: Schema, key: str) -> list[Rule]:
    """Returns the rules that a dotted key may have: several where they depend on other keys, none if it is unknown."""
    if isinstance(schema, Rule):
        return [] if key else [schema]
    name, _, rest = key.partition(".")
    if isinstance(schema, Each):
        return rules_at(schema.schema, rest) if name else []
    if isinstance(schema, Variants):
        return [rule for variant in schema.schemas.values() for rule in rules_at(variant, key)]
    return rules_at(schema[name], rest) if name in schema else []


def _how_to_write(key: str, rule: Rule, value: Any) -> str:
    """Returns how the override is typed where a list or a text was meant, or an empty text."""
    if not isinstance(value, (list, Mapping)) and rule.accepts([value]):
        entries = ",".join(str(value).split()) if re.fullmatch(r"[\w ]+", str(value)) else str(value)
        return f"; a list is written {list_override(key, entries)}"
    # Texts that Hydra reads as something else, such as 2024 or [a].
    given = f"[{value[0]}]" if isinstance(value, list) and len(value) == 1 else str(value).lower()
    if isinstance(value, (bool, int, float, list)) and rule.accepts(given):
        return f"; a text like that is written {quoted_override(key, given)}"
    return ""


def _is_choice(key: str, value: Any) -> bool:
    return "." not in key and isinstance(value, str) and re.fullmatch(r"\w+", value) is not None


def _check_each(value: Mapping[str, Any], schema: Each, key: str) -> list[Problem]:
    problems = [found for name, entry in value.items() for found in check(entry, schema.schema, _join(key, name))]
    if len(value) < schema.at_least:
        problems.append(Problem(key, f"`{key}`: expected at least {schema.at_least} named entry, got {len(value)}"))
    return problems


def _check_variants(value: Mapping[str, Any], schema: Variants, key: str) -> list[Problem]:
    if schema.key not in value and schema.default is not None:
        return _check_mapping(value, schema.schemas[schema.default], key)
    name, at = value.get(schema.key), _join(key, schema.key)
    if schema.several and isinstance(name, list) and name and all(str(entry) in schema.schemas for entry in name):
        return _check_mapping(value, {schema.key: list_of(text()), **_union(schema, name)}, key)
    if not isinstance(name, str) or name not in schema.schemas:
        names = [known for known in schema.schemas if known not in schema.unlisted]
        hint = did_you_mean(str(name), names)
        return [Problem(at, f"`{at}`: expected {choice(*names).expected}, got {name!r}{hint}")]
    return _check_mapping(value, {schema.key: text(), **schema.schemas[name]}, key)


def _union(schema: Variants, names: list[str]) -> dict[str, Schema]:
    return {key: rule for name in names for key, rule in schema.schemas[name].items()}


def _check_mapping(value: Mapping[str, Any], schema: Mapping[str, Schema], key: str) -> list[Problem]:
    problems = []
    for name in value:
        if name not in schema:
            at = _join(key, name)
            problems.append(Problem(at, unknown_key(at, known_keys(schema, key))))
    for name, rule in schema.items():
        at = _join(key, name)
        problems += check(value[name], rule, at) if name in value else [Problem(at, f"`{at}`: is missing")]
    return problems


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))
