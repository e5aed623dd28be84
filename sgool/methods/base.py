"""What all methods share: a LightningModule that turns batches of prompt-seed pairs into images."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from sgool.callbacks.base import PairCallback, UpdateCallback
from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.methods.budget import Budget, Costs, Pace
from sgool.methods.evaluations import non_finite_images, with_phrases
from sgool.methods.loops import CheckedLoops
from sgool.methods.resume import columns_of
from sgool.methods.scores import ScoredModule
from sgool.methods.starts import network_prompts, start_latents, start_noises
from sgool.methods.streams import NoiseStreams
from sgool.methods.trainer_checks import check_own_pairs, check_trainer
from sgool.metrics.panel import JudgePanel
from sgool.models.autoencoder import in_unit_range
from sgool.models.vocabulary import note_on_words
from sgool.objectives.binding import check_binding
from sgool.prompts.batches import PairBatch, PairLoader
from sgool.types import PairResult, PromptSeed


class PairModule(NoiseStreams, CheckedLoops, ScoredModule):
    """Takes up batches of pairs, one after the other, and hands over their results.

    A subclass makes the images: by training (`sgool.methods.LatentPairModule`) or in `round` by prediction. The frozen
    networks are no children of the module: its checkpoints hold latents and sums of scores alone.

    Args:
        chain: The denoising chain.
        judges: Name -> a CLIP tower or metrics, or a whole `JudgePanel`; they score the first and the final images.
        pairs: Pairs of its own, as one batch; by default a `PromptDataModule` serves them.
        budget: The most that a pair may cost.

    Attributes:
        method: Name of the method, in run folders.
        num_rounds: How often prediction works on a batch.
        makes_updates: Whether the method is trained, by updates of latents.
        pairs: Those of the batch under way.
        batch: The batch under way, None before the first.
        batch_chain: The chain for the prompts of the batch; it counts the batch's network calls.
        seconds_before: Wall seconds that earlier, interrupted starts of the batch took.
        results: Those of the last batch that is done.
    """

    method: str = ""
    num_rounds: int = 1
    makes_updates: ClassVar[bool] = False

    def __init__(
        self,
        chain: Chain,
        *,
        judges: JudgePanel | Mapping[str, Any] | None = None,
        pairs: Sequence[PromptSeed] | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(chain, judges)
        if pairs is not None and not pairs:
            raise SgoolError("`pairs`: expected at least one prompt-seed pair, got none")
        self.budget = budget or Budget()
        self._own = None if pairs is None else tuple(pairs)
        self.pairs: tuple[PromptSeed, ...] = ()
        self.batch: PairBatch | None = None
        self.batch_chain = chain
        self.seconds_before = 0.0
        self.results: list[PairResult] = []
        #: Whether callbacks are being given results: an error then is not the pairs' own.
        self.handing_over = False
        self._began = time.perf_counter()

    def setup(self, stage: str) -> None:
        """Refuses what cannot work, before any network call; puts the callbacks in their order.

        It warns of words in the prompts that the model has never seen, where its folder says which ones it has.

        Raises:
            SgoolError: Pairs from two places or from none, pairs of its own on several processes, switches of the
                Trainer that do not fit, or pairs that the objective cannot be bound to.
        """
        if self._own is not None and self._data_module() is not None:
            raise SgoolError(
                f"`pairs`: {type(self).__name__} was made with {len(self._own)} pairs of its own, and the Trainer got "
                "a data module as well, in this call or an earlier one; leave one of them out, or use a new Trainer"
            )
        if stage == "fit" and not self.makes_updates:
            raise SgoolError(f"{type(self).__name__} makes no updates: expected Trainer.predict or test, got fit")
        check_own_pairs(self.trainer, type(self).__name__, 0 if self._own is None else len(self._own))
        check_trainer(self.trainer, stage, self.chain.device, {self.chain.dtype, self.chain.family.vae_dtype})
        for objective in filter(None, (getattr(self, name, None) for name in ("objective", "choosing"))):
            check_binding(objective.terms, objective.saliency, self.all_pairs)
        if words := note_on_words(self.chain.name, [pair.prompt for pair in self.all_pairs]):
            warnings.warn(words, stacklevel=2)
        self.reset_means()
        self.handing_over = False
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        own = (callback for callback in callbacks if isinstance(callback, PairCallback))
        ordered = iter(sorted(own, key=lambda callback: callback.order))
        callbacks[:] = [next(ordered) if isinstance(callback, PairCallback) else callback for callback in callbacks]

    def train_dataloader(self) -> PairLoader:
        """Serves the module's own pairs as one batch, once an update."""
        return self._own_loader(getattr(self, "num_optimization_steps", 1))

    def predict_dataloader(self) -> PairLoader:
        """Serves the module's own pairs as one batch, as often as prediction works on them."""
        return self._own_loader(self.num_rounds)

    def test_dataloader(self) -> PairLoader:
        """Serves the module's own pairs as one batch, as often as prediction works on them."""
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

    @property
    def all_pairs(self) -> tuple[PromptSeed, ...]:
        """The pairs of all batches: the module's own, or those of the data module."""
        return self._own if self._own is not None else tuple(getattr(self._data_module(), "pairs", ()))

    @property
    def pairs_per_fit(self) -> int:
        """How many pairs a batch has at most."""
        return len(self._own) if self._own is not None else int(getattr(self._data_module(), "pairs_per_fit", 0))

    @property
    def seconds(self) -> float:
        """Wall seconds that the batch under way has taken, in earlier, interrupted starts as well."""
        return time.perf_counter() - self._began + self.seconds_before

    @cached_property
    def costs(self) -> Costs:
        """What images and updates cost in network calls, counted once."""
        return Costs.of(self.chain)

    @property
    def num_searched(self) -> int:
        """How many candidates were tried before the updates, where a method makes updates."""
        search = getattr(self, "search", None)
        return 0 if search is None else search.tried

    def pair_callbacks(self) -> list[PairCallback]:
        """The Trainer's callbacks that know of batches of pairs, and of updates where the method makes some."""
        found = [callback for callback in self.trainer.callbacks if isinstance(callback, PairCallback)]  # type: ignore[attr-defined]
        return [callback for callback in found if self.makes_updates or not isinstance(callback, UpdateCallback)]

    def take_up(self, batch: PairBatch) -> Tensor:
        """Makes a batch the one under way.

        Returns:
            Its first latents (S, B, C, h, w), on the chain's device.
        """
        self.batch, self.pairs = batch, batch.pairs
        self._began, self.seconds_before, self._pace = time.perf_counter(), 0.0, Pace()
        negative = [pair.negative_prompt for pair in batch.pairs]
        chain = self.chain.with_prompts(network_prompts(batch.pairs), negative)
        noises = start_noises(chain, batch.pairs)
        self.batch_chain = chain.with_noises(noises)
        return start_latents(self.chain, batch.pairs, noises if self.num_noises else None)

    def deliver(self, results: Sequence[PairResult]) -> None:
        """Hands over the results of the batch: judges score them, then callbacks get them."""
        seconds = self.seconds / len(results)  # without the judges, which are no part of the method
        results = [self._checked(result) for result in results]
        # A prediction works under the Trainer's autocast, a fit's end does not: judges see the same in both.
        with torch.autocast(self.chain.device.type, enabled=False):
            rows = self.score(results)
            results = with_phrases(results, getattr(self, "objective", None), self.chain.device)
        calls = [0 if pair.start is None else pair.start.calls for pair in self.pairs]
        self.results = [
            replace(result, metrics=row, seconds=seconds, network_evaluations=result.network_evaluations + spent)
            for result, row, spent in zip(results, rows, calls, strict=True)
        ]
        self.handing_over = True
        for callback in self.pair_callbacks():
            callback.on_pairs_end(self.trainer, self, self.results)
        self.handing_over = False

    def _checked(self, result: PairResult) -> PairResult:
        """Returns a result; one whose first or final image is not finite has failed, whatever the objective said."""
        problem = non_finite_images(result.initial_image, result.final_image, self.chain)
        return result if problem is None else replace(result, error="; ".join(filter(None, (result.error, problem))))

    def first_images(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of the first stream of latents (S, B, C, h, w); the others are not decoded."""
        return in_unit_range(self.batch_chain.first_images(latents))

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[PairResult]:
        """Works on a batch once; returns its results after the last time, and an empty list before that."""
        return self._round(batch)

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Works on a batch once, like `predict_step`; ``Trainer.test`` then shows the judges' means."""
        self._round(batch)

    def _round(self, batch: PairBatch) -> list[PairResult]:
        # Lightning predicts in inference mode, whose tensors know no gradients even where one is asked for.
        with torch.inference_mode(False), torch.no_grad():
            if batch is not self.batch:
                # Prompts are read in the networks' own precision, as where a fit takes up its batches.
                with torch.autocast(self.chain.device.type, enabled=False):
                    self.begin(batch)
            self.round(batch)
        return self.results if batch.is_over else []

    def begin(self, batch: PairBatch) -> None:
        """Takes up a batch, and tells the callbacks of it."""
        self.start(self.take_up(batch))
        for callback in self.pair_callbacks():
            callback.on_pairs_start(self.trainer, self)

    def start(self, latents: Tensor) -> None:
        """Sets the method's own state for a new batch with these first latents (S, B, C, h, w)."""
        raise NotImplementedError

    def round(self, batch: PairBatch) -> None:
        """Works on the batch once, under ``torch.no_grad``; the last time it calls `deliver`."""
        raise NotImplementedError

    def end_if_spent(self, batch: PairBatch, rounds: int = 1) -> None:
        """Ends the batch where so many more rounds like those it has made would exceed the budget's seconds."""
        made = batch.update + 1
        if self.budget.seconds is None or batch.is_ended or made >= self.num_rounds:
            return
        one, left = self._pace.seconds(made, self.seconds), self.budget.seconds * len(self.pairs) - self.seconds
        if rounds * one > left:
            batch.end()
        else:
            batch.updates = min(self.num_rounds, made + max(rounds, int(left / max(one, 1e-9))))

    def batch_state(self) -> dict[str, Any]:
        """All that is needed to go on with the batch under way, in plain values and tensors on the CPU."""
        states = {name: callback.batch_state() for name, callback in self._named_callbacks().items()}
        counted = {"network_calls": self.batch_chain.calls, "backward_calls": self.batch_chain.network.backward_calls}
        return {**counted, "callbacks": {k: v for k, v in states.items() if v}}

    def load_batch_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `batch_state` of the same pairs."""
        self.batch_chain.calls = state["network_calls"]
        # A file of an earlier version has no backward passes.
        self.batch_chain.network.backward_calls = state.get("backward_calls", 0)
        for name, callback in self._named_callbacks().items():
            if found := state["callbacks"].get(name):
                callback.load_batch_state(found)

    def _named_callbacks(self) -> dict[str, PairCallback]:
        """The callbacks by the names of their classes; the second one of a class gets a number, and so on."""
        named: dict[str, PairCallback] = {}
        for callback in self.pair_callbacks():
            name = type(callback).__name__
            number = sum(known.partition("#")[0] == name for known in named)
            named[f"{name}#{number + 1}" if number else name] = callback
        return named

    def checkpoint_settings(self) -> list[Any]:
        """All settings that the batch's results depend on, so that a checkpoint of other settings is not taken up."""
        chain = self.chain
        own = [chain.name, chain.dtype, chain.family.vae_dtype, chain.sampler, chain.engine, chain.schedule]
        return [
            *own,
            chain.guidance_scale,
            chain.num_decoded,
            *(["all streams"] if self.num_noises else []),
            *[pair.start and pair.start.latents for pair in self.pairs],
            *[pair.start.noises for pair in self.pairs if pair.start is not None and pair.start.noises is not None],
            *[pair.phrases for pair in self.pairs if pair.phrases],
            *[columns_of(pair) for pair in self.pairs if pair.metadata],
        ]
