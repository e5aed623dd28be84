"""DOODL, SGOOL and ReNO: a LightningModule whose only parameters are the latents of the batch under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from sgool.callbacks import Trajectory, UpdateCallback
from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.methods import resume
from sgool.methods.base import PairModule
from sgool.methods.budget import Budget, TimeLimit, work_that_fits
from sgool.methods.candidates import CandidateSearch, check_candidates
from sgool.methods.evaluations import check_gradient, curves, norms_of_pairs, without_graph
from sgool.methods.optimizers import OptimizerSettings, check_updates, optimizer_state, restore_optimizer_state
from sgool.methods.stopped import StoppedPairs
from sgool.methods.streams import checked_streams
from sgool.metrics.panel import JudgePanel
from sgool.models.autoencoder import in_unit_range
from sgool.objectives import BoundObjective, Objective
from sgool.prompts.batches import PairBatch
from sgool.prompts.seeding import pair_generator
from sgool.types import Denoised, Evaluation, PromptSeed


class LatentPairModule(StoppedPairs, PairModule):
    """Optimises the first latents of prompt-seed pairs through the whole denoising chain, by gradient descent.

    With an objective on global crops this is DOODL (Wallace et al. 2023), with salient regions as well SGOOL, with the
    norm regulariser and clipping by norm, but without noise and renormalisation, ReNO (Eyring et al. 2024); clipping,
    tying, perturbing and renormalising are callbacks (`sgool.callbacks.default_callbacks`).

    ``Trainer(max_epochs=1).fit(module, datamodule=PromptDataModule(...))`` optimises one batch of pairs after the
    other: a training step is one update of one batch. At a batch's first update the module takes up its pairs, with new
    latents and a fresh optimiser state; after its last one the results are scored and handed to callbacks.

    ``latents`` (S, B, C, h, w) is the only parameter; S = 2 for EDICT's pair (x, y) and a two-step sampler's inverted
    pair, 1 + K with K noises, else 1; B is 0 before the first batch. ``training_step`` denoises, decodes and returns
    the sum over the pairs of the objective (mean over the decoded streams: DOODL's factor 0.5 on the sum of both).

    Logged at each update, as means over the pairs of the batch that have neither failed nor stopped: ``loss``,
    ``selection`` (the objective on the whole image, without random crops), ``term/NAME``, ``latent_norm``,
    ``gradient_norm`` (before clipping), with ``update`` and ``batch``; at the end of the epoch the judges' means. On
    several devices the curves are those of the first rank's batches, and the means those of all pairs.

    Args:
        chain, objective: The denoising chain, and what to minimise.
        num_optimization_steps, lr: Updates of each pair, and the learning rate.
        optimizer, momentum, nesterov, adam: "sgd", "adam" or "adamw", and their settings (`OptimizerSettings`).
        candidates: First latents of each pair that are tried before the updates, which go on from the best of them.
        search_share: Share of a budget that they may take, in (0, 1), in place of a number; None: ``candidates``.
        max_updates: The most updates that a budget may buy; what it leaves goes to a search with a share.
        streams: "first" latents are optimised, or "all": the noises that the sampler adds on the way as well.
        choosing: What chooses among them and among the updates, if not the objective itself.
        budget: The most that a pair may cost; it decides on the number of updates.
        judges: Name -> a CLIP tower or metrics, or a whole `JudgePanel`; they score the first and the final images.
        pairs: Pairs of its own, as one batch; by default a `PromptDataModule` serves them.

    Raises:
        SgoolError: No pairs, updates or candidates, a budget below one update, or an optimiser's settings that clash.

    Examples:
        >>> import lightning as L
        >>> from sgool import Chain, LatentPairModule, Objective, PromptSeed, TextAlignment, load_clip
        >>> chain = Chain.from_pretrained("emoji_world_turbo", num_inference_steps=1, guidance_scale=0)
        >>> objective = Objective({"text": TextAlignment(load_clip("emoji_world/guide"))})
        >>> module = LatentPairModule(chain, objective, num_optimization_steps=2, pairs=[PromptSeed("a cat")])
        >>> quiet = {f"enable_{part}": False for part in ("checkpointing", "progress_bar", "model_summary")}
        >>> L.Trainer(max_epochs=1, logger=False, **quiet).fit(module)
        >>> [row["update"] for row in module.results[0].history]  # the last one sees what the second update made
        [0, 1, 2]
    """

    makes_updates = True
    #: What the last update saw.
    evaluation: Evaluation | None = None
    #: Whether an update has begun and is not done; `sgool.callbacks.Trajectory` ends it.
    in_update = False
    _gradient_norms: Tensor | None = None
    _resumed: Mapping[str, Any] | None = None

    def __init__(
        self,
        chain: Chain,
        objective: Objective,
        *,
        num_optimization_steps: int = 50,
        lr: float = 1.0,
        momentum: float = 0.9,
        nesterov: bool = False,
        optimizer: str = "sgd",
        adam: Mapping[str, Any] | None = None,
        candidates: int = 1,
        search_share: float | None = None,
        max_updates: int | None = None,
        streams: str = "first",
        choosing: Objective | None = None,
        budget: Budget | None = None,
        judges: JudgePanel | Mapping[str, Any] | None = None,
        pairs: Sequence[PromptSeed] | None = None,
    ) -> None:
        super().__init__(chain, judges=judges, pairs=pairs, budget=budget)
        check_candidates(candidates, share=search_share)
        check_updates(num_optimization_steps, max_updates)
        self.streams = checked_streams(streams, chain)
        self.method = "doodl" if objective.saliency is None else "sgool"
        self.objective, self.choosing = objective, choosing
        self._planned, self._search_options = num_optimization_steps, (search_share, self.num_noises, max_updates)
        work = candidates, num_optimization_steps
        if self.budget:
            work = work_that_fits(self.costs, self.budget, *work, search_share, max_updates)
        self.candidates, self.num_optimization_steps = work
        self.lr, self.optimizer_settings = lr, OptimizerSettings(optimizer, momentum, nesterov, adam or {})
        shape = (chain.num_streams + self.num_noises, 0, *chain.latent_shape())
        self.latents = nn.Parameter(torch.zeros(shape, dtype=chain.latents_dtype, device=chain.device))
        #: One per decoded stream, since each remembers the salient regions of its own images.
        self.objectives: tuple[BoundObjective, ...] = ()
        self.failures, self.retries, self.stopped = {}, {}, {}
        self.search = CandidateSearch(1, self.latents)
        if self._own is not None:
            self.start(self.take_up(PairBatch(self._own)))

    @property
    def update(self) -> int:
        """Number of the update under way, counted from 0."""
        return 0 if self.batch is None else self.batch.update

    @property
    def last_update(self) -> int:
        """How many updates the batch under way gets: the number of the evaluation after its last one."""
        ended = self.budget.seconds is not None and self.batch is not None and self.batch.is_over
        return self.update + 1 if ended else self.num_optimization_steps

    def setup(self, stage: str) -> None:
        """As for every method; makes room for a whole batch, so that a model summary counts its latents.

        Raises:
            SgoolError: As for every method, or anything else than a fit.
        """
        if stage != "fit":
            raise SgoolError(f"{type(self).__name__} is trained: expected Trainer.fit, got predict or test")
        super().setup(stage)
        if not self.latents.shape[1]:
            self.latents.data = self.latents.new_zeros(len(self.latents), self.pairs_per_fit, *self.latents.shape[2:])

    def start(self, latents: Tensor) -> None:
        """Sets the parameter to a new batch's first latents; nothing of the batch before is left."""
        self.latents.data, self.latents.grad = latents, None
        self.objectives = tuple(self.objective.bind(self.pairs) for _ in range(self.chain.num_decoded))
        self._chooser = self.objectives[0] if self.choosing is None else self.choosing.bind(self.pairs)
        check_candidates(self.candidates, self.pairs)
        self.search = CandidateSearch(self.candidates, latents, *self._search_options)
        self.failures, self.retries, self.stopped = {}, {}, {}
        self.evaluation, self._gradient_norms = None, None

    def begin(self, batch: PairBatch) -> None:
        """Takes up a batch at its first update, or where a loaded checkpoint has left it."""
        self.trainer.optimizers[0].state.clear()
        super().begin(batch)
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resume.check_batch(resumed, self)
            self.load_batch_state(resumed)
            self.seconds_before = resumed["seconds"]
        self.search.run(self)

    def forward(self, latents: Tensor | None = None) -> Denoised:
        """Denoises and decodes latents (S, B, C, h, w), by default those of the batch under way."""
        return self.batch_chain(self.latents if latents is None else latents)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Returns the loss of the current latents, summed over the pairs, and sets ``self.evaluation``.

        DOODL's factor on the gradient is 0.5 whether one or both of EDICT's images are judged.
        """
        loss, self.evaluation = self._evaluate(batch.update)
        check_gradient(loss, self.objective.terms, self.method)
        return loss.sum() * (len(self.objectives) / self.chain.num_streams)

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Evaluates the current latents without gradients, for the latents after the last update."""
        return self._evaluate(self.last_update)[1]

    def choose(self, images: Tensor) -> Tensor:
        """Returns the selection scores (B,) of images (B, 3, H, W) in [0, 1]."""
        return self._chooser.evaluate(images)

    def _evaluate(self, update: int) -> tuple[Tensor, Evaluation]:
        denoised = self()
        outputs = []
        for stream, (images, objective) in enumerate(zip(denoised.images, self.objectives, strict=True)):
            generators = [pair_generator(pair.seed, f"crops{stream}", update) for pair in self.pairs]
            outputs.append(objective(images, generators, update))
        loss = torch.stack([output.loss for output in outputs]).mean(dim=0)
        images = in_unit_range(denoised.images[0].detach())
        latents, seen = self.latents.detach().clone(), without_graph(outputs[0])
        return loss, Evaluation(update, latents, images, loss.detach(), self.choose(images), seen)

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Returns the images (B, 3, H, W) in [0, 1] of the current latents' first stream."""
        return in_unit_range(self().images[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Makes the optimiser, by default SGD with momentum, as DOODL uses it: b = 0.9 b + g without dampening."""
        return self.optimizer_settings.build(self.latents, self.lr)

    def configure_callbacks(self) -> list[L.Callback]:
        """Adds what makes the results (`Trajectory`) where the Trainer has none, and what watches the seconds."""
        missing = not any(isinstance(callback, Trajectory) for callback in self.pair_callbacks())
        limits = [TimeLimit(self._planned)] if self.budget.seconds is not None else []
        return [*([Trajectory()] if missing else []), *limits]

    def on_fit_start(self) -> None:
        """Logs every update, where the Trainer has Lightning's default interval: more than a batch has updates."""
        trainer: Any = self.trainer
        if trainer.log_every_n_steps == 50:
            trainer.log_every_n_steps = 1

    def on_train_batch_start(self, batch: PairBatch, batch_idx: int) -> None:
        """Takes up a batch at its first update."""
        self.in_update = True
        if batch is not self.batch:
            self.begin(batch)

    def on_after_backward(self) -> None:
        """Takes the gradient's norms before any callback changes it."""
        if self.latents.grad is not None:
            self._gradient_norms = norms_of_pairs(self.latents.grad.detach())

    def on_train_batch_end(self, outputs: Any, batch: PairBatch, batch_idx: int) -> None:
        """Logs what this update saw before its step."""
        for name, value in self.curves().items():
            in_bar = name in ("loss", "selection")
            self.log(name, value, prog_bar=in_bar, on_step=True, on_epoch=False, batch_size=len(self.pairs))

    def curves(self) -> dict[str, Any]:
        """Returns what this update logs by name; empty where all pairs have failed or stopped.

        Values are tensors in float64, since Lightning makes float32 of numbers.
        """
        return curves(self, self._gradient_norms)

    def batch_state(self) -> dict[str, Any]:
        """All that is needed to go on with the batch under way after the update that has just been made."""
        return {
            **super().batch_state(),
            "pairs": [pair.pair_id for pair in self.pairs],
            "update": self.update + (not self.search.under_way),
            "latents": self.latents.detach().cpu(),
            **optimizer_state(self.trainer.optimizers[0], self.latents),
            **{name: getattr(self, name) for name in ("failures", "stopped", "retries")},
            "objectives": [objective.state_dict() for objective in self.objectives],
            "search": self.search.state_dict(),
        }

    @torch.no_grad()
    def load_batch_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `batch_state`; the batch goes on with the update after it."""
        super().load_batch_state(state)
        assert self.batch is not None
        self.batch.update = state["update"]
        self.latents.copy_(state["latents"])
        restore_optimizer_state(self.trainer.optimizers[0], self.latents, state)
        self.failures, self.stopped, self.retries = (dict(state[k]) for k in ("failures", "stopped", "retries"))
        for objective, remembered in zip(self.objectives, state["objectives"], strict=True):
            objective.load_state_dict(remembered)
        self.search.load_state_dict(state["search"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the batch under way to Lightning's checkpoint."""
        checkpoint.update(resume.saved(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers the batch of Lightning's checkpoint until the data module serves it.

        Raises:
            SgoolError: The checkpoint is of several processes, of other data, or from the middle of an update.
        """
        self._resumed = resume.resumed(self, checkpoint)
        self.latents.data = torch.empty_like(checkpoint["state_dict"]["latents"], device=self.chain.device)

    def checkpoint_settings(self) -> list[Any]:
        """All settings that the batch's results depend on."""
        own = [self.num_optimization_steps, self.lr, *self.optimizer_settings.checkpoint_settings()]
        rules = [callback for callback in self.pair_callbacks() if isinstance(callback, UpdateCallback)]
        chooser = self.choosing and self.choosing.checkpoint_settings()
        search = [self.candidates, *self._search_options, chooser, self.budget]
        return [*super().checkpoint_settings(), self.objective.checkpoint_settings(), own, rules, search]
