"""The LightningModule of prompt-seed pairs: its only parameters are their latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from sgool.diffusion import Chain, Engine, Sampler
from sgool.errors import SgoolError
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import BoundObjective, Objective
from sgool.prompts.seeding import first_latents, pair_generator
from sgool.results.checkpoint import eight_bit
from sgool.types import Denoised, ObjectiveOutput, PromptSeed


@dataclass(frozen=True)
class Evaluation:
    """What one update saw, before it changed the latents. All tensors are detached.

    Attributes:
        update: 0 for the first latents.
        latents: (S, B, C, h, w).
        images: (B, 3, H, W) of the first stream, clamped to [0, 1].
        loss: (B,) as optimised, mean over the streams.
        selection: (B,) the objective on the whole image, without random crops: comparable between updates.
        output: The objective's output for the first stream; its saliency map in the 8 bits that are kept of it.
    """

    update: int
    latents: Tensor
    images: Tensor
    loss: Tensor
    selection: Tensor
    output: ObjectiveOutput


class LatentPairModule(L.LightningModule):
    """A batch of independent prompt-seed pairs as one optimisation problem.

    ``latents`` (S, B, C, h, w) is the only parameter; S = 2 for EDICT's pair (x, y) and a two-step sampler's inverted
    pair, else 1. The frozen networks are not children of the module, so checkpoints hold latents and optimiser state
    alone. ``training_step`` denoises, decodes and returns the sum over the pairs of the objective (mean over the
    decoded streams: DOODL's factor 0.5 on the sum of both); clipping, tying, perturbing and renormalising are
    callbacks.

    Args:
        models: Frozen diffusion components.
        pairs: The prompt-seed pairs of this batch.
        objective: What to minimise; None for a module that only samples.
        sampler: DDIM by default.
        engine: How gradients are made; checkpoint by default.
        num_inference_steps: Denoising steps.
        guidance_scale: Weight of classifier-free guidance.
        num_optimization_steps: Updates; the length of the training data loader.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD.
        nesterov: Nesterov's momentum.
        height: Of the image in pixels; by default the model's own.
        width: Of the image in pixels; by default the model's own.
        initial_latents: (B, C, h, w), or what an inversion found, (S, B, C, h, w); by default drawn from each pair's
            seed, as diffusers draws them.
        network_prompts: What the network is told, one a pair; by default the pairs' prompts, which the objective sees.
        split_guidance: Conditional and unconditional pass one after the other: half the activations.
        decode_first_only: Decode and judge the first stream alone (EDICT's x), not both.

    Raises:
        SgoolError: No pairs, no updates, Nesterov without momentum, sizes that do not fit the model, or initial
            latents of a wrong shape.
    """

    #: What the last update saw.
    evaluation: Evaluation | None = None
    #: Whether the fit ends before its time; its last latents are not evaluated then.
    interrupted = False

    def __init__(
        self,
        models: StableDiffusion,
        pairs: Sequence[PromptSeed],
        objective: Objective | None = None,
        *,
        sampler: Sampler | None = None,
        engine: Engine | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
        num_optimization_steps: int = 50,
        lr: float = 1.0,
        momentum: float = 0.9,
        nesterov: bool = False,
        height: int | None = None,
        width: int | None = None,
        initial_latents: Tensor | None = None,
        network_prompts: Sequence[str] | None = None,
        split_guidance: bool = False,
        decode_first_only: bool = False,
    ) -> None:
        super().__init__()
        _check(pairs, num_optimization_steps, nesterov and not momentum)
        self.models, self.pairs = models, tuple(pairs)
        chain = Chain(
            models,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            engine=engine,
            height=height,
            width=width,
            decode="x" if decode_first_only else "both",
            split_guidance=split_guidance,
        )
        self.chain = self._with_prompts(chain, network_prompts)
        self.sampler, self.guided_model = chain.sampler, self.chain.network
        self.num_optimization_steps = num_optimization_steps
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov
        self.latents = nn.Parameter(self._first_latents(models.latent_shape(height, width), initial_latents))
        #: One per decoded stream, since each remembers the salient regions of its own images.
        self.objectives: tuple[BoundObjective, ...] = () if objective is None else self._bound(objective)
        #: Pair index -> why it failed; failed pairs keep their last good latents.
        self.failures: dict[int, str] = {}
        #: Pair index -> (update at which it was put back, what was not finite there).
        self.retries: dict[int, tuple[int, str]] = {}
        #: Pair index -> (update at which it was stopped, network calls until then).
        self.stopped: dict[int, tuple[int, int]] = {}

    def _first_latents(self, shape: tuple[int, int, int], given: Tensor | None) -> Tensor:
        expected = (len(self.pairs), *shape)
        if given is None:
            given = torch.stack([first_latents(pair.seed, shape) for pair in self.pairs])
        inverted = given.ndim == 5 and len(given) in self.sampler.accepted_streams
        if tuple(given.shape[1:] if inverted else given.shape) != expected:
            raise SgoolError(f"`initial_latents`: expected shape {expected}, got {tuple(given.shape)}")
        streams = given if inverted else given.expand(self.sampler.num_streams, *expected)
        # A copy: a caller's tensor must not change with the updates.
        return streams.to(device=self.chain.device, dtype=self.chain.latents_dtype).clone()

    def _bound(self, objective: Objective) -> tuple[BoundObjective, ...]:
        return tuple(objective.bind(self.pairs) for _ in range(self.chain.num_decoded))

    def _with_prompts(self, chain: Chain, prompts: Sequence[str] | None) -> Chain:
        prompts = [pair.prompt for pair in self.pairs] if prompts is None else prompts
        if len(prompts) != len(self.pairs):
            raise SgoolError(f"`network_prompts`: expected one a pair, {len(self.pairs)}, got {len(prompts)}")
        return chain.with_prompts(prompts, [pair.negative_prompt for pair in self.pairs])

    def forward(self, latents: Tensor | None = None) -> Denoised:
        """Denoises and decodes latents (S, B, C, h, w), by default the module's own."""
        latents = self.latents if latents is None else latents
        # Lightning moves the module to the CPU after a fit, but not the networks, which are no children of it: the
        # chain moves latents to its own device.
        return self.chain(latents)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of the current latents, summed over the pairs; what it saw stands in ``self.evaluation``.

        DOODL's factor on the gradient is 0.5 whether one or both of EDICT's images are judged.
        """
        loss, self.evaluation = self._evaluate(self.global_step)
        return loss.sum() * (len(self.objectives) / self.sampler.num_streams)

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Evaluates the current latents without gradients, for the latents after the last update."""
        return self._evaluate(self.num_optimization_steps)[1]

    def _evaluate(self, update: int) -> tuple[Tensor, Evaluation]:
        if not self.objectives:
            raise SgoolError("LatentPairModule was built without an objective: it can sample, but not be fitted")
        denoised = self(self.latents)
        outputs = []
        for stream, (images, objective) in enumerate(zip(denoised.images, self.objectives, strict=True)):
            generators = [pair_generator(pair.seed, f"crops{stream}", update) for pair in self.pairs]
            outputs.append(objective(images, generators, update))
        loss = torch.stack([output.loss for output in outputs]).mean(dim=0)
        images = denoised.images[0].detach()
        evaluation = Evaluation(
            update,
            self.latents.detach().clone(),
            images.clamp(0, 1),
            loss.detach(),
            self.objectives[0].evaluate(images.clamp(0, 1)),
            _detached(outputs[0]),
        )
        return loss, evaluation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, as DOODL: b = 0.9 b + g, no dampening, and Nesterov's only where asked for."""
        return torch.optim.SGD([self.latents], lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)

    def train_dataloader(self) -> Updates:
        """One item an update: the pairs are the problem, not the data."""
        return Updates(self.num_optimization_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the latents and the optimiser do not say, in plain values."""
        checkpoint["pairs"] = {
            **{name: getattr(self, name) for name in ("failures", "stopped", "retries")},
            "network_calls": self.guided_model.calls,
            "objectives": [objective.state_dict() for objective in self.objectives],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up what `on_save_checkpoint` added."""
        state = checkpoint["pairs"]
        self.failures, self.stopped, self.retries = state["failures"], state["stopped"], state["retries"]
        self.guided_model.calls = state["network_calls"]
        for objective, remembered in zip(self.objectives, state["objectives"], strict=True):
            objective.load_state_dict(remembered)

    def stop(self, index: int, update: int) -> None:
        """Lets a pair rest from ``update`` on; what it costs ends here."""
        self.stopped[index] = (update, self.guided_model.calls)

    def fail(self, index: int, update: int, reason: str) -> None:
        """Lets a pair rest for good."""
        self.failures[index] = reason
        self.stop(index, update)

    def rests(self, index: int) -> bool:
        """Whether a pair has failed or was stopped: its latents stay."""
        return index in self.failures or index in self.stopped

    def stands(self, index: int, update: int) -> bool:
        """Whether a pair makes no step at an update: it rests, or is put back by half of its last step."""
        return self.rests(index) or (index in self.retries and self.retries[index][0] == update)

    def has_stopped_before(self, index: int, update: int) -> bool:
        """Whether a pair was stopped at an earlier update."""
        return index in self.stopped and self.stopped[index][0] < update

    @torch.no_grad()
    def sample(self) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of the current latents' first stream."""
        return self().images[0].clamp(0, 1)


class Updates:
    """The updates of a fit as data that know their position: a resumed fit gets the items that are left."""

    def __init__(self, count: int) -> None:
        self._count, self._next = count, 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        while self._next < self._count:
            self._next += 1
            yield self._next - 1

    def state_dict(self) -> dict[str, int]:
        """The next item."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on with the next item."""
        self._next = state["next"]


def _check(pairs: Sequence[PromptSeed], num_optimization_steps: int, nesterov_alone: bool) -> None:
    if not pairs:
        raise SgoolError("`pairs`: expected at least one prompt-seed pair, got none")
    if num_optimization_steps < 1:
        raise SgoolError(
            f"`optimization.num_optimization_steps`: expected 1 or more, got {num_optimization_steps}; "
            "the method `vanilla` makes images without updates"
        )
    if nesterov_alone:
        raise SgoolError("`optimization.nesterov`: expected a momentum above 0, got 0; there is nothing to look ahead")


def _detached(output: ObjectiveOutput) -> ObjectiveOutput:
    """The output without its graph: what is kept between updates must not keep the chain's activations alive."""
    saliency_map = output.saliency_map
    # Rounded for all who look at it: after a resume nothing else is left of a map found earlier.
    return ObjectiveOutput(
        output.loss.detach(),
        {name: value.detach() for name, value in output.terms.items()},
        None if saliency_map is None else eight_bit(saliency_map.detach()),
        output.regions,
    )
