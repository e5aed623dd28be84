"""Computes FID and KID of each method's images to a reference."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sgool.config.judges import optimised_against
from sgool.config.suggest import did_you_mean
from sgool.errors import SgoolError
from sgool.metrics import set_distances
from sgool.metrics.change import local_classifier
from sgool.metrics.distribution import ENOUGH, ClassifierFeatures, ClipFeatures, InceptionFeatures, features_of
from sgool.models.assets import resolve_asset
from sgool.models.fingerprint import fingerprints
from sgool.models.networks import Networks
from sgool.results import RunFolder
from sgool.results.compare import read_config
from sgool.run.imagesets.files import batches, clip_judges, path_of
from sgool.run.imagesets.table import OPTIMISED, Table
from sgool.run.rescore import finished, pairs_of
from sgool.types import PairRecord

_FEW = "few images"
_SAME = "same prompts and seeds as the reference"
_EMBEDDED = "emoji_world/classifier"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
#: The table's own columns; a column of the prompts with one of these names cannot be used.
_COLUMNS = {"method", "fid", "kid", "kid_std", "images", "reference_images", "kid_subset", "num_features"}
_COLUMNS |= {"features", "reference", "note"}


@dataclass(frozen=True)
class _Images:
    """Features of images, with the group of each image; empty for an image without a group."""

    features: Tensor
    groups: tuple[str, ...]

    def of(self, group: str | None) -> Tensor:
        """Returns the features of one group's images, or of all."""
        if group is None:
            return self.features
        return self.features[[index for index, name in enumerate(self.groups) if name == group]]


def score_distribution(run: Path, reference: str, features: str = "embedded", by: str | None = None) -> Table:
    """Writes FID and KID of each method's final images to a reference into ``RUN/distribution.csv``.

    Args:
        run: The run folder.
        reference: A folder of images, or the name of a method of the run. With ``by``, the folder has a subfolder for
            each group; without subfolders every group is compared with all images.
        features: ``embedded`` (the embedded classifier), ``inception``, the name of a judge that is a CLIP (or
            ``guide``), or the folder of a classifier of timm.
        by: ``category``, ``prompt``, or another column of the prompts; each of its values then has a row too.

    Raises:
        SgoolError: An argument is wrong, there are no images, or weights are missing.
    """
    folder, config, records = finished(run)
    groups = _groups(by, config, records)
    methods = list(dict.fromkeys(record.method for record in records))
    names = sorted(set(groups.values()) - {""}) if by else []
    folders = _reference_files(reference, methods, by)
    files = _grouped(folders, names, by)
    network, optimised = _features(features, folder, config)
    own = {name: _of_records(folder, [r for r in records if r.method == name], groups, network) for name in methods}
    given = _of_files(files, network) if files else own[reference]
    shared = bool(folders) and not any(folders.values())
    same_pairs = not files or any(path.resolve().is_relative_to((run / "pairs").resolve()) for path in files)
    rows: list[dict[str, Any]] = []
    for method in [name for name in methods if files or name != reference]:
        for group in (None, *names):
            row, note = _row(own[method].of(group), given.of(None if shared else group), same_pairs, optimised)
            rows.append({"method": method, by or "category": "" if group is None else group, **row})
            rows[-1] |= {"features": features, "reference": reference, "note": note}
    if not rows:
        raise SgoolError(f"--distribution: the run has no method but {reference!r} to compare with it")
    return Table(folder.path / "distribution.csv", tuple(rows), tuple(_notes(rows, by if shared else None))).write()


def _notes(rows: Sequence[dict[str, Any]], ungrouped: str | None) -> Iterator[str]:
    """Returns what the reader of the table has to know; ``ungrouped``: a column without subfolders in the reference."""
    if ungrouped:
        yield f"the reference has no subfolders: each {ungrouped} of the run is compared with all of it"
    if any(OPTIMISED in row["note"] for row in rows):
        yield (
            f"{OPTIMISED}: the run's objective used the network of these features, so FID and KID say how well it was "
            "optimised, and are no evidence; take other features, such as those of a judge: --features JUDGE"
        )
    if any(_FEW in row["note"] for row in rows):
        yield (
            "FID and KID of few images say little: FID is biased upwards by an amount that depends on the number of "
            "images, so compare rows of equal numbers alone, and never with published values"
        )
    if any(_SAME in row["note"] for row in rows):
        yield (
            "the reference has the same prompts and seeds: its images are not independent of the others, which lowers "
            "FID and KID (KID may fall below 0); a reference of other seeds, or real images, has no such bias"
        )


def _row(images: Tensor, reference: Tensor, same_pairs: bool, optimised: bool) -> tuple[dict[str, Any], str]:
    """Computes a row's numbers, and a note on them."""
    found = set_distances(images, reference)
    few = min(len(images), len(reference))
    enough = max(ENOUGH, images.shape[1] + 1)
    notes = [OPTIMISED] if optimised else []
    notes += [f"{_FEW}: FID is biased below {enough} on each side"] if few < enough else []
    notes += [_SAME] if same_pairs else []
    if few < 2:
        notes = ["fewer than 2 images on a side" if len(reference) else "the reference has no images of this group"]
    row = {"fid": found.fid, "kid": found.kid, "kid_std": found.kid_std}
    return row | {
        "images": len(images),
        "reference_images": len(reference),
        "kid_subset": found.kid_subset,
        "num_features": images.shape[1],
    }, "; ".join(notes)


