"""The main job: methods over prompt-seed pairs, into a run folder, skipping what is done."""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sgool.config import to_plain
from sgool.prompts import load_pairs
from sgool.results import RunFolder
from sgool.types import PairRecord, PromptSeed

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sgool.methods import PairResult
    from sgool.session import Session


class Progress(Protocol):
    """What the runner tells while it works."""

    def start(self, pairs: int, methods: Sequence[str], left: int) -> None:
        """The run begins: pairs, methods, and (method, pair) problems left to do."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should know before the work begins."""
        ...

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """A batch of pairs begins."""
        ...

    def update(self, update: int, total: int) -> None:
        """An update of the batch is done."""
        ...

    def done(self, records: Sequence[PairRecord]) -> None:
        """The batch has ended and its records are written."""
        ...


class Silent:
    """Tells nothing."""

    def start(self, pairs: int, methods: Sequence[str], left: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """Nothing."""

    def update(self, update: int, total: int) -> None:
        """Nothing."""

    def done(self, records: Sequence[PairRecord]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        run_dir: The run folder.
        records: All records of this run's methods and pairs, also those that were there before.
        new: How many were made now.
    """

    run_dir: Path
    records: tuple[PairRecord, ...]
    new: int

    @property
    def failed(self) -> tuple[PairRecord, ...]:
        """Records of pairs that did not end well."""
        return tuple(record for record in self.records if record.status != "done")

    @property
    def exit_code(self) -> int:
        """0 only if every pair ended well."""
        return 1 if self.failed else 0


def run_experiment(config: DictConfig, progress: Progress | None = None) -> Outcome:
    """Runs ``config.methods`` over the pairs of ``config.data``.

    Finished pairs are skipped; nothing heavy is imported when nothing is left to do. Pairs are batched by
    ``trainer.pairs_per_fit``; each finished pair is written at once.

    Raises:
        SgoolError: Anything the user can mend, before the first network call where it can be known.
    """
    progress = progress or Silent()
    plain = to_plain(config)
    pairs = load_pairs(**plain["data"])
    folder = RunFolder(plain["run_dir"]).open(plain, device=device_name(plain))
    methods = list(plain["methods"])
    left = {method: _left(folder, method, pairs, plain["resume"]) for method in methods}
    number = sum(map(len, left.values()))
    progress.start(len(pairs), methods, number)
    if number:
        from sgool.session import Session

        limit_threads(plain["trainer"]["threads"])
        session = Session(plain)
        for text in session.truncations(pair.prompt for pair in pairs):
            progress.note(text)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="prompt over")  # said once above, not at every fit
            for method in methods:
                if left[method]:
                    _run_method(session, plain, folder, method, left[method], progress)
    folder.collate()
    wanted = {(method, pair.pair_id) for method in methods for pair in pairs}
    records = tuple(record for record in folder.records() if (record.method, record.pair_id) in wanted)
    return Outcome(folder.path, _ordered(records, methods, pairs), number)


def fit(*overrides: str, config_dir: Path | None = None) -> Outcome:
    """``sgool fit`` from Python: ``fit("experiment=demo", "data.seeds=[1]")``."""
    from sgool.config import load_config

    return run_experiment(load_config(overrides, config_dir))


def _left(folder: RunFolder, method: str, pairs: Sequence[PromptSeed], resume: bool) -> list[PromptSeed]:
    return [pair for pair in pairs if not (resume and folder.is_done(method, pair.pair_id, retry_failed=True))]


def _ordered(
    records: Sequence[PairRecord], methods: Sequence[str], pairs: Sequence[PromptSeed]
) -> tuple[PairRecord, ...]:
    place = {pair.pair_id: index for index, pair in enumerate(pairs)}
    return tuple(sorted(records, key=lambda record: (methods.index(record.method), place[record.pair_id])))


def _run_method(
    session: Session,
    config: dict[str, Any],
    folder: RunFolder,
    name: str,
    pairs: Sequence[PromptSeed],
    progress: Progress,
) -> None:
    from sgool.loggers import build_loggers, close_loggers, log_results
    from sgool.methods import FitSettings
    from sgool.metrics.panel import aggregate
    from sgool.prompts.datamodule import PromptDataModule

    method = session.method(name)
    loggers = build_loggers(config["logger"], run_dir=folder.path, name=config["name"], method=name, config=config)
    settings = FitSettings(session.module_options(), session.trainer_options(), loggers, progress.update)
    all_metrics: list[dict[str, float]] = []
    for batch in PromptDataModule(pairs, pairs_per_fit=config["trainer"]["pairs_per_fit"]).predict_dataloader():
        progress.batch(name, batch)
        started = time.perf_counter()
        results = method.run(batch, settings)
        metrics = _score(session, results)
        seconds = (time.perf_counter() - started) / len(batch)
        records = [write_result(folder, name, r, m, seconds) for r, m in zip(results, metrics, strict=True)]
        # Failed pairs may hold images that are not finite; their records say why they failed.
        good = [index for index, result in enumerate(results) if result.error is None]
        log_results(loggers, [results[i] for i in good], [metrics[i] for i in good])
        all_metrics += [metrics[i] for i in good]
        progress.done(records)
    close_loggers(loggers, aggregate(all_metrics))


def _score(session: Session, results: Sequence[PairResult]) -> list[dict[str, float]]:
    """Each image's metrics; those of the first image get the suffix ``_initial``."""
    import torch

    pairs = [result.pair for result in results]
    rows: list[dict[str, float]] = [{} for _ in results]
    for suffix, images in (
        ("_initial", [result.initial_image for result in results]),
        ("", [result.final_image for result in results]),
    ):
        scores = session.judges.score(torch.stack(images).to(session.device), pairs)
        for row, values in zip(rows, scores, strict=True):
            row |= {f"{name}{suffix}": value for name, value in values.items()}
    for row, result in zip(rows, results, strict=True):
        if result.history:
            row["objective_initial"] = result.history[0]["selection"]
            row["objective"] = result.history[result.best_step]["selection"]
    return rows


def write_result(
    folder: RunFolder, method: str, result: PairResult, metrics: dict[str, float], seconds: float
) -> PairRecord:
    """Writes a pair's files and its record, which it returns."""
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
        metrics=metrics,
        network_evaluations=result.network_evaluations,
        seconds=round(seconds, 3),
        peak_memory_mib=round(_peak_memory_mib(), 1),
    )
    finite = bool(result.initial_image.isfinite().all()) and bool(result.final_image.isfinite().all())
    images = {"initial": result.initial_image, "final": result.final_image} if finite else {}
    latents = {"initial": result.initial_latents, "best": result.final_latents}
    saliency_map = result.saliency_map if finite else None
    snapshots = [(update, image) for update, image in result.snapshots if bool(image.isfinite().all())]
    folder.write(record, images, saliency_map, result.history, latents, snapshots)
    return record


def _peak_memory_mib() -> float:
    """Peak of the GPU's memory where one is used, else of the process's."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB here


def device_name(config: dict[str, Any]) -> str | None:
    """For `RunFolder.open`: "cpu" where that was asked for; None: to be found out."""
    return "cpu" if config["models"]["device"] == "cpu" else None


def limit_threads(threads: int | None) -> None:
    """Sets torch's CPU threads; None: as torch decides."""
    if threads:
        import torch

        torch.set_num_threads(threads)
