"""Parquet files: all kinds of columns, and what is no Parquet."""

from __future__ import annotations

import datetime
import decimal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sgool.errors import ConfigError
from sgool.prompts import PromptRow, load_pairs, read_prompts


def _parquet(folder: Path, columns: dict[str, Any]) -> Path:
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def _problems(path: Path, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_prompts(path, **options)
    return [problem.removeprefix(str(path)) for problem in caught.value.problems]


def test_the_same_rows_as_from_a_table_of_text(tmp_path: Path) -> None:
    path = _parquet(tmp_path, {" Prompts ": [" a cat ", "käse, grün"], "Category": ["X ", None], "n": [1, None]})
    rows = read_prompts(path)
    assert rows == [PromptRow("a cat", 0, "X"), PromptRow("käse, grün", 1)]
    assert [row.metadata for row in rows] == [{"n": 1}, {}]
    assert load_pairs(path, seeds=2)[3].pair_id.startswith("a-00001-")


def test_files_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["a", "b"], "label": pd.Categorical(["X", "Y"]), "score": [0.5, np.nan]})
    frame.set_index(pd.Index([7, 8])).to_parquet(tmp_path / "a.PARQUET")
    rows = read_prompts(tmp_path / "a.PARQUET")
    assert rows == [PromptRow("a", 0, "X"), PromptRow("b", 1, "Y")]
    assert [row.metadata for row in rows] == [{"score": 0.5}, {}]


def test_other_columns_of_any_type(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 5, 17, 12)
    columns = {
        "prompt": pa.array(["a"]).dictionary_encode(),
        "large": pa.array(["l"], pa.large_string()),
        "list": [["x", "y"]],
        "struct": [{"deep": [1, None]}],
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "day": pa.array([day], pa.timestamp("ns")),
        "price": [decimal.Decimal("1.50")],
        "nothing": pa.nulls(1),
        # Left out, at any depth: images and the like.
        "bytes": [b"\x89PNG"],
        "fixed": pa.array([b"ab"], pa.binary(2)),
        "image": [{"bytes": b"\x89PNG", "path": None}],
        "images": [[b"a"]],
    }
    (row,) = read_prompts(_parquet(tmp_path, columns))
    assert row.metadata == {
        "large": "l",
        "list": ["x", "y"],
        "struct": {"deep": [1, None]},
        "map": [["k", 1]],
        "day": str(pd.Timestamp(day)),
        "price": "1.50",
    }


def test_every_problem_is_reported(tmp_path: Path) -> None:
    content = {"prompt": ["a", "", "b\0", "a", None], "category": ["x"] * 5}
    found = _problems(_parquet(tmp_path, content))
    assert [problem.partition("; ")[0] for problem in found] == [
        ": item 2: empty prompt",
        ": item 3: the control character U+0000 at position 2",
        ": item 4: 'a' repeats item 1",
        ": item 5: expected a prompt's text, got None",
    ]


def test_columns_that_are_not_there_or_unfit(tmp_path: Path) -> None:
    path = _parquet(tmp_path, {"title": ["a"], "kind": ["x"]})
    (problem,) = _problems(path)
    assert problem.startswith(": expected a column named prompt or prompts or text or caption, got title, kind;")
    assert read_prompts(path, prompt_column="Title", category_column="Kind") == [PromptRow("a", 0, "x")]
    (problem,) = _problems(path, prompt_column="title", category_column="style")
    assert problem == ": `data.category_column`: expected a column named style, got title, kind"
    assert _problems(_parquet(tmp_path, {"prompt": [b"a"]})) == [": column prompt: expected text, got binary"]
    assert _problems(_parquet(tmp_path, {"prompt": [["a"]]}))[0].startswith(
        ": item 1: expected a prompt's text, got ['a'"
    )
    twice = pa.table([["a"], ["b"]], names=["prompt", "Prompt"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    assert _problems(tmp_path / "twice.parquet")[0].endswith("columns with the same name: prompt")
    assert _problems(_parquet(tmp_path, {"prompt": pa.array([], pa.string())})) == [
        ": expected at least one prompt, found none"
    ]


@pytest.mark.parametrize("damage", [lambda b: b[:-10], lambda b: b"", lambda b: b"prompt\na cat\n", lambda b: b[50:]])
def test_a_corrupt_file(tmp_path: Path, damage: Any) -> None:
    path = _parquet(tmp_path, {"prompt": ["a", "b"]})
    path.write_bytes(damage(path.read_bytes()))
    (problem,) = _problems(path)
    assert problem.startswith(": cannot be read as Parquet (")
    assert "\n" not in problem


def test_without_pyarrow_the_message_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _parquet(tmp_path, {"prompt": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"Parquet needs pyarrow: pip install 'sgool\[parquet\]'"):
        read_prompts(path)