def _features(name: str, folder: RunFolder, config: dict[str, Any]) -> tuple[nn.Module, bool]:
    """Loads the features' network, and tells whether the objective ever used it in this run."""
    models = config["models"]
    networks = Networks(models, config["trainer"]["devices"])
    if name == "inception":
        return InceptionFeatures().to(networks.device), False
    clips = {"guide": models["guide"], **clip_judges(config)}
    if name in clips and name != "embedded":
        clip = ClipFeatures(networks.clip(**clips[name]))
        return clip, _is_optimised(name, models, folder, config, clip)
    place = _EMBEDDED if name == "embedded" else name
    if name != "embedded" and not Path(resolve_asset(place)).expanduser().is_dir():
        raise SgoolError(
            "--features: expected embedded, inception, a CLIP judge of the run, guide, or the folder of a classifier, "
            f"got {name!r}{did_you_mean(name, clips) or '.'} CLIPs of the run: {', '.join(clips)}"
        )
    as_judge = {**models, "judges": {"features": {"type": "perceptual", "network": "local", "checkpoint": place}}}
    classifier = ClassifierFeatures(local_classifier(place, networks))
    return classifier, _is_optimised("features", as_judge, folder, config, classifier)


def _is_optimised(
    judge: str, models: dict[str, Any], folder: RunFolder, config: dict[str, Any], features: nn.Module
) -> bool:
    """Whether a judge shares weights with an objective that any of the run's pairs was made with.

    Args:
        judge: The name of the judge in ``models``.
        models: The ``models`` part of the configuration, with the judge.
        folder: The run folder.
        config: The run's configuration.
        features: The judge's network.

    Raises:
        SgoolError: An earlier configuration of the run, from before --resume-with-changes, cannot be read.
    """
    earlier = map(read_config, sorted(folder.path.glob("config-*.yaml")))
    record = folder.networks()
    record["judges"] = {judge: fingerprints(features)}
    return any(judge in optimised_against({**settings, "models": models}, record) for settings in (config, *earlier))


def _groups(by: str | None, config: dict[str, Any], records: Sequence[PairRecord]) -> dict[str, str]:
    """Maps pair ids to the pairs' values in the column ``by``; an empty cell gives an empty text.

    Raises:
        SgoolError: There is no such column.
    """
    if by in (None, "category", "prompt"):
        return {record.pair_id: record.prompt if by == "prompt" else record.category for record in records}
    pairs = pairs_of(config, records)
    facts = {record.pair_id: pairs[record.pair_id].metadata if record.pair_id in pairs else {} for record in records}
    known = {key for row in facts.values() for key, value in row.items() if value not in (None, "")} - _COLUMNS
    if by not in known:
        raise SgoolError(
            f"--by: expected category, prompt or another column of the prompts, got {by!r}"
            f"{did_you_mean(by, known) or '.'} Columns: {', '.join(sorted(known)) or 'none'}"
        )
    values = {pair_id: row.get(by) for pair_id, row in facts.items()}
    return {pair_id: "" if value is None else str(value).strip() for pair_id, value in values.items()}


def _reference_files(reference: str, methods: Sequence[str], by: str | None) -> dict[Path, str]:
    """Maps the reference's image files to their subfolders; empty for a file directly in the reference.

    A reference that is a method of the run gives no files.

    Raises:
        SgoolError: The reference is neither a folder with images nor a method.
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
    # The reference may be a method's folder in a run, with several images per pair: the final images count.
    found = sorted(folder.glob("*/final.png"))
    if found:
        return dict.fromkeys(found, "")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise SgoolError(f"--distribution: expected PNG, JPEG or WebP files in {folder}, found none")
    parts = {path: path.relative_to(folder).parts for path in found}
    return {path: names[0] if by and len(names) > 1 else "" for path, names in parts.items()}


def _grouped(folders: Mapping[Path, str], values: Sequence[str], by: str | None) -> dict[Path, str]:
    """Maps image files to the values of the column ``by`` that their subfolders are named after; empty for the others.

    Raises:
        SgoolError: Two values, or two subfolders of one value, have the same letters and digits, or a value has none.
    """
    found = dict.fromkeys(filter(None, folders.values()))
    if not found:
        return dict(folders)
    mend = "Give a reference without subfolders, a method of the run, or another column"
    value_of: dict[str, str] = {}
    for value in values:
        name = _folder_name(value)
        if not name or name in value_of:
            got = f"{value_of[name]!r} and {value!r}, both {name!r}" if name else f"{value!r}, which has neither"
            raise SgoolError(
                f"--by {by}: the reference has subfolders, so expected values that differ in letters or digits, which "
                f"alone count in a subfolder's name, got {got}. {mend}"
            )
        value_of[name] = value
    folder_of: dict[str, str] = {}
    for folder in found:
        name = _folder_name(folder)
        if folder_of.setdefault(name, folder) != folder and name in value_of:
            raise SgoolError(
                f"--distribution: expected one subfolder for the {by} {value_of[name]!r}, got {folder_of[name]!r} and "
                f"{folder!r}, which have the same letters and digits. Rename or join them"
            )
    return {path: value_of.get(_folder_name(folder), "") for path, folder in folders.items()}


def _of_files(files: dict[Path, str], network: nn.Module) -> _Images:
    return _Images(features_of(network, batches(list(files))), tuple(files.values()))


def _of_records(
    folder: RunFolder, records: Sequence[PairRecord], groups: Mapping[str, str], network: nn.Module
) -> _Images:
    paths = [path_of(folder, record) for record in records]
    return _Images(features_of(network, batches(paths)), tuple(groups[record.pair_id] for record in records))


def _folder_name(text: str) -> str:
    """Reduces a value or a folder's name to its letters and digits, in any script, by which they are compared."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    # Marks are the vowels of many scripts; \w leaves them out.
    kept = "".join(char if unicodedata.category(char)[0] in "LNM" else "-" for char in plain)
    return re.sub("-+", "-", kept).strip("-")
