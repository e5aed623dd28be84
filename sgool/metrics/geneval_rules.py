"""GenEval's rules (Ghosh et al. 2023, arXiv 2310.11513): whether detected objects are those that a prompt asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgool.errors import SgoolError
from sgool.models.detector import FoundObject
from sgool.types import PromptSeed

#: The published kinds of prompts, the values of the column ``tag``.
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
#: The colours that are told apart.
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_RELATIONS = ("left of", "right of", "above", "below")
#: Names the colour of each of some objects of a class: ``(objects, class name) -> colours``.
ColoursOf = Callable[[Sequence[FoundObject], str], Sequence[str | None]]


@dataclass(frozen=True, kw_only=True)
class GenEvalSettings:
    """Numbers of the published evaluation.

    Attributes:
        threshold: Objects of a lower confidence do not count.
        counting_threshold: The same for prompts with the tag ``counting``.
        max_objects: At most so many objects of a class count, the most confident.
        max_overlap: An object that overlaps a more confident one of its class by this (intersection over union) or
            more does not count; 1: all count.
        position_threshold: By which share of the sum of both widths (heights) centres must be apart.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for: the columns ``include``, ``exclude`` and ``tag`` of evaluation_metadata.jsonl.

    Attributes:
        tag: Kind of prompt.
        include: Each with ``class`` and ``count``, and perhaps ``color`` and ``position``, a relation and the number of
            an earlier entry.
        exclude: Each with ``class`` and ``count``, as many objects as there must not be.
    """

    tag: str
    include: tuple[Mapping[str, Any], ...]
    exclude: tuple[Mapping[str, Any], ...]

    @property
    def classes(self) -> list[str]:
        """The classes that matter, each once."""
        return list(dict.fromkeys(str(one["class"]) for one in (*self.include, *self.exclude)))

    @classmethod
    def of(cls, pair: PromptSeed, where: str) -> Wanted:
        """Reads a pair's columns, lists or their JSON.

        Args:
            pair: The pair; its tag is the column ``tag``, or its category.
            where: Dotted key of the judge, for messages.

        Raises:
            SgoolError: The columns are missing or hold something else.
        """
        if pair.metadata.get("include") is None and pair.metadata.get("exclude") is None:
            raise SgoolError(
                f"`{where}`: the prompt {pair.prompt!r} has no column include or exclude, as GenEval's "
                f"evaluation_metadata.jsonl has; its other columns are: {', '.join(pair.metadata) or 'none'}"
            )
        include, exclude = (_entries(pair, name, where) for name in ("include", "exclude"))
        return cls(str(pair.metadata.get("tag") or pair.category), include, exclude)


def counted(objects: Sequence[FoundObject], threshold: float, settings: GenEvalSettings) -> list[FoundObject]:
    """Returns the objects of a class that count, from the most to the least confident."""
    sure = sorted((one for one in objects if one.score > threshold), key=lambda one: -one.score)
    kept: list[FoundObject] = []
    for one in sure[: settings.max_objects]:
        if settings.max_overlap == 1 or all(_overlap(one.box, other.box) < settings.max_overlap for other in kept):
            kept.append(one)
    return kept


def faults(
    wanted: Wanted, objects: Mapping[str, Sequence[FoundObject]], colours_of: ColoursOf, settings: GenEvalSettings
) -> list[str]:
    """Returns a sentence for each rule that an image breaks; none if it is correct.

    Args:
        wanted: What the prompt asks for.
        objects: Class -> its objects that count, from the most to the least confident.
        colours_of: Names objects' colours.
        settings: The published numbers.
    """
    found: list[str] = []
    groups: list[Sequence[FoundObject] | None] = []
    for entry in wanted.include:
        name, number = str(entry["class"]), int(entry["count"])
        group = list(objects.get(name, ()))[:number]
        broken = [f"expected at least {number} {name}, found {len(group)}"] if len(group) < number else []
        if not broken and "color" in entry:
            right = list(colours_of(group, name)).count(entry["color"])
            broken += [f"expected {number} {entry['color']} {name}, found {right}"] if right < number else []
        if not broken and "position" in entry:
            relation, target = entry["position"]
            broken += _misplaced(name, group, str(relation), groups[int(target)], settings.position_threshold)
        found += broken
        groups.append(None if broken else group)
    for entry in wanted.exclude:
        name, number = str(entry["class"]), int(entry["count"])
        seen = len(objects.get(name, ()))
        found += [f"expected fewer than {number} {name}, found {seen}"] if seen >= number else []
    return found


def relations(first: FoundObject, second: FoundObject, threshold: float) -> set[str]:
    """Returns where the first object is seen from the second: of left of, right of, above, below none, one or two.

    The offset of the centres is shortened in each direction by ``threshold`` times the sum of both sizes. A relation
    holds if what is left is more than half of the whole distance of the centres.
    """
    offset, left = [], []
    for axis in (0, 1):
        low, high = (first.box[axis], second.box[axis]), (first.box[axis + 2], second.box[axis + 2])
        centres = [(start + end) / 2 for start, end in zip(low, high, strict=True)]
        sizes = sum(abs(end - start) for start, end in zip(low, high, strict=True))
        apart = centres[0] - centres[1]
        offset.append(apart)
        left.append(math.copysign(max(abs(apart) - threshold * sizes, 0.0), apart))
    if all(abs(value) < 1e-3 for value in left):
        return set()
    x, y = (value / math.hypot(*offset) for value in left)
    holds = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, is_so in holds.items() if is_so}


def _misplaced(
    name: str,
    group: Sequence[FoundObject],
    relation: str,
    targets: Sequence[FoundObject] | None,
    threshold: float,
) -> list[str]:
    """Returns a sentence if any object of the group is not where it should be seen from any of the targets."""
    if targets is None:
        return [f"no target for {name} to be {relation}"]
    for one in group:
        for other in targets:
            there = relations(one, other, threshold)
            if relation not in there:
                return [f"expected {name} {relation} its target, found {' and '.join(sorted(there)) or 'neither side'}"]
    return []


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of boxes whose last pixels belong to them."""

    def area(left: float, top: float, right: float, bottom: float) -> float:
        return max(right - left + 1, 0) * max(bottom - top + 1, 0)

    shared = area(*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:]))
    union = area(*first) + area(*second) - shared
    return shared / union if union else 0.0


