"""Reads W&B's offline files: LevelDB's log framing around protobuf records. Independent of `sgool.loggers`."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as proto

_BLOCK, _FRAME = 32768, struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last


@dataclass
class WandbFile:
    """What a transaction log holds.

    Attributes:
        run_id: The run's id.
        name: Its display name.
        group: Its group.
        job_type: Its job type.
        tags: Its tags.
        resume: Whether `wandb sync` appends the file to what the server has of the run.
        config: Key -> value.
        history: Rows in order.
        summary: Key -> value, as left by the last record.
        ended: Whether there is an exit record.
        parts: How many parts the longest record is framed in.
    """

    run_id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    resume: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    parts: int = 0

    def rows(self, key: str) -> list[dict[str, Any]]:
        """History rows that hold a key."""
        return [row for row in self.history if key in row]


def frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Each whole record and the number of its parts; ends where a killed writer left off."""
    assert data[:4] == b":W&B"
    position, parts, count = 7, b"", 0
    while position + _FRAME.size <= len(data):
        rest = _BLOCK - position % _BLOCK
        if rest < _FRAME.size:
            position += rest
            continue
        checksum, length, kind = _FRAME.unpack_from(data, position)
        position += _FRAME.size
        part = data[position : position + length]
        if len(part) < length:
            return
        assert zlib.crc32(bytes([kind]) + part) == checksum
        position += length
        first = kind in (1, 2)
        parts, count = (part, 1) if first else (parts + part, count + 1)
        if kind in (1, 4):
            yield parts, count


def read_wandb(path: Path) -> WandbFile:
    """Reads one file."""
    found = WandbFile()
    for data, parts in frames(path.read_bytes()):
        found.parts = max(found.parts, parts)
        record = proto.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.run_id, found.name, found.group, found.job_type = (
                run.run_id,
                run.display_name,
                run.run_group,
                run.job_type,
            )
            found.tags, found.resume = list(run.tags), run.resume
            found.config |= _values(run.config.update)
        elif kind == "config":
            found.config |= _values(record.config.update)
        elif kind == "history":
            found.history.append(_values(record.history.item) | {"_step": record.history.step.num})
        elif kind == "summary":
            found.summary |= _values(record.summary.update)
        found.ended |= kind == "exit"
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def offline_files(run_dir: Path, killed: int = 0) -> list[Path]:
    """The files of a run folder, in the order of their starts, each with its end.

    Args:
        run_dir: The run folder.
        killed: How many of the first have no end.
    """
    paths = sorted((run_dir / "wandb").glob("offline-run-*/*.wandb"))
    deadline = time.monotonic() + 30
    # Offline, W&B's finish() may return before its service has written the last rows.
    while time.monotonic() < deadline and not all(read_wandb(path).ended for path in paths[killed:]):
        time.sleep(0.05)
    return paths


def read_table(run_dir: Path, row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The rows of a table that a history row refers to."""
    (path,) = (run_dir / "wandb").glob(f"offline-run-*/files/{row[f'{key}.path']}")
    table = json.loads(path.read_text(encoding="utf-8"))
    return [dict(zip(table["columns"], values, strict=True)) for values in table["data"]]
