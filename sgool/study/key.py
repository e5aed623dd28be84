"""The key of a study: which method made which image. Raters do not get it, and the page does not load it."""

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
    """An item that raters judge: a comparison or an attention check.

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
    """The key of a study, with all that scoring needs.

    Attributes:
        study: The study's id; votes carry it.
        salt: Random text from which the page's names are made, so that nobody can compute them from a method's name.
        seed: The seed of the sampling, orders and sides.
        methods: The methods, in display order.
        items: The items, by their names in the page.
        identical: (pair id, method, method) of comparisons that were not shown, since both images are the same.
        left_out: Sentences on images that are missing.
    """

    study: str
    salt: str
    seed: int
    methods: list[str]
    items: dict[str, Item]
    identical: list[list[str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the key as JSON."""
        return json.dumps({"version": _VERSION} | asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_key(path: Path) -> StudyKey:
    """Read a study's key from ``key.json``.

    Raises:
        SgoolError: The file is missing or holds no key.
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
