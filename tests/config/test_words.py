"""Words of messages."""

from __future__ import annotations

from sgool.config.words import counted


def test_one_is_counted_as_one() -> None:
    assert [counted(number, "pair") for number in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]
    assert [counted(number, "batch", "batches") for number in (1, 2)] == ["1 batch", "2 batches"]
