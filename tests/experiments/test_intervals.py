"""Intervals of shares and differences against published values and hand-made cases."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.intervals import difference_text, share_text, wilson


def test_wilson_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 and 0 of 20 without continuity correction.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="got 5 of 4"):
        wilson(5, 4)


def test_texts_of_shares_and_differences() -> None:
    assert share_text(pd.Series([1] * 10 + [0] * 10)) == "10/20 = 50 % [30, 70]"
    after, before = pd.Series([1.0] * 8), pd.Series([0.0] * 7 + [1.0])
    text = difference_text(after, before, pd.Series(list("abcdefgh")), 100, 0)
    assert text.startswith("+88 [")
    assert text.endswith("], 7/1/0")
