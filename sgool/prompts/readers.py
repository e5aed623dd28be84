"""Prompt files: CSV, TSV, JSON, JSON Lines and plain text, all to the same rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgool.paths import prompt_file
from sgool.prompts.text import Problems, read_text

#: Names of the columns, upper and lower case alike; the first that a file has is taken.
PROMPT_COLUMNS = ("prompt", "prompts", "text", "caption")
CATEGORY_COLUMNS = ("category", "phenomenon", "label")
#: Columns whose text may be a scene in JSON: an object with a list `objects` that is not empty.
JSON_COLUMNS = ("scene",)
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt")


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a file.

    Attributes:
        prompt: Stripped, never empty.
        index: Position among the file's prompts, from 0.
        category: Stripped; empty if the file has none.
        metadata: The other columns by their names; a scene in ``scene`` parsed from JSON, empty cells left out.
    """

    prompt: str
    index: int
    category: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)


def read_prompts(source: str | Path) -> list[PromptRow]:
    """Reads a prompt file or a built-in prompt set.

    CSV and TSV need a header; JSON is a list (or an object with such a list under ``prompts``) of strings or objects,
    JSON Lines has one of these a line; in plain text each line is a prompt. Empty lines are skipped.

    Args:
        source: Path with one of `SUFFIXES`, or a built-in set such as "emoji_world/demo".

    Raises:
        ConfigError: All problems of the file with their line numbers: no such file, unknown format, wrong encoding, no
            prompt column, empty prompts, cells that do not fit the header, malformed JSON.
    """
    path = prompt_file(source)
    problems = Problems(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        problems.add(
            0, f"expected a prompt file with one of the suffixes {', '.join(SUFFIXES)}, got {suffix or 'none'}"
        )
        problems.raise_if_any()
    text = read_text(path, problems)
    rows = [
        _row(line, record, index, problems) for index, (line, record) in enumerate(_records(text, suffix, problems))
    ]
    if not rows and not problems:
        problems.add(0, "expected at least one prompt, found none")
    problems.raise_if_any()
    return rows


def _records(text: str, suffix: str, problems: Problems) -> Iterator[tuple[int, Any]]:
    """Line numbers (for JSON lists: 0) with a string, or a mapping from column to value."""
    if suffix in (".csv", ".tsv"):
        return _table(text, "," if suffix == ".csv" else "\t", problems)
    if suffix == ".json":
        return _json_list(text, problems)
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    return _json_lines(lines, problems) if suffix in (".jsonl", ".ndjson") else lines


def _table(text: str, delimiter: str, problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            # A quoted cell may span lines: the row starts after the end of the one before.
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells) and (header is None or len(cells) <= 1):
                continue
            if header is None:
                header = _header(cells, start, problems)
                if header is None:
                    return
            elif len(cells) > len(header):
                problems.add(start, f"{len(cells)} cells, but the header has {len(header)}; put quotes around commas")
                yield start, dict(zip(header, cells, strict=False))
            else:
                yield start, dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=True))
    except csv.Error as error:
        problems.add(line, f"cannot be read as a table ({error})")


def _header(cells: list[str], line: int, problems: Problems) -> list[str] | None:
    names = [cell.strip() for cell in cells]
    lowered = [name.lower() for name in names]
    repeated = sorted({name for name in lowered if name and lowered.count(name) > 1})
    if repeated:
        problems.add(line, f"columns with the same name: {', '.join(repeated)}")
    if not any(name in PROMPT_COLUMNS for name in lowered):
        problems.add(
            line,
            f"expected a column named {' or '.join(PROMPT_COLUMNS)}, got {', '.join(names)}; a list of prompts without "
            "a header is a .txt file",
        )
        return None
    return names


def _json_list(text: str, problems: Problems) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        problems.add(getattr(error, "lineno", 0), f"malformed JSON ({getattr(error, 'msg', error)})")
        return
    if isinstance(content, dict):
        content = _pick(content, PROMPT_COLUMNS)[1]
    if not isinstance(content, list):
        problems.add(0, "expected a JSON list of prompts, or an object with one under `prompts`")
        return
    for record in content:
        yield 0, record


def _json_lines(lines: Iterator[tuple[int, str]], problems: Problems) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        try:
            yield number, json.loads(line)
        except ValueError as error:
            problems.add(number, f"malformed JSON ({getattr(error, 'msg', error)})")


def _row(line: int, record: Any, index: int, problems: Problems) -> PromptRow:
    """One record; what is wrong with it is noted, and the row then has an empty prompt."""
    where = "" if line else f"item {index + 1}: "
    if isinstance(record, Mapping):
        prompt_key, prompt = _pick(record, PROMPT_COLUMNS)
        category_key, category = _pick(record, CATEGORY_COLUMNS)
        others = {str(key): value for key, value in record.items() if key not in (prompt_key, category_key)}
        metadata = _metadata(others)
    else:
        prompt_key, prompt, category, metadata = "prompt", record, "", {}
    if prompt_key is None:
        problems.add(
            line, f"{where}expected a key named {' or '.join(PROMPT_COLUMNS)}, got {', '.join(record) or 'none'}"
        )
    elif not isinstance(prompt, str):
        problems.add(line, f"{where}expected a prompt's text, got {prompt!r}")
    elif not prompt.strip():
        problems.add(line, f"{where}empty prompt")
    text = prompt.strip() if isinstance(prompt, str) else ""
    return PromptRow(text, index, "" if category is None else str(category).strip(), metadata)


def _pick(record: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str | None, Any]:
    """The first of ``names`` that the record has, as the record spells it, with its value."""
    spelled = {str(key).strip().lower(): key for key in record}
    for name in names:
        if name in spelled:
            return spelled[name], record[spelled[name]]
    return None, None


def _metadata(others: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {}
    for name, value in others.items():
        if isinstance(value, str):
            value = value.strip()
        if value is None or value == "" or not name.strip():
            continue
        if name.strip().lower() in JSON_COLUMNS and isinstance(value, str):
            value = _scene(value)
        metadata[name.strip()] = value
    return metadata


def _scene(text: str) -> Any:
    """The scene that a cell holds; the text as it is where it is something else of the user's own."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, dict) and isinstance(value.get("objects"), list) and value["objects"]:
        return value
    return text
