"""The callback that writes the run folder: a pair's files and its record, as soon as its batch is done."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import PairCallback
from sgool.callbacks.described import digest
from sgool.callbacks.stopping import EarlyStop
from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.results import NOT_COMPARED, RunFolder
from sgool.results.checkpoint import origin
from sgool.types import PairRecord, PairResult, PhraseMatch, PromptSeed


class RunWriter(PairCallback):
    """Writes each pair's pictures, history, latents and ``record.json`` (last, atomically), then ``results.csv``.

    ``Trainer(callbacks=[*default_callbacks(), RunWriter("runs/mine")])`` leaves a folder that
    `sgool report` reads. A pair that is recorded already is written anew.

    Args:
        run_dir: The run folder, or its path; made if it is missing.
        method: Name of the method in the folder; by default the module's own.
        wanted: Which pairs to write; by default all.
        on_record: Told each record once it is written.
        accept_changes: Go on in a folder whose results were made with other settings; the report says so.

    Settings that differ from those of the folder's results are refused: other terms, targets, networks of terms and
    detectors, other rules of an update (see `sgool.callbacks.described.digest`).

    Several methods may be written into one folder, one Trainer after the other: the report then compares them.

    Examples:
        >>> import lightning as L
        >>> from sgool import Chain, PromptDataModule, RunWriter, Vanilla
        >>> chain = Chain.from_pretrained("emoji_world_turbo", num_inference_steps=1, guidance_scale=0)
        >>> trainer = L.Trainer(callbacks=[RunWriter("runs/plain")], logger=False, enable_progress_bar=False)
        >>> _ = trainer.predict(Vanilla(chain), datamodule=PromptDataModule("emoji_world/demo", limit=1))
        >>> from pathlib import Path
        >>> sorted(path.name for path in Path("runs/plain").iterdir())
        ['config.yaml', 'environment.json', 'locks', 'networks.json', 'pairs', 'results.csv']
    """

    order = 90

    def __init__(
        self,
        run_dir: RunFolder | str | Path,
        method: str | None = None,
        *,
        wanted: Callable[[PromptSeed], bool] | None = None,
        on_record: Callable[[PairRecord], None] | None = None,
        accept_changes: bool = False,
    ) -> None:
        # A folder that is given as such was opened, and is collated, by whoever gives it.
        self._own = not isinstance(run_dir, RunFolder)
        self.folder = run_dir if isinstance(run_dir, RunFolder) else RunFolder(run_dir)
        self._method, self._wanted, self._on_record = method, wanted, on_record
        self._accept_changes = accept_changes

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Opens the folder before any network call, and says which metrics and networks there are.

        Raises:
            SgoolError: It cannot be written, or holds results of other settings.
        """
        if self._own:
            described = _description(pl_module, self._method, trainer)
            not_compared = _join(described, self.folder)
            self.folder.open(described, not_compared=not_compared, accept_changes=self._accept_changes)
        if pl_module.panel is not None:
            self.folder.describe_metrics(pl_module.panel.descriptions())
            self.folder.record_judges(pl_module.panel.fingerprints())
        objective = getattr(pl_module, "objective", None)
        terms: dict[str, list[str]] = {} if objective is None else objective.fingerprints()
        for callback in pl_module.pair_callbacks():
            if isinstance(callback, EarlyStop):
                terms |= callback.fingerprints()
        self.folder.record_objective(self._method or pl_module.method, terms)

    def on_pairs_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Lets a GPU measure its peak of memory anew, for each batch of each method by itself."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()

    def on_pairs_end(self, trainer: L.Trainer, pl_module: Any, results: Sequence[PairResult]) -> None:
        """Writes the files and the record of each pair of the batch."""
        for result in results:
            if self._wanted is None or self._wanted(result.pair):
                record = write_result(self.folder, self._method or pl_module.method, result, pl_module.chain)
                if self._on_record is not None:
                    self._on_record(record)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Collates ``results.csv`` at the Trainer's end."""
        if self._own:
            self.folder.collate()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Collates ``results.csv`` where an exception ends the Trainer: what is recorded is kept."""
        if self._own:
            self.folder.collate()


def write_result(folder: RunFolder, method: str, result: PairResult, chain: Chain | None = None) -> PairRecord:
    """Writes a pair's files and its record, which it returns; the chain's model and settings go into the PNG files."""
    record = PairRecord(
        pair_id=result.pair.pair_id,
        method=method,
        prompt=result.pair.prompt,
        category=result.pair.category,
        seed=result.pair.seed,
        status="failed" if result.error else "done",
        error=result.error,
        num_optimization_steps=result.num_optimization_steps,
        best_step=result.best_step,
        metrics=result.metrics,
        network_evaluations=result.network_evaluations,
        network_backward_passes=result.network_backward_passes,
        seconds=round(result.seconds, 3),
        peak_memory_mib=round(_peak_memory_mib(), 1),
        phrases=[_found(match) for match in result.phrases],
    )
    finite = _is_finite(result.initial_image) and _is_finite(result.final_image)
    images = {"initial": result.initial_image, "final": result.final_image} if finite else {}
    latents = {"initial": result.initial_latents, "best": result.final_latents}
    saliency_map = result.saliency_map if finite else None
    snapshots = [(update, image) for update, image in result.snapshots if _is_finite(image)]
    origin = _origin(result.pair, chain)
    folder.write(record, images, saliency_map, result.history, latents, snapshots, _further_images(result), origin)
    return record


def _found(match: PhraseMatch) -> dict[str, Any]:
    """A phrase as a record has it."""
    region = match.region
    box = None if region is None else [region.top, region.left, region.height, region.width]
    return {"phrase": match.phrase, "distance": match.distance, "box": box}


def write_failure(folder: RunFolder, method: str, pair: PromptSeed, error: str, seconds: float) -> PairRecord:
    """Writes the record of a pair that has nothing but the reason why it failed."""
    record = PairRecord(
        pair_id=pair.pair_id,
        method=method,
        prompt=pair.prompt,
        category=pair.category,
        seed=pair.seed,
        status="failed",
        error=error,
        num_optimization_steps=0,
        best_step=0,
        metrics={},
        network_evaluations=0,
        seconds=round(seconds, 3),
        peak_memory_mib=round(_peak_memory_mib(), 1),
    )
    folder.write(record)
    return record


def _origin(pair: PromptSeed, chain: Chain | None) -> dict[str, Any]:
    """What a picture's file says beside the record."""
    known = {} if chain is None else {"model": chain.name, "sampler": chain.sampler.name}
    names = ("num_inference_steps", "guidance_scale") if chain is not None else ()
    return {"negative_prompt": pair.negative_prompt, **known, **{name: getattr(chain, name) for name in names}}


