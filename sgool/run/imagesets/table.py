"""A table of the run folder, as a CSV file and for a terminal."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.results.atomic import atomic_write, explain_os_errors

#: In the note of a row whose features the run's objective optimised.
OPTIMISED = "optimised against"
#: Columns that are long, or the same in every row: in the file alone.
_FILE_ONLY = ("features", "reference", "num_features", "kid_subset", "note")


@dataclass(frozen=True)
class Table:
    """A CSV file of the run folder.

    Attributes:
        path: The file.
        rows: Its rows, all with the same keys.
        notes: What the reader has to know.
    """

    path: Path
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def cells(self) -> list[tuple[str, ...]]:
        """Heads and rows as text, for a terminal."""
        keys = tuple(key for key in self.rows[0] if key not in _FILE_ONLY)
        marked = any(OPTIMISED in row.get("note", "") for row in self.rows)
        heads = tuple(f"{key} ({OPTIMISED})" if marked and key in ("fid", "kid") else key for key in keys)
        return [heads, *(tuple(_short(row[key]) for key in keys) for row in self.rows)]

    def write(self) -> Table:
        """Writes the file, at once or not at all; NaN is empty."""
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
