"""What all methods share: a LightningModule that turns batches of prompt-seed pairs into images."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.aggregation import MeanMetric

from sgool.callbacks.base import PairCallback
from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.methods.starts import network_prompts, start_latents
from sgool.methods.trainer_checks import check_trainer
from sgool.metrics.panel import JudgePanel
from sgool.objectives import Objective
from sgool.prompts.batches import PairBatch, PairLoader
from sgool.types import PairResult, PromptSeed


class PairModule(L.LightningModule):
    """Takes up batches of pairs, one after the other, and hands over their results.

    A subclass makes the images: by training (`sgool.methods.LatentPairModule`) or in `round` by prediction. The frozen
    networks are no children of the module: its checkpoints hold latents and sums of scores alone.

    Args:
        chain: The denoising chain.
        judges: Name -> a CLIP tower or metrics, or a whole `JudgePanel`; they score the first and the final images.
        pairs: Pairs of its own, as one batch; by default a `PromptDataModule` serves them.

    Attributes:
        method: Name of the method, in run folders.
        num_rounds: How often prediction works on a batch.
        pairs: Those of the batch under way.
        batch: The batch under way, None before the first.
        batch_chain: The chain for the prompts of the batch; it counts the batch's network calls.
        seconds_before: Wall seconds that earlier, interrupted starts of the batch took.
        results: Those of the last batch that is done.
        compared_with: For a method without an objective: that of the methods beside it, which may not read all of a
            prompt either (`unread`).
    """

    method: str = ""
    num_rounds: int = 1

    def __init__(
        self,
        chain: Chain,
        *,
        judges: JudgePanel | Mapping[str, Any] | None = None,
        pairs: Sequence[PromptSeed] | None = None,
    ) -> None:
        super().__init__()
        if pairs is not None and not pairs:
            raise SgoolError("`pairs`: expected at least one prompt-seed pair, got none")
        self.chain = chain
        self.panel = judges if isinstance(judges, JudgePanel) or judges is None else JudgePanel(judges)
        #: Means of the objective over all pairs, on their final and on their first images.
        self.objective_mean, self.objective_initial_mean = _mean(), _mean()
        self._own = None if pairs is None else tuple(pairs)
        self.pairs: tuple[PromptSeed, ...] = ()
        self.batch: PairBatch | None = None
        self.batch_chain = chain
        self.seconds_before = 0.0
        self.results: list[PairResult] = []
        self.compared_with: Objective | None = None
        self._began = time.perf_counter()

    # Where pairs come from

    def setup(self, stage: str) -> None:
        """Refuses what cannot work, before any network call; puts the callbacks in their order.

        Raises:
            SgoolError: Pairs from two places or from none, or switches of the Trainer that do not fit.
        """
        if self._own is not None and self._data_module() is not None:
            raise SgoolError(
                f"`pairs`: {type(self).__name__} was made with {len(self._own)} pairs of its own, and the Trainer got "
                "a data module as well; leave one of them out"
            )
        check_trainer(self.trainer, stage)
        ordered = iter(sorted(self.pair_callbacks(), key=lambda callback: callback.order))
        self.trainer.callbacks[:] = [  # type: ignore[attr-defined]
            next(ordered) if isinstance(callback, PairCallback) else callback
            for callback in self.trainer.callbacks  # type: ignore[attr-defined]
        ]

    def train_dataloader(self) -> PairLoader:
        """Its own pairs as one batch, once an update."""
        return self._own_loader(getattr(self, "num_optimization_steps", 1))

    def predict_dataloader(self) -> PairLoader:
        """Its own pairs as one batch, once a round."""
        return self._own_loader(self.num_rounds)

    def test_dataloader(self) -> PairLoader:
        """Its own pairs as one batch, once a round."""
        return self._own_loader(self.num_rounds)

    def _own_loader(self, count: int) -> PairLoader:
        if self._own is None:
            raise SgoolError(
                f"{type(self).__name__} has no pairs: expected datamodule=PromptDataModule(...) in the call of the "
                f"Trainer, or pairs=[PromptSeed(...)] when the module is made"
            )
        return PairLoader([self._own], count)

    def _data_module(self) -> Any:
        return getattr(self._trainer, "datamodule", None)

    def pair_callbacks(self) -> list[PairCallback]:
        """The Trainer's callbacks that know of batches of pairs."""
        return [callback for callback in self.trainer.callbacks if isinstance(callback, PairCallback)]  # type: ignore[attr-defined]

    # One batch

    def take_up(self, batch: PairBatch) -> Tensor:
        """Makes a batch the one under way.

        Returns:
            Its first latents (S, B, C, h, w), on the chain's device.
        """
        if not isinstance(batch, PairBatch):
            raise SgoolError(
                f"expected batches of a PromptDataModule, got a {type(batch).__name__}: a plain data loader does not "
                "say which update comes next"
            )
        self.batch, self.pairs = batch, batch.pairs
        self._began, self.seconds_before = time.perf_counter(), 0.0
        negative = [pair.negative_prompt for pair in batch.pairs]
        self.batch_chain = self.chain.with_prompts(network_prompts(batch.pairs), negative)
        return start_latents(self.chain, batch.pairs)

    def deliver(self, results: Sequence[PairResult]) -> None:
        """Hands over the results of the batch: judges score them, then callbacks get them."""
        rows = self._scored(results)
        seconds = (time.perf_counter() - self._began + self.seconds_before) / len(results)
        calls = [0 if pair.start is None else pair.start.calls for pair in self.pairs]
        self.results = [
            replace(result, metrics=row, seconds=seconds, network_evaluations=result.network_evaluations + spent)
            for result, row, spent in zip(results, rows, calls, strict=True)
        ]
        for callback in self.pair_callbacks():
            callback.on_pairs_end(self.trainer, self, self.results)

    def first_images(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of the first stream of latents (S, B, C, h, w); the others are not decoded."""
        return self.batch_chain.decode(self.batch_chain.denoise(latents)[0]).clamp(0, 1)

    # Scores

    def _scored(self, results: Sequence[PairResult]) -> list[dict[str, float]]:
        """Per result, its metrics; the means count those that ended well."""
        rows: list[dict[str, float]] = [{} for _ in results]
        if self.panel is not None:
            first = torch.stack([result.initial_image for result in results]).to(self.chain.device)
            final = torch.stack([result.final_image for result in results]).to(self.chain.device)
            latents = [(result.initial_latents, result.final_latents) for result in results]
            well = [result.error is None for result in results]
            rows = self.panel.judge(first, final, [result.pair for result in results], latents, counted=well)
        for row, result in zip(rows, results, strict=True):
            if result.pair.start is not None:
                row |= result.pair.start.metrics
            if result.history:
                row["objective_initial"] = result.history[0]["selection"]
                row["objective"] = result.history[result.best_step]["selection"]
                if result.error is None:
                    self.objective_initial_mean.update(row["objective_initial"])
                    self.objective_mean.update(row["objective"])
            row |= self.unread(result.pair.prompt)
        return rows

    def unread(self, prompt: str) -> dict[str, float]:
        """How many characters of a prompt the pipeline (``truncated``) and the objective's terms do not read.

        Most terms read with a network that judges as well; what a judge does not read stands beside its score.
        """
        (cut,) = self.chain.truncated([prompt])
        row = {"truncated": float(len(cut))} if cut else {}
        objective = self.compared_with or getattr(self, "objective", None)
        if objective is not None:
            said = [] if self.panel is None else [text for (text,) in self.panel.truncated([prompt]).values()]
            for name, (text,) in objective.truncated([prompt]).items():
                if text and text not in said:
                    row[f"objective/{name}/truncated"] = float(len(text))
        return row

    def means(self) -> dict[str, Metric]:
        """Name -> the metric whose ``compute`` is the mean over all pairs so far that ended well.

        Without a process group those that counted nothing are left out; with one, every process has all of them.
        """
        found: dict[str, Metric] = {} if self.panel is None else dict(self.panel.named_metrics())
        found |= {"objective": self.objective_mean, "objective_initial": self.objective_initial_mean}
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return found
        return {name: metric for name, metric in found.items() if _counted(metric)}

    def _log_means(self) -> None:
        for name, metric in self.means().items():
            self.log(name, metric)

    def on_train_epoch_end(self) -> None:
        """Logs the judges' means over the data set."""
        self._log_means()

    def on_test_epoch_end(self) -> None:
        """Logs the judges' means over the data set."""
        self._log_means()

    def on_predict_epoch_end(self) -> None:
        """Gives the means to the loggers: Lightning has no ``self.log`` while it predicts."""
        values = {name: float(metric.compute()) for name, metric in self.means().items()}
        if not values:
            return
        for logger in self.trainer.loggers:
            logger.log_metrics(values)
            logger.save()

    # Prediction

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[PairResult]:
        """One round of a batch; the results after the last one, before that an empty list."""
        return self._round(batch)

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """As prediction, with the judges' means in ``Trainer.test``'s table."""
        self._round(batch)

    def _round(self, batch: PairBatch) -> list[PairResult]:
        # Lightning predicts in inference mode, whose tensors know no gradients even where one is asked for.
        with torch.inference_mode(False), torch.no_grad():
            if batch is not self.batch:
                self.begin(batch)
            self.round(batch)
        return self.results if batch.is_over else []

    def begin(self, batch: PairBatch) -> None:
        """Takes up a batch, and lets callbacks begin anew."""
        self.start(self.take_up(batch))
        for callback in self.pair_callbacks():
            callback.on_pairs_start(self.trainer, self)

    def start(self, latents: Tensor) -> None:
        """Begins with the first latents (S, B, C, h, w) of a batch."""
        raise NotImplementedError

    def round(self, batch: PairBatch) -> None:
        """Works on the batch once, without gradients but where it asks for them; the last time it delivers."""
        raise SgoolError(f"{type(self).__name__} is trained: expected Trainer.fit, got predict or test")

    # What a checkpoint of a batch holds

    def batch_state(self) -> dict[str, Any]:
        """All that is needed to go on with the batch under way, in plain values and tensors on the CPU."""
        states = {type(callback).__name__: callback.batch_state() for callback in self.pair_callbacks()}
        return {"network_calls": self.batch_chain.calls, "callbacks": {k: v for k, v in states.items() if v}}

    def load_batch_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `batch_state` of the same pairs."""
        self.batch_chain.calls = state["network_calls"]
        for callback in self.pair_callbacks():
            if found := state["callbacks"].get(type(callback).__name__):
                callback.load_batch_state(found)

    def deciding(self) -> list[Any]:
        """What decides on the results of the batch under way, beside the pairs, to tell checkpoints apart."""
        chain = self.chain
        own = [chain.name, chain.dtype, chain.sampler, chain.engine, chain.num_inference_steps, chain.guidance_scale]
        return [*own, chain.num_decoded, *[pair.start and pair.start.latents for pair in self.pairs]]


def _mean() -> MeanMetric:
    metric = MeanMetric(nan_strategy="disable")
    metric.set_dtype(torch.float64)
    metric.persistent(True)
    return metric


def _counted(metric: Metric) -> bool:
    """Whether a mean has counted anything; one that has not computes NaN."""
    with warnings.catch_warnings():
        # Sums that came from a checkpoint were not updated here.
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return not bool(torch.as_tensor(metric.compute()).isnan().all())
