"""A mkdocs hook: a page of every configuration key, made from the YAML files' comments while the site is built.

``python docs/make_config_reference.py`` prints the pages. A key's meaning is the comment above it; where a file has
none, that of the same key in another file. What a key may be comes from the rules that check it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
#: Group -> what stands before its files' keys in the configuration, where that is not the group's own name.
PREFIXES = {"": "", "experiment": "", "judges": "models.judges.", "match": "saliency.", "method": "method.NAME."}
#: Keys below which users choose the names.
NAMED = re.compile(r"^(objective\.terms|models\.judges|method)\.\w+")
_ELSEWHERE = re.compile(r"(?:As in|See) (\w+)\.yaml\.")


@dataclass(frozen=True)
class Key:
    """One key of a file: dotted as in the whole configuration, its value as it is written, the comment above it."""

    name: str
    value: str
    comment: str


@dataclass(frozen=True)
class Choice:
    """One file of configs/."""

    group: str
    name: str
    about: str
    keys: tuple[Key, ...]
    text: str


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each group of the configuration and one for the whole."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"reference/config/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Returns the pages' Markdown by name: "index", and each group.

    Raises:
        ValueError: A key has no comment in any file.
    """
    choices = read_all()
    leaves = [key for choice in choices for key in choice.keys if key.value]
    lacking = sorted({key.name for key in leaves if not meaning(key, choices)})
    if lacking:
        raise ValueError(f"configs/: no file has a comment for {', '.join(lacking)}")
    groups = sorted({choice.group for choice in choices if choice.group})
    made = {group: _group_page(group, choices) for group in groups}
    return {"index": _index(choices, groups), **made}


@cache
def read_all() -> tuple[Choice, ...]:
    """Reads every file of configs/: first those that config.yaml chooses, last the experiments."""
    defaults = _shipped_defaults()

    def place(path: Path) -> tuple[bool, bool, Path]:
        group = path.parent.name
        return group == "experiment", defaults.get(group) != path.stem, path

    return tuple(_read(path) for path in sorted(CONFIGS.rglob("*.yaml"), key=place))


def _read(path: Path) -> Choice:
    group = path.parent.relative_to(CONFIGS).as_posix().replace(".", "")
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    body = [line for line in lines if not line.startswith("# @package")]
    about = _comment(body, next((i for i, line in enumerate(body) if not line.startswith("#")), len(body)))
    tree = yaml.compose(text)
    keys = tuple(_keys(tree, text, lines, PREFIXES.get(group, f"{group}.")))
    if keys and about and keys[0].comment == about:  # the file's own comment, right above its first key
        keys = (Key(keys[0].name, keys[0].value, ""), *keys[1:])
    return Choice(group, path.stem, about, keys, text)


def _keys(node: Any, text: str, lines: list[str], prefix: str) -> Iterator[Key]:
    for key, value in node.value:
        if key.value == "defaults" and key.start_mark.column == 0:  # Hydra's
            continue
        written = " ".join(text[value.start_mark.index : value.end_mark.index].split())
        name = NAMED.sub(r"\1.NAME", f"{prefix}{key.value}")
        block = isinstance(value, yaml.MappingNode) and not value.flow_style and name != "models.components"
        yield Key(name, "" if block else written, _comment(lines, key.start_mark.line))
        if block:
            yield from _keys(value, text, lines, f"{name}.")


def _comment(lines: list[str], end: int) -> str:
    """Returns the comment that ends above a line, as one text."""
    start = end
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    words = [line.strip().lstrip("#").strip() for line in lines[start:end] if "# @package" not in line]
    return " ".join(words)


def meaning(key: Key, choices: tuple[Choice, ...]) -> str:
    """Returns what a key means: its own comment, or that of the same key in another file."""
    own = key.comment
    if own and not _ELSEWHERE.fullmatch(own):
        return own
    # A method's own value of a setting of the run means the same.
    names = (key.name, key.name.removeprefix("method.NAME."))
    found = (other.comment for choice in choices for other in choice.keys if other.name in names)
    return next((text for text in found if text and not _ELSEWHERE.fullmatch(text)), "")


def _index(choices: tuple[Choice, ...], groups: list[str]) -> str:
    top = next(choice for choice in choices if not choice.group)
    defaults = _defaults(top.text)
    rows = [
        f"| [`{group}`]({group}.md) | {_chosen(defaults.get(group))} | "
        f"{', '.join(f'`{choice.name}`' for choice in choices if choice.group == group)} |"
        for group in groups
    ]
    return "\n".join(
        [
            "# Configuration keys\n",
            "This page and those of the groups are made from the comments of the files in `configs/`. "
            "[Configuration](../../configuration.md) explains how values are given; `sgool fit --cfg` prints the whole "
            "configuration of a command.\n",
            "## Groups\n",
            "`GROUP=CHOICE` takes a file of a group.\n",
            "| group | by default | choices |\n|---|---|---|",
            *rows,
            "",
            "## Keys at the top\n",
            *_list(top.keys, choices),
            "",
        ]
    )


def _group_page(group: str, choices: tuple[Choice, ...]) -> str:
    own = sorted((choice for choice in choices if choice.group == group), key=lambda choice: choice.name)
    default = _defaults(next(choice.text for choice in choices if not choice.group)).get(group)
    # Who searches for a key wants its page before others that name it.
    parts = ["---\nsearch:\n  boost: 4\n---\n", f"# {group}\n", f"{_how(group, own, default)}\n"]
    if group != "experiment":
        parts += ["## Keys\n", *_list(_united(own), choices, own)]
    parts.append("## Choices\n")
    for choice in own:
        parts += [
            f"### {group}={choice.name}\n",
            f"{_linked(choice.about)}\n",
            f"```yaml\n{_plain(choice.text)}\n```\n",
        ]
    return "\n".join(parts)


