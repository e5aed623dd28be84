"""Turns the records of all file formats into the rows of a prompt set, and collects their problems."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sgool.prompts.columns import Columns, Found
from sgool.prompts.phrase_cells import read_phrases
from sgool.prompts.text import Problems, shown, text_problem

#: Columns whose text may be a scene in JSON, which is an object with a list `objects` that is not empty.
JSON_COLUMNS = ("scene",)
#: Choices for a prompt that occurs twice in a file, in the same category; see `read_prompts`.
DUPLICATES = ("error", "keep", "drop")
#: The valid seeds: those of torch's generators, which take 64 bits.
SEEDS = range(2**63)


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a file.

    Attributes:
        prompt: The prompt, stripped and never empty.
        index: Number among the file's prompts, from 0.
        category: The category, stripped; empty if the file has none.
        metadata: The other columns by their names, without empty cells; a ``scene`` is parsed from JSON.
        seed: The row's own seed, in [0, 2^63); None: `data.seeds` counts.
        negative_prompt: The row's own negative prompt, stripped; None: `data.negative_prompt` counts.
        phrases: The things that the prompt names, by the row's own column; None: `data.phrases` finds them.
    """

    prompt: str
    index: int
    category: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    seed: int | None = None
    negative_prompt: str | None = None
    phrases: tuple[str, ...] | None = None


