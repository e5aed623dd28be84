"""Finds the columns that a run reads, by a given name or by the names that public sets use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgool.config.aliases import SETTINGS

#: Usual names of the columns, in any case; the first that a file has is taken.
PROMPT_COLUMNS = ("prompt", "prompts", "text", "caption")
CATEGORY_COLUMNS = ("category", "phenomenon", "label")
SEED_COLUMNS = ("seed",)
NEGATIVE_COLUMNS = ("negative_prompt", "negative_prompts", "negative prompt")
PHRASE_COLUMNS = ("phrases",)


@dataclass(frozen=True)
class Found:
    """The columns of a table as it spells them; None where it has none."""

    prompt: str | None
    category: str | None
    seed: str | None
    negative_prompt: str | None
    phrases: str | None

    @property
    def read(self) -> tuple[str | None, ...]:
        """The columns that are read as something else than metadata."""
        return (self.prompt, self.category, self.seed, self.negative_prompt, self.phrases)


@dataclass(frozen=True)
class Columns:
    """The names of columns that the user has given, if any.

    Attributes:
        prompt: Name of the prompts' column; None: the first of `PROMPT_COLUMNS` that is there.
        category: Name of the categories' column; None: the first of `CATEGORY_COLUMNS`, if any is there.
        seed: Name of the column with each row's own seed; None: the first of `SEED_COLUMNS`, if any is there; empty:
            no column is read.
        negative_prompt: The same for each row's own negative prompt and `NEGATIVE_COLUMNS`.
        phrases: The same for each prompt's phrases and `PHRASE_COLUMNS`.
    """

    prompt: str | None = None
    category: str | None = None
    seed: str | None = None
    negative_prompt: str | None = None
    phrases: str | None = None

    @property
    def given(self) -> list[str]:
        """Dotted keys of the configuration for which the user has named a column."""
        return [f"data.{name}_column" for name in _ROLES if getattr(self, name)]

    def find(self, names: Iterable[str]) -> Found:
        """Returns the columns as ``names`` spells them."""
        spelled: dict[str, str] = {}
        for name in names:
            spelled.setdefault(str(name).strip().lower(), name)
        return Found(**{role: _first(self._wanted(role), spelled) for role in _ROLES})

    def _wanted(self, role: str) -> tuple[str, ...]:
        given = getattr(self, role)
        return _ROLES[role] if given is None else (given.strip().lower(),) if given else ()

    def unused_settings(self, names: Iterable[str]) -> list[str]:
        """Returns a phrase for each column that looks like a setting of a single prompt, which nothing reads."""
        columns = list(names)
        read = self.find(columns).read
        keys = {name: SETTINGS.get("_".join(str(name).lower().split())) for name in columns if name not in read}
        return [f"{shown_name(name)} (`{key}` counts for all prompts)" for name, key in keys.items() if key]

    def settings_beside(self, names: Iterable[str]) -> list[str]:
        """Returns those names, of keys beside a list of prompts, that look like a setting of all its prompts."""
        known = {*SETTINGS, *SEED_COLUMNS, *NEGATIVE_COLUMNS, *PHRASE_COLUMNS}
        return [shown_name(name) for name in names if str(name).strip().lower() in known]

    def problems(self, names: Sequence[str]) -> list[str]:
        """Returns the problems of a table that has these columns."""
        lowered = [name.strip().lower() for name in names]
        repeated = sorted({name for name in lowered if name and lowered.count(name) > 1})
        found = [f"columns with the same name: {', '.join(repeated)}"] if repeated else []
        if self.find(names).prompt is None:
            found.append(self.no_prompts(names))
        return found

    def no_prompts(self, names: Iterable[str]) -> str:
        """Returns the message for a file without a column of prompts."""
        wanted = "`data.prompt_column`: " if self.prompt is not None else ""
        hint = "; data.prompt_column=NAME names another, and a list of prompts without a header is a .txt file"
        expected = self.prompt if self.prompt is not None else " or ".join(PROMPT_COLUMNS)
        return f"{wanted}expected a column named {expected}, got {_listed(names)}{hint if self.prompt is None else ''}"

    def not_found(self, role: str, names: Iterable[str]) -> str:
        """Returns the message for a file without a column that the user has named, other than that of the prompts."""
        return f"`data.{role}_column`: expected a column named {getattr(self, role)}, got {_listed(names)}"


#: What a column can be read as -> the usual names.
_ROLES = {
    "prompt": PROMPT_COLUMNS,
    "category": CATEGORY_COLUMNS,
    "seed": SEED_COLUMNS,
    "negative_prompt": NEGATIVE_COLUMNS,
    "phrases": PHRASE_COLUMNS,
}


def _first(wanted: Iterable[str], spelled: Mapping[str, Any]) -> Any:
    return next((spelled[name] for name in wanted if name in spelled), None)


def shown_name(name: Any) -> str:
    """Returns a column's name for a message; if the file is no table at all, it may hold any characters."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def _listed(names: Iterable[str]) -> str:
    text = ", ".join(map(shown_name, names)) or "none"
    return text if len(text) <= 300 else text[:299] + "…"
