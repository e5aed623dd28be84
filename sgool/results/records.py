"""Writes a ``PairRecord`` as the text of ``record.json`` and reads it back, without torch."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sgool.config.plain import plain
from sgool.errors import SgoolError
from sgool.types import PairRecord

STATUSES = ("done", "failed")

_KINDS: dict[str, tuple[type, ...]] = {
    "pair_id": (str,),
    "method": (str,),
    "prompt": (str,),
    "category": (str,),
    "status": (str,),
    "error": (str, type(None)),
    "seed": (int,),
    "num_optimization_steps": (int,),
    "best_step": (int,),
    "network_evaluations": (int,),
    "network_backward_passes": (int,),
    "seconds": (int, float, type(None)),
    "peak_memory_mib": (int, float, type(None)),
    "metrics": (dict,),
}


class RecordError(SgoolError):
    """A ``record.json`` that is truncated or does not hold a record."""


def encode_record(record: PairRecord) -> str:
    """Returns the text of ``record.json`` for a record.

    Numbers may be Python's, NumPy's or scalar tensors. JSON has no NaN and no infinity: they become ``null``.

    Raises:
        ValueError: ``status`` is neither "done" nor "failed", or a failed record has no error.
    """
    if record.status not in STATUSES:
        raise ValueError(f"record status must be one of {STATUSES}, got {record.status!r}")
    if record.status == "failed" and not record.error:
        raise ValueError(f"the failed pair {record.pair_id} needs an error that says why")
    payload = {field.name: plain(getattr(record, field.name), _json_scalar) for field in fields(record)}
    if not record.phrases:
        del payload["phrases"]
    return json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def decode_record(text: str) -> PairRecord:
    """Reads a record from the text of ``record.json``.

    Numbers that are ``null`` become NaN. Unknown keys, which a newer sgool may have written, are left out.

    Raises:
        RecordError: The text is no JSON object, or a key is missing or has a value of a wrong type.
    """
    try:
        payload = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"not valid JSON, probably cut off ({error})") from error
    if not isinstance(payload, dict):
        raise RecordError(f"expected a JSON object, got {type(payload).__name__}")
    values: dict[str, Any] = {}
    for field in fields(PairRecord):
        if field.name in payload:
            values[field.name] = _checked(field.name, payload[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise RecordError(f"the key {field.name!r} is missing")
    if values["status"] not in STATUSES:
        raise RecordError(f"status must be one of {STATUSES}, got {values['status']!r}")
    return PairRecord(**values)


def _json_scalar(value: Any) -> Any:
    """Converts text, booleans and numbers of any library to JSON's types; NaN and infinity become None."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) or hasattr(value, "item"):
        number = float(value)
        return number if math.isfinite(number) else None
    raise TypeError(f"cannot write a {type(value).__name__} into record.json: {value!r}")


def _checked(name: str, value: Any) -> Any:
    """Returns ``value`` if its type fits the key; ``null`` becomes NaN where a number belongs."""
    kinds = _KINDS.get(name)
    if name == "phrases":
        return _phrases(value)
    if kinds is None:
        return value
    if not isinstance(value, kinds) or isinstance(value, bool):
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise RecordError(f"{name} must be {expected}, got {value!r}")
    if isinstance(value, dict):
        return {key: _number(key, entry) for key, entry in value.items()}
    return _number(name, value) if float in kinds else value


def _phrases(value: Any) -> list[dict[str, Any]]:
    entries: list[Any] = value if isinstance(value, list) else [None]
    for entry in entries:
        box = entry.get("box") if isinstance(entry, dict) else 0
        good = box is None or (isinstance(box, list) and len(box) == 4 and all(type(side) is int for side in box))
        if not good or not isinstance(entry.get("phrase"), str):
            raise RecordError(f"phrases must be a list of phrases with boxes [top, left, height, width], got {value!r}")
    return [{**entry, "distance": _number("distance", entry.get("distance"))} for entry in entries]


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecordError(f"{name} must be a number, got {value!r}")
    return float(value)


def read_record(path: Path) -> PairRecord:
    """Reads a record and checks that it lies in the folder of its own method and pair.

    Raises:
        FileNotFoundError: There is no such file.
        RecordError: The file holds no valid record, or the record of another method or pair.
    """
    place = f"{path.parts[-3]}/{path.parts[-2]}"
    try:
        record = decode_record(path.read_text(encoding="utf-8"))
        if f"{record.method}/{record.pair_id}" != place:
            raise RecordError(f"it is the record of {record.method}/{record.pair_id}")
    except FileNotFoundError:
        raise
    except (RecordError, UnicodeDecodeError, OSError) as error:
        raise RecordError(f"{path} does not count, the pair is not done: {error}") from error
    return record
