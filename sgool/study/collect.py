"""Collects what a study can compare: two methods' images of the same prompt-seed pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from PIL import Image

from sgool.errors import SgoolError
from sgool.report.load import Run, method_labels, writable


@dataclass(frozen=True)
class Entry:
    """One method's image of a pair.

    Attributes:
        pair_id: The pair's id.
        prompt: The pair's prompt.
        method: The method's label (``RUN/NAME`` where several runs have it).
        image: The path of the image.
        score: A CLIP score of the image, if the run has one; attention checks use images with good scores.
    """

    pair_id: str
    prompt: str
    method: str
    image: Path
    score: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two methods' images of one pair; the methods are in the display order."""

    first: Entry
    second: Entry

    @property
    def methods(self) -> tuple[str, str]:
        """The labels of the two methods."""
        return self.first.method, self.second.method


@dataclass
class Material:
    """The images and comparisons that a study can show.

    Attributes:
        methods: The methods' labels, in display order.
        entries: (pair id, method) -> image.
        comparisons: The comparisons that raters can be shown, by pair, then methods.
        identical: (pair id, method, method) of images that are the same pixel for pixel; they are not shown.
        left_out: A sentence for each image that is missing.
    """

    methods: list[str]
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    identical: list[tuple[str, str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def collect(runs: Sequence[Run], methods: Sequence[str] = ()) -> Material:
    """Find every comparison of the runs' methods.

    Args:
        runs: From ``load_runs``.
        methods: The labels of the methods to compare; empty: all.

    Raises:
        SgoolError: A method is unknown, there are fewer than two, or no pair has different images of two methods.
    """
    labels = method_labels(runs)
    material = Material(_chosen(list(dict.fromkeys(labels.values())), methods))
    for position, run in enumerate(runs):
        for record in run.records:
            label = labels[position, record.method]
            if label not in material.methods:
                continue
            image = run.folder.path / "pairs" / record.method / record.pair_id / "final.png"
            if record.status != "done":
                material.left_out.append(f"{label} on {record.pair_id} failed: {record.error}")
            elif not _readable(image):
                material.left_out.append(f"{label} on {record.pair_id}: {image} is missing or unreadable")
            else:
                score = _clip_score(record.metrics)
                entry = Entry(record.pair_id, writable(record.prompt), label, image, score)
                material.entries[record.pair_id, label] = entry
    _compare(material)
    if not material.comparisons:
        raise SgoolError(
            f"Nothing to compare: no pair has different images of two of {', '.join(material.methods)} "
            f"({len(material.entries)} images, {len(material.identical)} identical couples). "
            + " ".join(material.left_out[:5])
        )
    return material


def keep_pairs(material: Material, pair_ids: Sequence[str]) -> Material:
    """Return the material that belongs to the given pairs."""
    wanted = set(pair_ids)
    return Material(
        material.methods,
        {key: entry for key, entry in material.entries.items() if key[0] in wanted},
        [one for one in material.comparisons if one.first.pair_id in wanted],
        [one for one in material.identical if one[0] in wanted],
        material.left_out,
    )


def _compare(material: Material) -> None:
    for pair_id in sorted({pair_id for pair_id, _ in material.entries}):
        present = [method for method in material.methods if (pair_id, method) in material.entries]
        pixels = {method: _pixels(material.entries[pair_id, method].image) for method in present}
        for one, other in combinations(present, 2):
            if pixels[one] == pixels[other]:
                material.identical.append((pair_id, one, other))
            else:
                comparison = Comparison(material.entries[pair_id, one], material.entries[pair_id, other])
                material.comparisons.append(comparison)


def _chosen(labels: Sequence[str], methods: Sequence[str]) -> list[str]:
    unknown = [name for name in methods if name not in labels]
    if unknown:
        raise SgoolError(f"Unknown methods: {', '.join(unknown)}. The runs have {', '.join(labels)}.")
    chosen = [label for label in labels if not methods or label in methods]
    if len(chosen) < 2:
        raise SgoolError(f"A study compares at least two methods, got {', '.join(chosen)}. Add a run or a method.")
    return chosen


def _clip_score(metrics: Mapping[str, float]) -> float | None:
    names = sorted(name for name in metrics if name.endswith("clip_score"))
    value = metrics[names[-1]] if names else None  # any judge can tell a good image from a bad one
    return value if value is not None and value == value else None


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # Pillow raises SyntaxError for a broken PNG
    return True


def _pixels(path: Path) -> tuple[tuple[int, int], bytes]:
    with Image.open(path) as picture:
        return picture.size, picture.convert("RGB").tobytes()