def _entries(pair: PromptSeed, column: str, where: str) -> tuple[Mapping[str, Any], ...]:
    cell = pair.metadata.get(column)
    value = cell
    if isinstance(cell, str):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            value = None
    entries: list[Any] = [] if cell is None else list(value or ()) if hasattr(value, "__iter__") else [None]
    for number, entry in enumerate(entries):
        problem = _entry_problem(entry, number)
        if problem:
            raise SgoolError(
                f"`{where}`: the prompt {pair.prompt!r}, column {column}: {problem}, got {str(cell)[:120]!r}"
            )
    # Tables have a key of some entries in all of them, as None.
    return tuple({key: value for key, value in entry.items() if value is not None} for entry in entries)


def _entry_problem(entry: Any, number: int) -> str | None:
    if not (isinstance(entry, Mapping) and isinstance(entry.get("class"), str) and _is_count(entry.get("count"))):
        return 'expected a list of objects like {"class": "bench", "count": 1}'
    if entry.get("color") is not None and entry["color"] not in COLOURS:
        return f"expected a color of {', '.join(COLOURS)}"
    place = entry.get("position")
    if place is None:
        return None
    place = list(place) if hasattr(place, "__iter__") and not isinstance(place, str) else []
    # A table has both as texts.
    valid = len(place) == 2 and place[0] in _RELATIONS and str(place[1]).isdecimal() and int(place[1]) < number
    return None if valid else f'expected a position like ["left of", 0], of {", ".join(_RELATIONS)} an earlier entry'


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and int(value) == value
