"""``sgool score RUN --distribution`` and ``--diversity``: what a run's images are like as sets."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sgool.atomic import atomic_write, explain_os_errors
from sgool.config.suggest import did_you_mean
from sgool.errors import SgoolError
from sgool.metrics import Diversity, set_distances
from sgool.metrics.build import local_classifier
from sgool.metrics.distribution import ENOUGH, ClassifierFeatures, InceptionFeatures, features_of
from sgool.models.images import open_photo, to_tensor
from sgool.models.networks import Networks
from sgool.rescore import finished
from sgool.results import RunFolder
from sgool.types import PairRecord

_FEW = "few images"
_EMBEDDED = "emoji_world/classifier"
_BATCH = 32
#: Columns that are long, or the same in every row: in the file alone.
_FILE_ONLY = ("features", "reference", "num_features", "kid_subset", "note")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


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
        heads = tuple(key for key in self.rows[0] if key not in _FILE_ONLY)
        return [heads, *(tuple(_short(row[key]) for key in heads) for row in self.rows)]

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


@dataclass(frozen=True)
class _Images:
    """Features of images, with the category of each (as `_slug` writes it)."""

    features: Tensor
    categories: tuple[str, ...]

    def of(self, category: str | None) -> Tensor:
        """Those of one category, or all."""
        if category is None:
            return self.features
        return self.features[[index for index, name in enumerate(self.categories) if name == _slug(category)]]


def score_distribution(run: Path, reference: str, features: str = "embedded", by: str | None = None) -> Table:
    """FID and KID of each method's final images to a reference, into ``RUN/distribution.csv``.

    Args:
        run: The run folder.
        reference: A folder of images (with ``by``, a subfolder for each category, or none at all: then every category
            is compared with all of them), or the name of a method of the run.
        features: ``embedded`` (the embedded classifier), ``inception``, or the folder of a classifier of timm.
        by: ``category``: a row for each category too.

    Raises:
        SgoolError: Wrong arguments, no images, missing weights.
    """
    folder, config, records = finished(run)
    if by not in (None, "category"):
        raise SgoolError(f"--by: expected category, got {by!r}")
    methods = list(dict.fromkeys(record.method for record in records))
    files = _reference_files(reference, methods, by)
    network = _features(features, config)
    own = {name: _of_records(folder, [r for r in records if r.method == name], network) for name in methods}
    given = _of_files(files, network) if files else own[reference]
    shared = bool(files) and not any(given.categories)
    same_pairs = not files or any(path.resolve().is_relative_to((run / "pairs").resolve()) for path in files)
    names: list[str | None] = [None]
    names += sorted({record.category for record in records} - {""}) if by else []
    rows: list[dict[str, Any]] = []
    notes = ["the reference has no categories: each of the run's is compared with all of it"] if by and shared else []
    for method in [name for name in methods if files or name != reference]:
        for category in names:
            others = given.of(None if shared else category)
            row, note = _row(own[method].of(category), others, same_pairs)
            rows.append({"method": method, "category": "" if category is None else category, **row})
            rows[-1] |= {"features": features, "reference": reference, "note": note}
    if not rows:
        raise SgoolError(f"--distribution: the run has no method but {reference!r} to compare with it")
    if any(_FEW in row["note"] for row in rows):
        notes.append(
            "FID and KID of few images say little: FID is biased upwards by an amount that depends on the number of "
            "images, so compare rows of equal numbers alone, and never with published values"
        )
    if same_pairs:
        notes.append(
            "the reference has the same prompts and seeds: its images are not independent of the others, which lowers "
            "FID and KID (KID may fall below 0); a reference of other seeds, or real images, has no such bias"
        )
    return Table(folder.path / "distribution.csv", tuple(rows), tuple(notes)).write()


def score_diversity(run: Path, judge: str) -> Table:
    """How much the images of one prompt differ over seeds, per method and category, into ``RUN/diversity.csv``.

    Args:
        run: The run folder.
        judge: Name of a judge that is a CLIP, in whose space images are compared.

    Raises:
        SgoolError: No such judge, or no prompt with several seeds.
    """
    folder, config, records = finished(run)
    clips = {name: clip for name, clip in config["models"]["judges"].items() if "type" not in clip}
    if judge not in clips:
        hint = did_you_mean(judge, clips) or "."
        raise SgoolError(f"--diversity: there is no CLIP judge {judge!r}{hint} Judges: {', '.join(clips) or 'none'}")
    networks = Networks(config["models"], config["trainer"]["devices"])
    metric = Diversity(networks.clip(**clips[judge]))
    rows = []
    for method in dict.fromkeys(record.method for record in records):
        mine = [record for record in records if record.method == method]
        for category in ("", *sorted({record.category for record in mine} - {""})):
            metric.reset()
            chosen = [record for record in mine if not category or record.category == category]
            groups = _several_seeds(chosen)
            for group in groups:
                metric.update(torch.stack([_pixels(_path(folder, record)) for record in group]).to(networks.device))
            value = float(metric.compute()) if metric.number else math.nan
            rows.append({"method": method, "category": category, "judge": judge, "diversity": value})
            rows[-1] |= {"prompts": len(groups), "images": sum(map(len, groups))}
    if not any(row["prompts"] for row in rows):
        raise SgoolError(f"--diversity: {run} has no prompt with two seeds; run it with data.seeds=2 or more")
    return Table(folder.path / "diversity.csv", tuple(rows)).write()


def _row(images: Tensor, reference: Tensor, same_pairs: bool) -> tuple[dict[str, Any], str]:
    """A row's numbers, and what is to be said of them."""
    found = set_distances(images, reference)
    few = min(len(images), len(reference))
    enough = max(ENOUGH, images.shape[1] + 1)
    notes = [f"{_FEW}: FID is biased below {enough} on each side"] if few < enough else []
    notes += ["same prompts and seeds as the reference"] if same_pairs else []
    if few < 2:
        notes = ["fewer than 2 images on a side" if len(reference) else "the reference has no images of this category"]
    row = {"fid": found.fid, "kid": found.kid, "kid_std": found.kid_std}
    return row | {
        "images": len(images),
        "reference_images": len(reference),
        "kid_subset": found.kid_subset,
        "num_features": images.shape[1],
    }, "; ".join(notes)


