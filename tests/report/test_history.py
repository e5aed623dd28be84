"""Histories as quantiles over pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sgool.report.history import read_histories, read_history


def frame(tmp_path: Path, **texts: str) -> pd.DataFrame:
    """One pair of one method per history."""
    rows = []
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "history.csv").write_text(text)
        rows.append({"label": "doodl", "pair_id": name, "folder": str(tmp_path / name)})
    return pd.DataFrame(rows)


def test_quantiles_by_hand(tmp_path: Path) -> None:
    texts = {f"p{k}": f"update,loss\n0,{k}\n1,{10 * k}\n" for k in range(11)}
    curve = read_histories(frame(tmp_path, **texts)).curves["loss"]["doodl"]
    assert curve.updates.tolist() == [0, 1]
    assert curve.quantiles[:, 0].tolist() == [1.0, 2.5, 5.0, 7.5, 9.0]
    assert curve.quantiles[:, 1].tolist() == [10.0, 25.0, 50.0, 75.0, 90.0]
    assert curve.pairs.tolist() == [11, 11]


def test_pairs_of_different_lengths(tmp_path: Path) -> None:
    """Where the selection of a pair ended, it stays; its loss is no longer counted."""
    long = "update,loss,selection\n0,4,4\n1,2,5\n2,1,1\n"
    histories = read_histories(frame(tmp_path, long=long, short="update,loss,selection\n0,8,8\n", none=""))
    loss, selection = histories.curves["loss"]["doodl"], histories.curves["selection"]["doodl"]
    assert (loss.pairs.tolist(), loss.quantiles[2].tolist()) == ([2, 1, 1], [6.0, 2.0, 1.0])
    # lowest so far: 4, 4, 1 and 8, 8, 8
    assert (selection.pairs.tolist(), selection.quantiles[2].tolist()) == ([2, 2, 2], [6.0, 6.0, 4.5])


def test_what_is_not_finite_is_told_and_left_out(tmp_path: Path) -> None:
    histories = read_histories(frame(tmp_path, a="update,loss\n0,1\n1,inf\n", b="update,loss\n0,3\n1,\n"))
    assert histories.non_finite == (("doodl", "a", "loss is infinite at row 2 of its history"),)
    curve = histories.curves["loss"]["doodl"]
    assert (curve.updates.tolist(), curve.quantiles[2].tolist()) == ([0], [2.0])


@pytest.mark.parametrize("text", ["loss\nx\n", "update,loss\n1\n", "update,loss\n1,2,3\n", "\udcff"])
def test_unreadable_ones_are_told(tmp_path: Path, text: str) -> None:
    pairs = frame(tmp_path, good="update,loss\n0,1\n", bad="x")
    (tmp_path / "bad" / "history.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    histories = read_histories(pairs)
    assert histories.unreadable == (("doodl", "bad"),)
    assert histories.curves["loss"]["doodl"].pairs.tolist() == [1]


def test_empty_files(tmp_path: Path) -> None:
    histories = read_histories(frame(tmp_path, empty=" ", head="update,loss\n"))
    assert not any(curve.pairs.any() for found in histories.curves.values() for curve in found.values())
    (tmp_path / "head" / "history.csv").write_text("update,loss\n0,0.5\n")
    assert np.array_equal(read_history(tmp_path / "head" / "history.csv")["loss"], [0.5])
