"""Reads prompt files (CSV, TSV, JSON, JSON Lines, plain text, Parquet) and data sets of the hub as the same rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgool.config.paths import TEXT, prompt_file
from sgool.errors import ConfigError
from sgool.prompts.columns import Columns
from sgool.prompts.hub import dataset_records, is_dataset
from sgool.prompts.parquet import parquet_records
from sgool.prompts.rows import DUPLICATES, PromptRow, RowReader
from sgool.prompts.text import Problems, read_text
from sgool.prompts.text_folders import folder_records, text_files

_TEXT_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
#: Suffixes of prompt files; those of text files may be followed by .gz.
SUFFIXES = (*_TEXT_SUFFIXES, ".parquet")


def read_prompts(
    source: str | Path,
    *,
    prompt_column: str | None = None,
    category_column: str | None = None,
    seed_column: str | None = None,
    negative_prompt_column: str | None = None,
    phrases_column: str | None = None,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    duplicates: str = "error",
) -> list[PromptRow]:
    """Reads a prompt file, a built-in prompt set, or a data set of the `datasets` library.

    CSV and TSV need a header; a CSV may have semicolons in place of commas. JSON is a list of strings or objects,
    or an object with such a list under ``prompts``.
    JSON Lines has one string or object a line. In plain text each line is a prompt. Empty lines are skipped.

    Args:
        source: Path with one of `SUFFIXES`; a built-in set such as "emoji_world/demo"; "hub:OWNER/NAME"; the folder of
            a data set, as saved by ``save_to_disk`` or with files that ``datasets.load_dataset`` reads; a folder of
            text files or JSON lists of texts, whose names become the column ``file``; or "text:" and prompts, one a
            line.
        prompt_column: Name of the prompts' column; None: one of the usual names, see `sgool.prompts.columns`.
        category_column: Name of the categories' column, which a set need not have; None: one of the usual names.
        seed_column: Name of the column with each row's own seed; None: ``seed``, if there is one; empty: none is read.
        negative_prompt_column: The same for negative prompts and ``negative_prompt``.
        phrases_column: The same for the things that each prompt names and ``phrases``.
        split: Split of a data set; None: the only one. Prompt files ignore this and the next two arguments.
        subset: Subset of a data set (its "config"); None: the default one.
        revision: Branch, tag or commit of a hub data set; None: the newest.
        duplicates: What to do with a prompt that occurs twice in one category. "error": raise an error. "keep": keep
            both. "drop": leave out all but the first, with a warning. The indexes of other prompts never change. Rows
            with different seeds or negative prompts of their own do not repeat each other.

    A warning names columns that look like settings of a single prompt, such as ``guidance_scale``: nothing reads them.

    Raises:
        ConfigError: All problems of the file with their line numbers: no such file, unknown format, wrong encoding, no
            such column, empty, repeated or over-long prompts, control characters, cells that do not fit the header,
            malformed JSON. For a data set: a missing library, no network, no such set, subset or split.
    """
    if duplicates not in DUPLICATES:
        raise ConfigError([f"`data.duplicates`: expected {', '.join(DUPLICATES)}, got {duplicates!r}"])
    columns = Columns(prompt_column, category_column, seed_column, negative_prompt_column, phrases_column)
    records: Iterator[tuple[int, Any]]
    # With a split, a folder of text files is read by the `datasets` library, which makes splits of their names.
    if split is None and (texts := text_files(source)):
        problems = Problems(str(source))
        records = folder_records(texts, problems)
    elif is_dataset(source):
        problems = Problems(str(source))
        records = dataset_records(source, split, subset, revision, columns, problems)
    elif str(source).startswith(TEXT):
        problems = Problems("`data.prompts`")
        records = _lines(str(source).removeprefix(TEXT))
    else:
        path = prompt_file(source)
        problems = Problems(path)
        records = _file_records(path, columns, problems)
    rows = RowReader(columns, problems, duplicates).read(records)
    problems.raise_if_any()
    return rows


def format_of(path: Path) -> str:
    """Returns the suffix that says how to read a file, in lower case and without .gz."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _file_records(path: Path, columns: Columns, problems: Problems) -> Iterator[tuple[int, Any]]:
    """Yields each record with its line number (0 for JSON lists and Parquet): a string, or a mapping of columns."""
    suffix = format_of(path)
    if suffix not in SUFFIXES or (suffix == ".parquet" and path.suffix.lower() == ".gz"):
        expected = (
            f"expected a prompt file with one of the suffixes {', '.join(SUFFIXES)} (those of text also with .gz)"
        )
        problems.add(0, f"{expected}, got {path.suffix.lower() or 'none'}")
        return iter(())
    if suffix == ".parquet":
        return parquet_records(path, columns, problems)
    text = read_text(path, problems)
    if suffix in (".csv", ".tsv"):
        return _table(text, _delimiter(text, "," if suffix == ".csv" else "\t", columns), columns, problems)
    if suffix == ".json":
        return _json_list(text, columns, problems)
    lines = _lines(text)
    return _json_lines(lines, problems) if suffix in (".jsonl", ".ndjson") else lines