def _features(name: str, config: dict[str, Any]) -> nn.Module:
    networks = Networks(config["models"], config["trainer"]["devices"])
    if name == "inception":
        return InceptionFeatures().to(networks.device)
    if name != "embedded" and not Path(name).expanduser().is_dir():
        raise SgoolError(f"--features: expected embedded, inception, or the folder of a classifier, got {name!r}")
    return ClassifierFeatures(local_classifier(_EMBEDDED if name == "embedded" else name, networks))


def _reference_files(reference: str, methods: Sequence[str], by: str | None) -> dict[Path, str]:
    """Image file -> its category (the name of its folder below the reference); empty for a method.

    Raises:
        SgoolError: Neither a folder with images nor a method.
    """
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        if reference in methods:
            return {}
        hint = did_you_mean(reference, methods) or "."
        raise SgoolError(
            f"--distribution: expected a folder of images or a method of the run, got {reference!r}{hint} Methods: "
            f"{', '.join(methods)} (relative paths start at {Path.cwd()})"
        )
    # A method's folder in a run holds several images a pair; the final ones are meant.
    found = sorted(folder.glob("*/final.png"))
    if found:
        return dict.fromkeys(found, "")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise SgoolError(f"--distribution: expected PNG, JPEG or WebP files in {folder}, found none")
    parts = {path: path.relative_to(folder).parts for path in found}
    return {path: names[0] if by and len(names) > 1 else "" for path, names in parts.items()}


def _of_files(files: dict[Path, str], network: nn.Module) -> _Images:
    return _Images(features_of(network, _batches(list(files))), tuple(map(_slug, files.values())))


def _of_records(folder: RunFolder, records: Sequence[PairRecord], network: nn.Module) -> _Images:
    paths = [_path(folder, record) for record in records]
    return _Images(features_of(network, _batches(paths)), tuple(_slug(record.category) for record in records))


def _batches(paths: Sequence[Path]) -> Iterator[Tensor]:
    """The images in their order, (B, 3, h, w) each, as many at once as fit and are of one size."""
    for _, group in groupby(map(_pixels, paths), key=lambda image: image.shape):
        while images := list(islice(group, _BATCH)):
            yield torch.stack(images)


def _pixels(path: Path) -> Tensor:
    return to_tensor(open_photo(path, "image", smallest_side=1))


def _path(folder: RunFolder, record: PairRecord) -> Path:
    return folder.pair_folder(record.method, record.pair_id) / "final.png"


def _several_seeds(records: Sequence[PairRecord]) -> list[list[PairRecord]]:
    """The records of each prompt that has several seeds, one a seed."""
    groups: dict[str, dict[int, PairRecord]] = {}
    for record in records:
        groups.setdefault(record.prompt, {}).setdefault(record.seed, record)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _slug(text: str) -> str:
    """Categories and folders' names are compared without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _short(value: Any) -> str:
    if _is_nan(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
