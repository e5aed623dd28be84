"""What docs/papers.md says is true: its keys, choices and tests exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sgool.config.paths import config_folder
from sgool.results.compare import flatten
from sgool.run.config import load_config, to_plain

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
#: (what, published code, default here, key that switches, held by) of each row.
ROWS = [
    cells
    for line in TEXT.splitlines()
    if line.startswith("|")
    and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
    and cells[0] != "what"
    and not cells[0].startswith("---")
]
#: Words of the table that are a choice of a group, `methods=[reno]` and the like aside.
_CHOICE = re.compile(r"([a-z]+)=([a-z_0-9]+)")
_KEY = re.compile(r"([a-z]+(?:\.\w+)+)(?:=(\S+))?")


def _spans(text: str) -> list[str]:
    return [word for span in re.findall(r"`([^`]+)`", text) for word in span.split()]


def test_all_rows_are_read() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith(("|---", "| what |"))]
    assert len(ROWS) == len(lines) > 40


def test_every_key_exists_and_takes_the_value() -> None:
    named = [found for row in ROWS for word in _spans(f"{row[2]} {row[3]}") if (found := _KEY.fullmatch(word))]
    assert len(named) > 30
    given = [f"{key}={value}" for key, value in (found.groups() for found in named) if value]
    config = to_plain(load_config(["objective=symmetry", "sampler=edict", *given]))
    known = flatten(config).keys()
    assert [found[1] for found in named if found[1] not in known] == []


def test_every_choice_exists() -> None:
    named = [found.groups() for word in _spans(TEXT) if (found := _CHOICE.fullmatch(word))]
    assert {("optimization", "doodl"), ("experiment", "paper"), ("models", "sd14")} <= set(named)
    assert [f"{group}={choice}" for group, choice in named if not _exists(group, choice)] == []


def _exists(group: str, choice: str) -> bool:
    return (config_folder() / group / f"{choice}.yaml").is_file()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_holds_a_row_exists(row: list[str]) -> None:
    for word in _spans(row[4]):
        file, _, function = word.partition("::")
        path = ROOT / "tests" / file
        assert path.is_file(), f"{word}: there is no {path.name}"
        assert not function or f"def {function}(" in path.read_text(encoding="utf-8"), word


def test_the_methods_page_leads_there() -> None:
    assert "(papers.md)" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
