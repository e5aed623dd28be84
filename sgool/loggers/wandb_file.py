"""Reads back what a W&B run's transaction log holds, after a process that could not end it.

W&B's service writes the log some time after a value was logged. So the log of a killed process lacks the last values,
and the next process of the same run has to log them again.

The file's format is LevelDB's: blocks of 32 KiB with framed parts of records. The records are protocol buffers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768
_HEADER = 7
_FRAME = struct.Struct("<IHB")  # checksum, length, kind of part
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class LogContent:
    """How much a transaction log holds.

    Attributes:
        steps: W&B's next step.
        pairs: How many pairs have their scores in the log.
        rows: How many pairs have their rows of tables in the log.
        updates: Number of a batch -> its last update in the log.
    """

    steps: int = 0
    pairs: int = 0
    rows: int = 0
    updates: dict[int, int] = field(default_factory=dict)


def read_transaction_log(path: Path) -> LogContent:
    """Reads a transaction log up to its end, or to where it breaks off."""
    held = LogContent()
    for values in _history(path):
        held.steps = max(held.steps, int(values.get("_step", -1)) + 1)
        held.pairs = max(held.pairs, int(values.get("pair/count", 0)))
        held.rows = max(held.rows, int(values.get("table/rows", 0)))
        if "fit/batch" in values:
            number = int(values["fit/batch"])
            held.updates[number] = max(held.updates.get(number, -1), int(values["fit/update"]))
    return held


def _history(path: Path) -> Iterator[dict[str, Any]]:
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # its members are made at import, so type checkers do not know them

    wanted = {"_step", "pair/count", "table/rows", "fit/batch", "fit/update"}
    for data in _records(path.read_bytes()):
        try:
            record = messages.Record.FromString(data)
        except DecodeError:  # a power cut left empty pages in the file
            return
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            values = {name: json.loads(items[name]) for name in wanted & items.keys()}
            yield {"_step": record.history.step.num, **values}


def _records(data: bytes) -> Iterator[bytes]:
    position, parts = _HEADER, b""
    while position + _FRAME.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _FRAME.size:  # the rest of a block, too short for a frame, is filled with zeros
            position += left
            continue
        _, length, kind = _FRAME.unpack_from(data, position)
        start = position + _FRAME.size
        position = start + length
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or position > len(data):
            return
        part = data[start:position]
        parts = part if kind in (_WHOLE, _FIRST) else parts + part
        if kind in (_WHOLE, _LAST):
            yield parts
