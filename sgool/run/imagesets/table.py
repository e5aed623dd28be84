"""A table about a run, as a CSV file in its folder and as text for a terminal."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.results.atomic import atomic_write, explain_os_errors

#: What the note of a row says if the run's objective used the network of its features.
OPTIMISED = "optimised against"
#: Columns that only the file has, since they are long or the same in every row.
_FILE_ONLY = ("features", "reference", "num_features", "kid_subset", "note")


@dataclass(frozen=True)
class Table:
    """A table that is written as a CSV file into the run folder.

    Attributes:
        path: The path of the file.
        rows: The rows, all with the same keys.
        notes: Sentences that the reader has to know.
    """

    path: Path
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def cells(self) -> list[tuple[str, ...]]:
        """Returns the heads and the rows as text, for a terminal."""
        keys = tuple(key for key in self.rows[0] if key not in _FILE_ONLY)
        marked = any(OPTIMISED in row.get("note", "") for row in self.rows)
        heads = tuple(f"{key} ({OPTIMISED})" if marked and key in ("fid", "kid") else key for key in keys)
        return [heads, *(tuple(_short(row[key]) for key in keys) for row in self.rows)]

    def write(self) -> Table:
        """Writes the file, whole or not at all; NaN becomes an empty cell."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})
        with explain_os_errors(f"write {self.path}", "Mend that and run the same command again."):
            atomic_write(self.path, text.getvalue().encode())
        return self


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _short(value: Any) -> str:
    if _is_nan(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
