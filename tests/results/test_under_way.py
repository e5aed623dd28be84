from __future__ import annotations

from pathlib import Path

from sgool.results.under_way import UnderWay
from sgool.types import PromptSeed

A, B, C, D = (PromptSeed(name) for name in ("a", "b", "c", "d"))


def test_an_interrupted_batch_goes_on_with_its_mates(tmp_path: Path) -> None:
    under_way = UnderWay(tmp_path, "doodl")
    assert under_way.mates((A, B, C), (B,)) == (B,)
    under_way.begin((A, B, C))
    assert under_way.mates((A, B, C), (B,)) == (A, B, C)
    assert under_way.mates((A, B), (B,)) == (B,)  # cut in another way since
    assert UnderWay(tmp_path, "sgool").mates((A, B, C), (B,)) == (B,)
    under_way.checkpoint((A, B, C)).write_bytes(b"")
    under_way.end((A, B, C))
    assert under_way.mates((A, B, C), (B,)) == (B,)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_what_was_begun_without_some_mates(tmp_path: Path) -> None:
    under_way = UnderWay(tmp_path, "doodl")
    under_way.begin((B, C))  # A was done already
    assert under_way.mates((A, B, C, D), (C,)) == (B, C)
    assert under_way.mates((A, B, C, D), (C, D)) == (C, D)


def test_a_single_pair_needs_no_memory(tmp_path: Path) -> None:
    under_way = UnderWay(tmp_path, "doodl")
    under_way.begin((A,))
    under_way.end((A,))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert under_way.checkpoint((A,)).name == f"{A.pair_id}.ckpt"


def test_a_damaged_memory_is_passed_over(tmp_path: Path) -> None:
    under_way = UnderWay(tmp_path, "doodl")
    under_way.begin((A, B))
    (path,) = tmp_path.rglob("*.json")
    path.write_text("[")
    assert under_way.mates((A, B), (B,)) == (B,)
