"""``results.csv``: one row per method and pair, collated from the records."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sgool.types import PairRecord


def collate(records: Sequence[PairRecord]) -> str:
    """CSV text: the record's keys, then one column per metric, sorted by name; rows by method and pair.

    Depends on the records alone, not on their order. Metrics that a pair lacks, and NaN, are empty.
    """
    names = sorted({name for record in records for name in record.metrics})
    keys = [field.name for field in fields(PairRecord) if field.name != "metrics"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys + names)
    for record in sorted(records, key=lambda record: (record.method, record.pair_id)):
        values = [getattr(record, key) for key in keys] + [record.metrics.get(name) for name in names]
        writer.writerow([_cell(value) for value in values])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