def _lines(text: str) -> Iterator[tuple[int, str]]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _table(text: str, delimiter: str, columns: Columns, problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
    lines = io.StringIO(text, newline="")
    if delimiter == "\t" and _is_unquoted(text):
        reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            # A quoted cell may span lines, so a row starts after the end of the row before.
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells) and (header is None or len(cells) <= 1):
                continue
            if header is None:
                header = _header(cells, start, columns, problems)
                if header is None:
                    return
                continue
            if len(cells) != len(header):
                problems.add(start, _other_width(len(cells), len(header), _DELIMITERS[delimiter]))
                if columns.find(header).prompt not in header[: len(cells)]:
                    continue
            # Where cells are missing, the rest of the row is checked all the same.
            yield start, dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=False))
    except csv.Error as error:
        problems.add(line, f"cannot be read as a table ({error})")


def _other_width(cells: int, header: int, delimiters: str) -> str:
    mend = f"put quotes around {delimiters}" if cells > header else f"keep the {delimiters} of empty cells"
    return f"{cells} cell{'s' * (cells != 1)}, but the header has {header}; {mend}"


def _delimiter(text: str, usual: str, columns: Columns) -> str:
    """Returns what separates a table's cells: another character than usual only if it alone finds the prompts.

    Spreadsheets of many countries write a CSV with semicolons, since they write numbers with commas.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in (usual, *(other for other in _DELIMITERS if other != usual)):
        names = next(csv.reader([first], delimiter=delimiter), [])
        if columns.find([name.strip() for name in names]).prompt is not None:
            return delimiter
    return usual


def _is_unquoted(text: str) -> bool:
    """Whether a TSV file can be read as a table only if its quotes are taken as text, as in some public sets."""
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True):
            pass
    except csv.Error:
        widths = {line.count("\t") for line in text.split("\n") if line.strip()}
        return len(widths) == 1 and widths != {0}
    return False


def _header(cells: list[str], line: int, columns: Columns, problems: Problems) -> list[str] | None:
    names = [cell.strip() for cell in cells]
    for problem in columns.problems(names):
        problems.add(line, problem)
    return None if columns.find(names).prompt is None else names


def _json_list(text: str, columns: Columns, problems: Problems) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.add(getattr(error, "lineno", 0), f"malformed JSON ({getattr(error, 'msg', error)})")
        return
    if isinstance(content, dict):
        beside = columns.settings_beside(content)
        if beside:
            mend = "give each prompt its own, or set it in the configuration"
            problems.add(0, f"{', '.join(beside)} beside the list of prompts, where nothing reads it: {mend}")
        content = content.get(Columns().find(content).prompt)
    if not isinstance(content, list):
        problems.add(0, "expected a JSON list of prompts, or an object with one under `prompts`")
        return
    for record in content:
        yield 0, record


def _json_lines(lines: Iterator[tuple[int, str]], problems: Problems) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(number, f"malformed JSON ({getattr(error, 'msg', error)})")
