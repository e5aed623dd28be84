"""The key of a study: which image is whose. It stays with whoever runs the study; the page does not load it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sgool.errors import SgoolError

COMPARISON = "comparison"
_VERSION = 1


@dataclass(frozen=True)
class Item:
    """One thing that raters judge.

    Attributes:
        kind: ``comparison``, or the kind of an attention check.
        pair_id: The prompt-seed pair.
        prompt: What raters see above the images.
        images: Name of an image in the page -> its method; in a check: ``right`` and ``wrong``, or ``same``.
    """

    kind: str
    pair_id: str
    prompt: str
    images: dict[str, str]


@dataclass(frozen=True)
class StudyKey:
    """All that scoring needs.

    Attributes:
        study: The study's id; votes carry it.
        salt: What names in the page were made with: nobody can compute them from a method's name without it.
        seed: Of the sampling, orders and sides.
        methods: In display order.
        items: By the name that the page knows.
        identical: (pair id, method, method) that were not shown, being the same image.
        left_out: Images that are missing, with the reason.
    """

    study: str
    salt: str
    seed: int
    methods: list[str]
    items: dict[str, Item]
    identical: list[list[str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The key as JSON."""
        return json.dumps({"version": _VERSION} | asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_key(path: Path) -> StudyKey:
    """Read ``key.json``.

    Raises:
        SgoolError: It is missing or holds something else.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("version") != _VERSION:
            raise ValueError("of another version")
        items = {str(name): Item(**item) for name, item in values.pop("items").items()}
        return StudyKey(items=items, **values)
    except FileNotFoundError:
        raise SgoolError(f"There is no key at {path}. Give --key the key.json that `sgool study` wrote.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SgoolError(
            f"{path} is not the key of a study ({error}). Give --key the key.json of `sgool study`."
        ) from None