def _further_images(result: PairResult) -> dict[str, Tensor]:
    """What a pair that started from a picture shows beside: that picture, and both side by side."""
    if result.pair.start is None:
        return {}
    images = {name: image for name, image in result.pair.start.images.items() if _is_finite(image)}
    if "input" in images and _is_finite(result.final_image):
        images["before_after"] = _side_by_side(images["input"], result.final_image)
    return images


def _side_by_side(before: Tensor, after: Tensor) -> Tensor:
    """Both with a white stripe between them."""
    stripe = torch.ones(3, before.shape[1], max(2, before.shape[2] // 32))
    return torch.cat([before, stripe, after.to(before)], dim=2)


def _is_finite(image: Tensor) -> bool:
    return bool(image.isfinite().all())


def _peak_memory_mib() -> float:
    """Peak of the GPU's memory in this batch where one is used, else of the process since it began."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB here


def _description(module: Any, method: str | None, trainer: L.Trainer) -> dict[str, Any]:
    """A configuration of what a module and its Trainer say of themselves, in the layout of `sgool fit`'s.

    Of the method, ``other_settings`` is a hash of what else results depend on: optimiser, callbacks, size, kinds of
    terms. ``parts`` has a hash for each term and detector, of its targets and networks.
    """
    chain, name = module.chain, method or module.method
    steps = {"num_optimization_steps": getattr(module, "num_optimization_steps", 0)}
    return {
        "name": name,
        "methods": [name],
        "models": {"path": chain.name, "dtype": str(chain.dtype).removeprefix("torch.")},
        "sampler": {
            "name": chain.sampler.name,
            "num_inference_steps": chain.num_inference_steps,
            "guidance_scale": chain.guidance_scale,
        },
        "method": {
            name: {"optimization": steps, "other_settings": _hash_of_settings(module), "parts": _digests(module)}
        },
        "trainer": {"precision": str(trainer.precision)},
    }


def _hash_of_settings(module: Any) -> str:
    # The pairs that an earlier Trainer has left in it are no settings.
    pairs, module.pairs = module.pairs, ()
    try:
        return str(origin("", (), [*module.checkpoint_settings(), *module.chain.latent_shape()])["settings"])[:16]
    finally:
        module.pairs = pairs


def _digests(module: Any) -> dict[str, str]:
    """The hash of each part that a method's objectives and early stops are made of, by a name for messages."""
    found: dict[str, str] = {}
    for kind in ("objective", "choosing"):
        if (objective := getattr(module, kind, None)) is None:
            continue
        found |= {f"{kind} {name}": digest(term) for name, term in objective.terms.items()}
        if objective.saliency is not None:
            found[f"{kind}'s detector"] = digest(objective.saliency.detector)
    stops = [callback for callback in module.pair_callbacks() if isinstance(callback, EarlyStop)]
    return found | {f"early_stop {stop.term.name}": digest(stop.term) for stop in stops}


def _join(description: dict[str, Any], folder: RunFolder) -> tuple[str, ...]:
    """Adds, in place, the settings that the folder has of other methods; returns the keys that are not compared.

    They are those of the method where the folder does not have it yet, and its parts where an earlier version, which
    did not write them, has made the folder.
    """
    (name,) = description["methods"]
    earlier: dict[str, Any] = {}
    if folder.config_path.exists():
        with contextlib.suppress(SgoolError):  # what is wrong with it, opening it says
            earlier = folder.config()
    description["method"] = {**(earlier.get("method") or {}), **description["method"]}
    if name not in earlier.get("methods", ()):
        return (*NOT_COMPARED, f"method.{name}")
    known = "parts" in (earlier.get("method") or {}).get(name, {})
    return NOT_COMPARED if known else (*NOT_COMPARED, f"method.{name}.parts")