def _how(group: str, own: list[Choice], default: str | None) -> str:
    if group == "method":
        return (
            "All methods that ship are composed, and `methods` says which of them run: `'methods=[vanilla,sgool]'`. "
            "NAME is the method's name. [Methods](../../methods.md) explains them."
        )
    chosen = "by default none is" if default in (None, "null") else f"the default is `{default}`"
    return f"`{group}=CHOICE` takes one of these files; {chosen}."


def _united(own: list[Choice]) -> list[Key]:
    """Returns every key of a group's files once, those of the default choice first."""
    found: dict[str, Key] = {}
    for choice in sorted(own, key=lambda choice: read_all().index(choice)):
        for key in choice.keys:
            found.setdefault(key.name, key)
    return list(found.values())


def _list(keys: Any, choices: tuple[Choice, ...], own: list[Choice] | None = None) -> list[str]:
    """Returns a definition list: each key with its meaning, and below it its default and what it may be."""
    lines: list[str] = []
    for key in keys:
        if not meaning(key, choices):  # a mapping, which its keys explain
            continue
        text = _escaped(_linked(meaning(key, choices)) + _only(key, own or []))
        default, rule = _default(key, own), allowed(key.name)
        facts = [f"Default: {default}."] if default else []
        facts += [f"May be: {_escaped(rule)}."] if rule else []
        lines += [f"`{key.name}`{{ #{key.name} }}", f":   {text}", ""]
        lines += [f"    {' '.join(facts)}", "    { .sgool-facts }", ""] if facts else []
    return lines


def _only(key: Key, own: list[Choice]) -> str:
    """Returns which files have a key, where only some of a group have it."""
    having = [choice.name for choice in own if any(other.name == key.name for other in choice.keys)]
    # A file that begins with another one has that one's keys too.
    some = len(having) * 2 < len(own) and not any("\ndefaults:\n" in choice.text for choice in own)
    return f" Only in {', '.join(f'`{name}`' for name in having)}." if some else ""


def _default(key: Key, own: list[Choice] | None) -> str:
    """Returns a key's value in the default choice, or in all files that have it if they agree."""
    if own is None or key in next((choice.keys for choice in read_all() if choice in own and _is_default(choice)), ()):
        return _value(key.value)
    values = {other.value for choice in own for other in choice.keys if other.name == key.name}
    return _value(key.value) if len(values) == 1 else "as chosen"


def _is_default(choice: Choice) -> bool:
    return _shipped_defaults().get(choice.group) == choice.name


@cache
def _shipped_defaults() -> dict[str, str]:
    return _defaults((CONFIGS / "config.yaml").read_text(encoding="utf-8"))


def allowed(name: str) -> str:
    """Returns in words what a key may be, by the rules that check it; empty where several keys stand below it."""
    from sgool.run.config.schema import SCHEMA

    own = name.removeprefix("method.NAME.") if re.match(r"method\.NAME\.(optimization|saliency)\.", name) else name
    found = list(dict.fromkeys(_expected(SCHEMA, own.split("."))))
    return " or ".join(rule for rule in found if f"{rule}, or null" not in found)


def _expected(schema: Any, path: list[str]) -> Iterator[str]:
    from sgool.config.rules import Each, Rule, Variants

    if isinstance(schema, Rule):
        if not path:
            yield schema.expected
    elif isinstance(schema, Each):
        if path:
            yield from _expected(schema.schema, path[1:])
    elif isinstance(schema, Variants):
        if path == [schema.key]:
            yield ", ".join(f"`{name}`" for name in schema.schemas if name not in schema.unlisted)
        for variant in schema.schemas.values():
            yield from _expected(variant, path)
    elif path and path[0] in schema:
        yield from _expected(schema[path[0]], path[1:])


def _defaults(text: str) -> dict[str, str]:
    """Returns the choices that configs/config.yaml makes."""
    entries = [entry for entry in yaml.safe_load(text)["defaults"] if isinstance(entry, dict)]
    return {group: str(name or "null") for entry in entries for group, name in entry.items() if "@" not in group}


def _chosen(name: str | None) -> str:
    return "none" if name in (None, "null") else f"`{name}`"


def _plain(text: str) -> str:
    """Returns a file's keys without its comments."""
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#") or "# @package" in line]
    return "\n".join(kept).strip()


def _value(written: str) -> str:
    if not written:
        return ""
    if written == "???":
        return "to be given"
    if choice := re.fullmatch(r'"?\$\{oc\.select:([\w.]+),(.*)\}"?', written):
        return f"`{choice[1]}`, else `{choice[2]}`"
    if same := re.fullmatch(r'"?\$\{([\w.]+)\}"?', written):
        return f"as `{same[1]}`"
    return f"`{written}`"


def _linked(text: str) -> str:
    """Returns a comment with the names of pages as links."""
    return re.sub(r"docs/([\w/-]+)\.md", r"[\1](../../\1.md)", text)


def _escaped(text: str) -> str:
    """Returns a text in which nothing is Markdown's but links and code."""
    parts = re.split(r"(`[^`]*`|\[[\w/-]+\]\([./\w-]+\))", text)
    escape = re.compile(r"([*_<>\[\]{}~])")
    return "".join(part if index % 2 else escape.sub(r"\\\1", part) for index, part in enumerate(parts))


if __name__ == "__main__":
    print("\n\n".join(pages().values()))