class RowReader:
    """Turns records into rows one by one, and collects their problems.

    Args:
        columns: The columns that the user has named.
        problems: Collects the problems.
        duplicates: One of `DUPLICATES`.
    """

    def __init__(self, columns: Columns, problems: Problems, duplicates: str = "error") -> None:
        self.columns = columns
        self.problems = problems
        self.duplicates = duplicates
        self._first: dict[tuple[Any, ...], str] = {}
        self._repeated: list[str] = []
        self._keys: dict[str, None] = {}
        self._mappings = 0
        self._roles: set[str] = set()
        self._without_prompt: list[tuple[int, str]] = []
        self._found: dict[tuple[str, ...], Found] = {}

    def read(self, records: Iterable[tuple[int, Any]]) -> list[PromptRow]:
        """Returns the rows without those that have a problem; these count, so that the other indexes do not change.

        Args:
            records: Each record with its line number (0 where the format has none): a string, or a mapping from column
                to value.
        """
        rows = [self._row(line, record, index) for index, (line, record) in enumerate(records)]
        self._check_all(len(rows))
        good = [row for row in rows if row is not None]
        if unused := self.columns.unused_settings(self._keys):
            warnings.warn(f"{self.problems.path}: columns that are not used: {', '.join(unused)}", stacklevel=3)
        if self._repeated:
            some = ", ".join(self._repeated[:3]) + (", ..." if len(self._repeated) > 3 else "")
            warnings.warn(
                f"{self.problems.path}: left out {len(self._repeated)} repeated prompts: {some}", stacklevel=3
            )
        return good

    def _row(self, line: int, record: Any, index: int) -> PromptRow | None:
        where = "" if line else f"item {index + 1}: "
        if not isinstance(record, Mapping):
            return self._checked(PromptRow(record, index), line, where)
        found = self._find(record)
        if found.prompt is None:
            problem = f"{where}{self.columns.no_prompts(record)}".replace("a column", "a key", 1)
            self._without_prompt.append((line, problem))
            return None
        category = record.get(found.category)
        others = {str(key): value for key, value in record.items() if key not in found.read}
        row = PromptRow(
            record[found.prompt],
            index,
            "" if _is_nothing(category) else str(category).strip(),
            _metadata(others),
            self._seed(record.get(found.seed), line, where),
            self._negative_prompt(record.get(found.negative_prompt), line, where),
            self._phrases(record.get(found.phrases), line, where),
        )
        return self._checked(row, line, where)

    def _checked(self, row: PromptRow, line: int, where: str) -> PromptRow | None:
        """Returns the row with its prompt stripped; None if it is left out or has a problem, which is collected."""
        if not isinstance(row.prompt, str):
            self.problems.add(line, f"{where}expected a prompt's text, got {shown(row.prompt)}")
            return None
        row = replace(row, prompt=row.prompt.strip())
        return row if self._is_good(row, line, where) else None

    def _seed(self, value: Any, line: int, where: str) -> int | None:
        """Reads a row's own seed; None where its cell is empty."""
        text = value.strip() if isinstance(value, str) else value
        if _is_nothing(text) or text == "":
            return None
        # Tables that a library has written with empty cells have their whole numbers as 42.0.
        whole = isinstance(text, float) and text.is_integer()
        if isinstance(text, str) and re.fullmatch(r"\d+(\.0+)?", text, re.ASCII):
            text, whole = text.partition(".")[0], True
        number = int(text) if whole else text
        if type(number) is int and number in SEEDS:
            return number
        self.problems.add(
            line,
            f"{where}seed: expected a whole number from 0 to 2^63 - 1, got {shown(value)}; leave the cell empty for "
            "the seeds of data.seeds, or let data.seed_column='' take these for all prompts",
        )
        return None

    def _negative_prompt(self, value: Any, line: int, where: str) -> str | None:
        """Reads a row's own negative prompt; None where its cell is empty."""
        if _is_nothing(value):
            return None
        problem = text_problem(value.strip()) if isinstance(value, str) else f"expected text, got {shown(value)}"
        if problem:
            self.problems.add(line, f"{where}negative prompt: {problem}")
            return None
        return value.strip() or None

    def _phrases(self, value: Any, line: int, where: str) -> tuple[str, ...] | None:
        """Reads a row's own phrases; None where its cell is empty."""
        phrases, problems = read_phrases(value)
        for problem in problems:
            self.problems.add(line, f"{where}phrases: {problem}")
        return phrases

    def _find(self, record: Mapping[str, Any]) -> Found:
        """Finds the keys that are read, once per set of keys, since all rows of a table have the same ones."""
        self._mappings += 1
        names = tuple(record)
        if names not in self._found:
            found = self._found[names] = self.columns.find(names)
            self._keys.update(dict.fromkeys(names))
            self._roles |= {role for role, name in vars(found).items() if name is not None}
        return self._found[names]

    def _is_good(self, row: PromptRow, line: int, where: str) -> bool:
        """Whether the row is kept; if it has a problem, that is collected."""
        problem = "empty prompt" if not row.prompt else text_problem(row.prompt)
        if problem:
            self.problems.add(line, f"{where}{problem}")
        category_problem = text_problem(row.category)
        if category_problem:
            self.problems.add(line, f"{where}category: {category_problem}")
        if problem or category_problem or self.duplicates == "keep":
            return not (problem or category_problem)
        place = f"line {line}" if line else f"item {row.index + 1}"
        # The same prompt with another seed or negative prompt of its own is another problem.
        same = (row.prompt, row.category, row.seed, row.negative_prompt)
        first = self._first.get(same)
        if first is None:
            self._first[same] = place
            return True
        if self.duplicates == "drop":
            self._repeated.append(shown(row.prompt))
        else:
            self.problems.add(
                line,
                f"{where}{shown(row.prompt)} repeats {first}; data.duplicates=drop leaves repetitions out, "
                "data.duplicates=keep runs them",
            )
        return False

    def _check_all(self, number: int) -> None:
        """Collects the problems that only all records together show."""
        given = self.columns.given
        if not self._mappings and number and given:
            self.problems.add(0, f"{' and '.join(f'`{key}`' for key in given)}: there are no columns, only prompts")
        for role in ("category", "seed", "negative_prompt", "phrases"):
            if self._mappings and role not in self._roles and getattr(self.columns, role):
                self.problems.add(0, self.columns.not_found(role, self._keys))
        if self._mappings > 1 and len(self._without_prompt) == self._mappings:
            self.problems.add(0, self.columns.no_prompts(self._keys))
        else:
            for line, problem in self._without_prompt:
                self.problems.add(line, problem)
        if not number and not self.problems:
            self.problems.add(0, "expected at least one prompt, found none")


def _is_nothing(value: Any) -> bool:
    """Whether a cell is empty: None, or NaN in tables with numbers."""
    return value is None or value != value


def _metadata(others: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {}
    for name, value in others.items():
        if isinstance(value, str):
            value = value.strip()
        if _is_nothing(value) or value == "" or not name.strip():
            continue
        if name.strip().lower() in JSON_COLUMNS and isinstance(value, str):
            value = _scene(value)
        metadata[name.strip()] = value
    return metadata


def _scene(text: str) -> Any:
    """Returns the scene that a cell holds, or the text as it is if it holds no scene."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict) and isinstance(value.get("objects"), list) and value["objects"]:
        return value
    return text
