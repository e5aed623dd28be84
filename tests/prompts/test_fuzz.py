"""Any prompts come back from any format, and no bytes lead to anything but an error that a user can read."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sgool.errors import ConfigError
from sgool.prompts import read_prompts

# What text files can hold and prompts may: no halves of surrogate pairs, no control characters but tab and line ends.
_CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")) | st.sampled_from("\t\n\r,\"';\\\ufeff ")
_PROMPTS = st.lists(
    st.text(_CHARACTERS, min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=8, unique_by=str.strip
)
_FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _table(prompts: list[str], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("n", "Prompt"), *enumerate(prompts)])
    return text.getvalue().encode("utf-8")


def _parquet(prompts: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": range(len(prompts)), "Prompt": prompts}), sink)
    return sink.getvalue()


def _records(prompts: list[str]) -> list[dict[str, object]]:
    return [{"n": number, "Prompt": prompt} for number, prompt in enumerate(prompts)]


_WRITE: dict[str, Callable[[list[str]], bytes]] = {
    "a.csv": lambda prompts: _table(prompts, ","),
    "a.tsv": lambda prompts: _table(prompts, "\t"),
    "a.json": lambda prompts: json.dumps(_records(prompts), ensure_ascii=False).encode("utf-8"),
    "a.jsonl": lambda prompts: "\n".join(map(json.dumps, _records(prompts))).encode("utf-8"),
    "a.parquet": _parquet,
    "a.csv.gz": lambda prompts: gzip.compress(_table(prompts, ","), compresslevel=1),
}
_NAMES = [*_WRITE, "a.txt"]


@pytest.mark.parametrize("name", _WRITE)
@_FAST
@given(prompts=_PROMPTS)
def test_any_prompts_come_back(tmp_path: Path, name: str, prompts: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(_WRITE[name](prompts))
    rows = read_prompts(path)
    assert [(row.prompt, row.index) for row in rows] == [(prompt.strip(), n) for n, prompt in enumerate(prompts)]
    # Cells of CSV and TSV are text, the others have types.
    assert [int(row.metadata["n"]) for row in rows] == list(range(len(prompts)))


def _read(path: Path, content: bytes) -> None:
    """Reads well or fails with a message; every other exception fails the test."""
    path.write_bytes(content)
    try:
        rows = read_prompts(path)
    except ConfigError as error:
        assert all(problem.startswith((str(path), "`data.")) for problem in error.problems)
        str(error).encode("utf-8")  # printable: no halves of surrogate pairs
    else:
        assert rows and all(row.prompt == row.prompt.strip() != "" for row in rows)
        for row in rows:
            f"{row.prompt}{row.category}".encode()


@pytest.mark.parametrize("name", _NAMES)
@_FAST
@given(content=st.binary(max_size=300))
@example(content=b"")
@example(content=b"\xff\xfe")
@example(content=b"PAR1" * 5)
@example(content=b"\xef\xbb\xbf\n")
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    _read(tmp_path / name, content)


@pytest.mark.parametrize("name", _NAMES)
@_FAST
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, name: str, data: st.DataObject) -> None:
    whole = ["a red cat, asleep", 'the word "no"', "Ünter den Linden", "two\nlines"]
    content = _WRITE[name](whole) if name in _WRITE else "\n".join(whole).encode("utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(start + 20, len(content))))
        damage = data.draw(st.sampled_from(["cut", "swap", "insert", "end"]))
        piece = content[start:stop]
        if damage == "insert":
            content = content[:start] + data.draw(st.binary(min_size=1, max_size=8)) + content[start:]
        elif damage == "end":
            content = content[:start]
        else:
            content = content[:start] + (piece[::-1] if damage == "swap" else b"") + content[stop:]
    _read(tmp_path / name, content)
