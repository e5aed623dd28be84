"""Finds the columns of prompts and categories, by a given name or by the names that public sets use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Usual names of the columns, in any case; the first that a file has is taken.
PROMPT_COLUMNS = ("prompt", "prompts", "text", "caption")
CATEGORY_COLUMNS = ("category", "phenomenon", "label")


@dataclass(frozen=True)
class Columns:
    """The names of columns that the user has given, if any.

    Attributes:
        prompt: Name of the prompts' column; None: the first of `PROMPT_COLUMNS` that is there.
        category: Name of the categories' column; None: the first of `CATEGORY_COLUMNS`, if any is there.
    """

    prompt: str | None = None
    category: str | None = None

    @property
    def given(self) -> list[str]:
        """Dotted keys of the configuration for which the user has named a column."""
        keys = {"data.prompt_column": self.prompt, "data.category_column": self.category}
        return [key for key, name in keys.items() if name is not None]

    def find(self, names: Iterable[str]) -> tuple[str | None, str | None]:
        """Returns the columns of prompt and category as ``names`` spells them; None where there is none."""
        spelled: dict[str, str] = {}
        for name in names:
            spelled.setdefault(str(name).strip().lower(), name)
        prompt = PROMPT_COLUMNS if self.prompt is None else (self.prompt.strip().lower(),)
        category = CATEGORY_COLUMNS if self.category is None else (self.category.strip().lower(),)
        return _first(prompt, spelled), _first(category, spelled)

    def problems(self, names: Sequence[str]) -> list[str]:
        """Returns the problems of a table that has these columns."""
        lowered = [name.strip().lower() for name in names]
        repeated = sorted({name for name in lowered if name and lowered.count(name) > 1})
        found = [f"columns with the same name: {', '.join(repeated)}"] if repeated else []
        if self.find(names)[0] is None:
            found.append(self.no_prompts(names))
        return found

    def no_prompts(self, names: Iterable[str]) -> str:
        """Returns the message for a file without a column of prompts."""
        wanted = "`data.prompt_column`: " if self.prompt is not None else ""
        hint = "; data.prompt_column=NAME names another, and a list of prompts without a header is a .txt file"
        expected = self.prompt if self.prompt is not None else " or ".join(PROMPT_COLUMNS)
        return f"{wanted}expected a column named {expected}, got {_listed(names)}{hint if self.prompt is None else ''}"

    def no_categories(self, names: Iterable[str]) -> str:
        """Returns the message for a file without the column of categories that the user has named."""
        return f"`data.category_column`: expected a column named {self.category}, got {_listed(names)}"


def _first(wanted: Iterable[str], spelled: Mapping[str, Any]) -> Any:
    return next((spelled[name] for name in wanted if name in spelled), None)


def _listed(names: Iterable[str]) -> str:
    # If the file is no table at all, its names may be long and hold any characters.
    shown = [name if name.isprintable() else ascii(name) for name in map(str, names)]
    text = ", ".join(shown) or "none"
    return text if len(text) <= 300 else text[:299] + "…"
