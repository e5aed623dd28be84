"""Which column holds the prompts, which the categories: by name, or by the names that public sets use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Names of the columns, upper and lower case alike; the first that a file has is taken.
PROMPT_COLUMNS = ("prompt", "prompts", "text", "caption")
CATEGORY_COLUMNS = ("category", "phenomenon", "label")


@dataclass(frozen=True)
class Columns:
    """The names that were asked for.

    Attributes:
        prompt: Name of the prompts' column; None: the first of `PROMPT_COLUMNS` that is there.
        category: Name of the categories' column; None: the first of `CATEGORY_COLUMNS`, if any is there.
    """

    prompt: str | None = None
    category: str | None = None

    @property
    def given(self) -> list[str]:
        """Keys of the configuration that name a column."""
        keys = {"data.prompt_column": self.prompt, "data.category_column": self.category}
        return [key for key, name in keys.items() if name is not None]

    def find(self, names: Iterable[str]) -> tuple[str | None, str | None]:
        """The columns of prompt and category as ``names`` spells them; None: there is none."""
        spelled: dict[str, str] = {}
        for name in names:
            spelled.setdefault(str(name).strip().lower(), name)
        prompt = PROMPT_COLUMNS if self.prompt is None else (self.prompt.strip().lower(),)
        category = CATEGORY_COLUMNS if self.category is None else (self.category.strip().lower(),)
        return _first(prompt, spelled), _first(category, spelled)

    def problems(self, names: Sequence[str]) -> list[str]:
        """What is wrong with a table that has these columns."""
        lowered = [name.strip().lower() for name in names]
        repeated = sorted({name for name in lowered if name and lowered.count(name) > 1})
        found = [f"columns with the same name: {', '.join(repeated)}"] if repeated else []
        if self.find(names)[0] is None:
            found.append(self.no_prompts(names))
        return found

    def no_prompts(self, names: Iterable[str]) -> str:
        """The message for a file without the column of prompts."""
        wanted = "`data.prompt_column`: " if self.prompt is not None else ""
        hint = "; data.prompt_column=NAME names another, and a list of prompts without a header is a .txt file"
        expected = self.prompt if self.prompt is not None else " or ".join(PROMPT_COLUMNS)
        return f"{wanted}expected a column named {expected}, got {_listed(names)}{hint if self.prompt is None else ''}"

    def no_categories(self, names: Iterable[str]) -> str:
        """The message for a file without the column of categories that was asked for."""
        return f"`data.category_column`: expected a column named {self.category}, got {_listed(names)}"


def _first(wanted: Iterable[str], spelled: Mapping[str, Any]) -> Any:
    return next((spelled[name] for name in wanted if name in spelled), None)


def _listed(names: Iterable[str]) -> str:
    # Names of a file that is no table at all may be long, and hold anything.
    shown = [name if name.isprintable() else ascii(name) for name in map(str, names)]
    text = ", ".join(shown) or "none"
    return text if len(text) <= 300 else text[:299] + "…"
