"""``sgool score``: scores a run's images again, after a judge was added or replaced, without optimising anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from sgool.errors import SgoolError
from sgool.metrics.build import checked_judges
from sgool.metrics.options import JUDGES
from sgool.models.checkpoints import refuse_broken
from sgool.objectives.binding import refuse
from sgool.prompts import load_data
from sgool.results import RunFolder
from sgool.results.png_text import FRAMES
from sgool.results.sheets import cut_sheet
from sgool.results.sweeps import sweep_hint
from sgool.run.outcome import Outcome
from sgool.run.parts import Parts
from sgool.types import PairRecord, PromptSeed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH = 32
#: Options that select all prompts of the data: a run folder may hold pairs of several selections.
_ALL_PROMPTS = {"limit": None, "indices": None, "categories": None, "duplicates": "keep"}


def rescore(run: Path) -> Outcome:
    """Replaces the scores of every pair that ended well by new scores of its saved images.

    The objective's values stay. A run judges the 8-bit pixels that it saves, so the same judges give the same scores.
    Of an edit without a text, judges that compare the image with one give no score.

    Raises:
        SgoolError: ``run`` is not a run folder, holds no finished pair, or its judges lack files; or no judge can score
            its edits, since none has a text.
    """
    folder, config, records = finished(run)
    reading = _reading(config)
    _refuse_edits_without_text(run, config, records, reading)
    pairs = {} if config.get("edit") else pairs_of(config, records)  # the pairs of an edit are photos
    parts = Parts(config)
    judges = parts.judges
    refuse(judges.problems([pairs.get(record.pair_id) or _pair_of(record) for record in records]))
    folder.describe_metrics(judges.descriptions())
    folder.record_judges(judges.fingerprints())
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        chosen = [pairs.get(record.pair_id) or _pair_of(record) for record in batch]
        first, final = (_images(folder, batch, name).to(parts.device) for name in ("initial", "final"))
        rows = judges.judge(first, final, chosen, _latents(folder, batch))
        for record, scores in zip(batch, rows, strict=True):
            mute = config.get("edit") and not record.prompt
            own = {key: score for key, score in scores.items() if not (mute and key.partition("/")[0] in reading)}
            folder.replace_record(replace(record, metrics=_kept(record) | own))
    folder.record_judges(judges.fingerprints(), replace=True)  # no score of an earlier judge is left
    folder.collate()
    methods = list(config["methods"])
    ordered = sorted(folder.records(), key=lambda record: methods.index(record.method))
    return Outcome(folder.path, tuple(ordered), len(records))


def pairs_of(config: Mapping[str, Any], records: Iterable[PairRecord]) -> dict[str, PromptSeed]:
    """Returns the pairs of the run's data by their ids: all prompts, with the seeds that any start of the run had."""
    seeds = sorted({record.seed for record in records})
    data = load_data(**{**config["data"], **_ALL_PROMPTS, "seeds": seeds})  # what it notes, the run has said
    return {pair.pair_id: pair for pair in data.pairs}


def _reading(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of the judges that compare an image with a text, with the guide's."""
    judges = config["models"]["judges"].items()
    return [*(name for name, judge in judges if JUDGES.options(judge).needs_text), "guide"]


def _refuse_edits_without_text(
    run: Path, config: Mapping[str, Any], records: list[PairRecord], reading: list[str]
) -> None:
    """Refuses edits of which no judge could say anything, before a network loads."""
    if not config.get("edit") or any(record.prompt for record in records):
        return
    if set(config["models"]["judges"]) <= set(reading):
        raise SgoolError(
            f"{run}: the edits have no text, and all judges compare the image with one ({', '.join(reading)}); add a "
            "judge that reads none to `models.judges` in config.yaml, such as one of type aesthetic, image or pixels "
            "(docs/metrics.md), or look at the edits with sgool report"
        )


def finished(run: Path) -> tuple[RunFolder, dict[str, Any], list[PairRecord]]:
    """Reads a finished run: its folder, configuration (with complete judges) and the records of pairs that ended well.

    Raises:
        SgoolError: ``run`` is no run folder, or no pair ended well.
        ConfigError: The configuration's judges are wrong; the message lists all problems.
    """
    folder = RunFolder(run)
    if not folder.config_path.is_file():
        hint = sweep_hint(folder.path, "sgool score", several=False)
        raise SgoolError(f"{run} is no run folder: expected config.yaml in it, as `sgool fit` writes it.{hint}")
    config = folder.config()
    records = [record for record in folder.records() if record.status == "done"]
    if not records:
        raise SgoolError(f"{run}: expected finished pairs to score, found none")
    if "objective" not in config:
        raise SgoolError(
            f"{run}: expected a run of `sgool fit`, got one that a script has written with RunWriter: its config.yaml "
            "does not say which judges there are; give them to the script's module (judges=...) and run it again"
        )
    config["models"] = {**config["models"], "judges": checked_judges(config)}
    return folder, config, records


def _pair_of(record: PairRecord) -> PromptSeed:
    return PromptSeed(record.prompt, seed=record.seed, category=record.category)


def _kept(record: PairRecord) -> dict[str, float]:
    """Returns the metrics that come from no judge.

    These are the objective's values, how much of a prompt was cut off, and how well a photo was inverted.
    """
    kept = ("objective", "truncated", "negative_prompt/truncated", "inversion_", "vae_")
    return {key: value for key, value in record.metrics.items() if key.startswith(kept)}


def _images(folder: RunFolder, records: list[PairRecord], name: str) -> Tensor:
    paths = [folder.pair_folder(record.method, record.pair_id) / f"{name}.png" for record in records]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise SgoolError(f"cannot score: {missing[0]} is missing (and {len(missing) - 1} more)")
    return torch.from_numpy(np.stack([_read(path) for path in paths]))


def _read(path: Path) -> NDArray[np.float32]:
    """Returns an image (3, H, W), or of a video's contact sheet its frames (3, F, H, W)."""
    with Image.open(path) as picture:
        frames = picture.info.get(FRAMES)
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    return pixels if frames is None else cut_sheet(pixels, int(frames))


def _latents(folder: RunFolder, records: list[PairRecord]) -> list[tuple[Tensor, Tensor]] | None:
    """Reads the first and the final latents of each pair; None if a pair has no file of them."""
    paths = [folder.pair_folder(record.method, record.pair_id) / "latents.safetensors" for record in records]
    if not all(path.is_file() for path in paths):
        return None
    refuse_broken(paths)
    return [(stored["initial"], stored["best"]) for stored in map(load_file, paths)]
