"""Reads Parquet files, and Arrow tables in general, as records of Python's own types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.plain import plain
from sgool.errors import ConfigError
from sgool.prompts.columns import Columns
from sgool.prompts.text import Problems

if TYPE_CHECKING:
    import pyarrow as pa


def parquet_records(path: Path, columns: Columns, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads the rows of a Parquet file; columns with bytes (images, audio) are not read.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError([f"{path}: Parquet needs pyarrow: pip install 'sgool[parquet]'"]) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = wanted_columns(file.schema_arrow, columns, problems)
            # Columns are picked by their names; a repeated name is in the problems already.
            return arrow_records(file.read(columns=names) if names and not problems else None)
    # A broken file makes pyarrow raise errors of many kinds: ArrowException, OSError, ValueError, MemoryError.
    except Exception as error:
        problems.add(0, f"cannot be read as Parquet ({one_line(error)})")
        return iter(())


def wanted_columns(schema: pa.Schema, columns: Columns, problems: Problems) -> list[str]:
    """Returns the names of a table's columns that hold no bytes; adds missing and unfit columns to ``problems``."""
    for problem in columns.problems(schema.names):
        problems.add(0, problem)
    holds_bytes = {field.name for field in schema if _holds_bytes(field.type)}
    for name in columns.find(schema.names).read:
        if name in holds_bytes:
            problems.add(0, f"column {name}: expected text, got {schema.field(name).type}")
    # pandas writes its index under this name.
    return [name for name in schema.names if name not in holds_bytes and not name.startswith("__index_level_")]


def arrow_records(
    table: pa.Table | None, names_of: Mapping[str, list[str]] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a table, each with 0 as its line number.

    Args:
        table: The table; None: there are no rows.
        names_of: Column -> names of its classes, for columns that hold the numbers of classes.
    """
    if table is None:
        return iter(())
    classes = names_of or {}
    values = []
    for name in table.column_names:
        column = (plain(value) for value in table.column(name).to_pylist())
        values.append(_named(column, classes[name]) if name in classes else list(column))
    return ((0, dict(zip(table.column_names, row, strict=True))) for row in zip(*values, strict=True))


def one_line(error: BaseException) -> str:
    """Returns an error's text and that of its cause, on one line and shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    cause = error.__cause__
    if cause is not None and str(cause) not in text:
        text = f"{text}: {one_line(cause)}"
    return text if len(text) <= 500 else text[:499] + "…"


def _named(numbers: Iterable[Any], names: list[str]) -> list[Any]:
    # Data sets without labels have the number -1, which is no class.
    return [names[n] if isinstance(n, int) and 0 <= n < len(names) else None for n in numbers]


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a type is one of bytes, or contains one."""
    import pyarrow.types as types

    if hasattr(kind, "storage_type"):
        return _holds_bytes(kind.storage_type)
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if types.is_nested(kind):
        return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(test(kind) for test in tests)
