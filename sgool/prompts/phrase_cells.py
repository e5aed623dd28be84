"""Reads the phrases of a prompt from a cell of a prompt file."""

from __future__ import annotations

import json
import re
from typing import Any

from sgool.prompts.text import shown, text_problem

_BETWEEN = re.compile(r"[|;]")
#: A list as text; other texts may have brackets, such as "[V] dog".
_LIST = re.compile(r"\[\s*(?:[\"'].*)?\]", re.DOTALL)


def read_phrases(value: Any) -> tuple[tuple[str, ...] | None, list[str]]:
    """Reads a cell: a list of texts, that list in JSON, or one text with its phrases separated by "|" or ";".

    Returns:
        The phrases, stripped, or None where the cell is empty or has a problem; and the problems.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None, []
    if isinstance(value, str) and _LIST.fullmatch(value.strip()):
        try:
            value = json.loads(value)
        except ValueError:
            return None, [f'expected a list in JSON, such as ["a cat", "a dog"], got {shown(value)}']
    if isinstance(value, str):
        entries: list[Any] = _BETWEEN.split(value)
    elif isinstance(value, (list, tuple)):
        entries = list(value)
    else:
        return None, [f"expected a list of texts, or a text with | or ; between phrases, got {shown(value)}"]
    if not entries:
        return None, ["expected at least one phrase, got an empty list; leave them out where a rule shall count"]
    problems = [problem for number, entry in enumerate(entries, 1) if (problem := _problem(entry, number))]
    return (None, problems) if problems else (tuple(entry.strip() for entry in entries), [])


def _problem(entry: Any, number: int) -> str | None:
    if not isinstance(entry, str):
        return f"number {number} is {shown(entry)}, expected a text"
    if not entry.strip():
        return f"number {number} is empty; is there a | or ; too many?"
    problem = text_problem(entry.strip())
    return f"number {number}: {problem}" if problem else None
