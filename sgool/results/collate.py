"""Collates a run's records into ``results.csv``, with one row per method and pair."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sgool.types import PairRecord

#: Keys of a record that are no single value.
_NO_CELLS = ("metrics", "phrases")


def collate(records: Sequence[PairRecord]) -> str:
    """Returns the text of ``results.csv``: a row per record, sorted by method and pair.

    The columns are the record's keys but for ``phrases``, then the metrics sorted by name. The text depends on the
    records alone, not on their order. Metrics that a pair lacks, and NaN, are empty.
    """
    names = sorted({name for record in records for name in record.metrics})
    keys = [field.name for field in fields(PairRecord) if field.name not in _NO_CELLS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys + names)
    for record in sorted(records, key=lambda record: (record.method, record.pair_id)):
        values = [getattr(record, key) for key in keys] + [record.metrics.get(name) for name in names]
        writer.writerow([_cell(value) for value in values])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
