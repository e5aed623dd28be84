"""Folders of plain prompts, as some benchmarks publish them: text files, or JSON lists of texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgool.prompts.text import Problems, read_text

_HEAD = 256


def text_files(folder: str | Path) -> list[Path]:
    """Returns a folder's files of plain prompts in the order of their names; none if it is no such folder.

    It is one if it has text files (.txt) or JSON lists of texts, and no other file of data. Files without a suffix,
    hidden files and Markdown do not count.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        return []
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    data = [file for file in files if file.suffix and file.suffix.lower() != ".md"]
    return data if data and all(file.suffix.lower() == ".txt" or _is_list(file) for file in data) else []


def folder_records(files: list[Path], problems: Problems) -> Iterator[tuple[int, Any]]:
    """Yields each prompt with the name of its file, without the suffix, as the column ``file``.

    In a text file each line that is not empty is a prompt. Problems name the file and, where it is one of reading, its
    line.
    """
    for file in files:
        own = Problems(file)
        text = read_text(file, own)
        for line, problem in own.found:
            problems.add(0, f"{file.name}, line {line}: {problem}")
        for prompt in _prompts(file, text, problems):
            yield 0, {"prompt": prompt, "file": file.stem}


def _prompts(file: Path, text: str, problems: Problems) -> list[Any]:
    if file.suffix.lower() == ".txt":
        return [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    try:
        return list(json.loads(text))
    except (ValueError, RecursionError) as error:
        problems.add(0, f"{file.name}: malformed JSON ({getattr(error, 'msg', error)})")
        return []


def _is_list(file: Path) -> bool:
    """Whether a file is JSON that begins as a list of texts."""
    if file.suffix.lower() != ".json":
        return False
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD).decode("utf-8-sig", errors="replace")
    except OSError:
        return False
    return head.lstrip().startswith("[") and head.lstrip()[1:].lstrip().startswith('"')
