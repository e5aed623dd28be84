"""Reads W&B's offline files: LevelDB's log framing around protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as proto

_BLOCK, _FRAME = 32768, struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last


def _records(data: bytes) -> Iterator[proto.Record]:
    position, parts = 7, b""
    while position + _FRAME.size <= len(data):
        rest = _BLOCK - position % _BLOCK
        if rest < _FRAME.size:
            position += rest
            continue
        _, length, kind = _FRAME.unpack_from(data, position)
        position += _FRAME.size
        parts = data[position : position + length] if kind in (1, 2) else parts + data[position : position + length]
        position += length
        if kind in (1, 4):
            yield proto.Record.FromString(parts)


def read_wandb(path: Path) -> tuple[list[dict[str, Any]], str, str]:
    """History rows, group and job type of an offline run."""
    history, group, job_type = [], "", ""
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            group, job_type = record.run.run_group, record.run.job_type
        elif kind == "history":
            items = record.history.item
            history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return history, group, job_type
