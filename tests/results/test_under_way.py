from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sgool.results import RunFolder
from sgool.results.under_way import BatchesUnderWay, BatchNote, batches_under_way, remove_stale_files
from sgool.types import PromptSeed

A, B, C, D = (PromptSeed(name) for name in ("a", "b", "c", "d"))


def test_an_interrupted_batch_goes_on_with_its_mates(tmp_path: Path) -> None:
    under_way = BatchesUnderWay(tmp_path, "doodl")
    assert under_way.batch_to_continue((A, B, C), (B,)) == (B,)
    under_way.begin((A, B, C))
    assert under_way.batch_to_continue((A, B, C), (B,)) == (A, B, C)
    assert under_way.batch_to_continue((A, B), (B,)) == (B,)  # cut in another way since
    assert BatchesUnderWay(tmp_path, "sgool").batch_to_continue((A, B, C), (B,)) == (B,)
    under_way.checkpoint((A, B, C)).write_bytes(b"")
    under_way.end((A, B, C))
    assert under_way.batch_to_continue((A, B, C), (B,)) == (B,)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_what_was_begun_without_some_mates(tmp_path: Path) -> None:
    under_way = BatchesUnderWay(tmp_path, "doodl")
    under_way.begin((B, C))  # A was done already
    assert under_way.batch_to_continue((A, B, C, D), (C,)) == (B, C)
    assert under_way.batch_to_continue((A, B, C, D), (C, D)) == (C, D)


def test_a_single_pair_is_noted_too(tmp_path: Path) -> None:
    under_way = BatchesUnderWay(tmp_path, "doodl")
    under_way.begin((A,))
    assert under_way.checkpoint((A,)).name == f"{A.pair_id}.ckpt"
    assert batches_under_way(tmp_path) == [BatchNote("doodl", (A.pair_id,), 0, None)]
    assert json.loads(under_way.checkpoint((A,)).with_suffix(".json").read_text()) == {
        "pairs": [A.pair_id],
        "update": 0,
        "of": None,
    }
    under_way.end((A,))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_progress_is_noted_and_outlasts_a_start(tmp_path: Path) -> None:
    under_way = BatchesUnderWay(tmp_path, "doodl")
    under_way.begin((A, B))
    under_way.note_progress((A, B), 30, 50)
    under_way.begin((A, B))
    (note,) = batches_under_way(tmp_path)
    assert (note.update, note.of) == (0, None)  # without its checkpoint it begins again
    under_way.checkpoint((A, B)).write_bytes(b"")
    under_way.note_progress((A, B), 30, 50)
    under_way.begin((A, B))
    (note,) = batches_under_way(tmp_path)
    assert (note.pair_ids, note.update, note.of) == ((A.pair_id, B.pair_id), 30, 50)


def test_parts_of_a_batch_do_not_hide_the_batch(tmp_path: Path) -> None:
    under_way = BatchesUnderWay(tmp_path, "doodl")
    under_way.begin((A, B, C, D))
    under_way.note_progress((A, B), 3, 5)  # half of it, for want of memory
    assert under_way.batch_to_continue((A, B, C, D), (B,)) == (A, B, C, D)
    under_way.end((A, B))
    assert under_way.batch_to_continue((A, B, C, D), (C, D)) == (A, B, C, D)


def test_a_list_of_an_earlier_release_is_understood(tmp_path: Path) -> None:
    under_way = BatchesUnderWay(tmp_path, "doodl")
    path = under_way.checkpoint((A, B)).with_suffix(".json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([A.pair_id, B.pair_id]))
    assert under_way.batch_to_continue((A, B), (B,)) == (A, B)
    assert batches_under_way(tmp_path) == [BatchNote("doodl", (A.pair_id, B.pair_id), 0, None)]


@pytest.mark.parametrize("text", ["[", "", "3", "null", "{}", '{"pairs": "a"}', '{"pairs": ["a"], "update": null}'])
def test_a_damaged_note_is_passed_over(text: str, tmp_path: Path) -> None:
    under_way = BatchesUnderWay(tmp_path, "doodl")
    under_way.begin((A, B))
    (path,) = tmp_path.rglob("*.json")
    path.write_text(text)
    assert under_way.batch_to_continue((A, B), (B,)) == (B,)
    assert batches_under_way(tmp_path) == []
    under_way.begin((A, B))
    assert under_way.batch_to_continue((A, B), (B,)) == (A, B)


def test_half_written_means_of_a_killed_process_go(tmp_path: Path) -> None:
    half, whole = tmp_path / "logs" / ".doodl.means.json.1-2.tmp", tmp_path / "logs" / "doodl.means.json"
    under_way = tmp_path / "logs" / ".sgool.means.json.1-2.tmp"  # of a process that lives, and has no claim any more
    half.parent.mkdir()
    for path in (half, whole, under_way):
        path.write_text("{}")
    for path in (half, whole):
        os.utime(path, (0, 0))
    remove_stale_files(RunFolder(tmp_path))
    assert not half.exists() and whole.exists() and under_way.exists()
