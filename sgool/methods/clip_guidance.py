"""Classifier guidance with a one-step estimate of the clean image, as DOODL's and SGOOL's papers compare with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.diffusion.moves import Move
from sgool.diffusion.network import GuidedModel, guides
from sgool.diffusion.prediction import noise_from, sample_from
from sgool.errors import SgoolError
from sgool.methods.base import PairModule
from sgool.methods.budget import Budget, check_fixed_cost
from sgool.methods.evaluations import check_gradient
from sgool.methods.starts import network_prompts
from sgool.metrics.panel import JudgePanel
from sgool.models.autoencoder import in_unit_range
from sgool.models.flow import FLOW
from sgool.models.schedule import Step, past_pure_noise
from sgool.objectives import BoundObjective, Objective
from sgool.objectives.matching import phrase_columns
from sgool.prompts.batches import PairBatch
from sgool.prompts.seeding import pair_generator
from sgool.results.checkpoint import eight_bit
from sgool.types import ObjectiveOutput, PairResult, PromptSeed

ESTIMATES = ("x0", "blended")
ESTIMATES_FROM = ("guided", "prompt", "negative_prompt")


@dataclass(frozen=True)
class _Guided:
    """What one denoising step saw: the network's guided output, the objective, the gradient's norm per pair."""

    model_output: Tensor
    seen: ObjectiveOutput
    selection: Tensor
    norms: Tensor


class ClipGuidance(PairModule):
    """Pushes the noise of each denoising step along the gradient of the objective (Dhariwal and Nichol 2021, alg. 2).

    At a step with weights alpha of the clean latents and sigma of the noise, latents x and noise eps(x), under
    classifier-free guidance:

        x0  = (x - sigma eps) / alpha                    the one-step estimate of the clean latents
        eps' = eps + sigma * scale * grad_x loss(decode(x0))

    The sampler then makes its step with eps'. One network call a step, with its gradient. The push itself is that of
    diffusers' community pipeline ``clip_guided_stable_diffusion``, but by default of another estimate: that pipeline
    decodes sigma x0 + (1 - sigma) x, with x0 from a further network call for the prompt without guidance, and clamps
    the image (``estimate="blended"``, ``estimate_from="prompt"`` and an objective that clamps). DOODL's baseline does
    the same with a call for the negative prompt (``estimate_from="negative_prompt"``).

    Args:
        chain: The denoising chain; its sampler has to be `guidable`.
        objective: What to minimise, on the estimates; with or without crops and salient regions.
        clip_guidance_scale: The scale above.
        through_network: Whether the gradient passes through the denoising network, or x0's own x alone (grad / alpha;
            cheaper by the network's backward pass).
        estimate: What is decoded: "x0", or "blended", sigma x0 + (1 - sigma) x.
        estimate_from: The noise that x0 is computed from: "guided", that of the step; or that of a further network
            call, which counts, for the "prompt" alone or for the "negative_prompt" alone.
        judges: As for every method.
        pairs: As for every method.
        budget: The most that a pair may cost; the cost is fixed.

    Raises:
        SgoolError: A budget below that cost, unknown ``estimate`` or ``estimate_from``, a sampler that it cannot guide,
            or a schedule that begins in pure noise.

    Examples:
        >>> import lightning as L
        >>> from sgool import Chain, ClipGuidance, Objective, PromptDataModule
        >>> from sgool.objectives import Color
        >>> chain = Chain.from_pretrained("emoji_world", num_inference_steps=2, guidance_scale=4)
        >>> module = ClipGuidance(chain, Objective({"red": Color([1.0, 0.0, 0.0])}), clip_guidance_scale=30)
        >>> trainer = L.Trainer(logger=False, enable_progress_bar=False)
        >>> _ = trainer.predict(module, datamodule=PromptDataModule("emoji_world/demo", limit=1))
        >>> module.results[0].network_evaluations
        2
    """

    method = "clip_guidance"

    def __init__(
        self,
        chain: Chain,
        objective: Objective,
        *,
        clip_guidance_scale: float,
        through_network: bool = True,
        estimate: str = "x0",
        estimate_from: str = "guided",
        judges: JudgePanel | Mapping[str, Any] | None = None,
        pairs: Sequence[PromptSeed] | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(chain, judges=judges, pairs=pairs, budget=budget)
        if estimate not in ESTIMATES:
            raise SgoolError(f"`method.{self.method}.estimate`: expected {' or '.join(ESTIMATES)}, got {estimate!r}")
        if estimate_from not in ESTIMATES_FROM:
            known = ", ".join(ESTIMATES_FROM[:-1]) + f" or {ESTIMATES_FROM[-1]}"
            raise SgoolError(f"`method.{self.method}.estimate_from`: expected {known}, got {estimate_from!r}")
        if not getattr(chain.sampler, "guidable", False):
            raise SgoolError(
                f"`method.{self.method}`: expected a sampler whose steps can be guided, such as ddim or dpm_solver, "
                f"got {chain.sampler.name}"
            )
        if chain.schedule.prediction_type == FLOW and any(step.from_pure_noise for step in chain.schedule.steps):
            raise SgoolError(
                f"`method.{self.method}`: a model of flow matching begins in pure noise, where the "
                f"guidance of the noise is without bounds; leave {self.method} out of `methods`"
            )
        if any(step.from_pure_noise for step in chain.schedule.steps):
            raise SgoolError(
                f"`method.{self.method}`: the schedule begins in pure noise (`rescale_betas_zero_snr`), where the "
                f"guidance of the noise is without bounds; {past_pure_noise(len(chain.schedule))}"
            )
        self.objective, self._estimate_from = objective, estimate_from
        self._scale, self._through_network, self._estimate = clip_guidance_scale, through_network, estimate
        check_fixed_cost(self._passes * chain.sampling_calls, self.budget)

    def checkpoint_settings(self) -> list[Any]:
        """All settings that the batch's results depend on."""
        own = [self._scale, self._through_network, self._estimate, self._estimate_from]
        return [*super().checkpoint_settings(), *own, self.objective.checkpoint_settings()]

    @property
    def _passes(self) -> int:
        """Passes of a network at each step: forward, backward, and forward for an estimate of its own."""
        prompt_alone = self._estimate_from == "prompt" and guides(self.chain.guidance_scale)
        return 1 + self._through_network + (prompt_alone or self._estimate_from == "negative_prompt")

    def start(self, latents: Tensor) -> None:
        """Sets an empty history for a batch with these first latents (S, B, C, h, w)."""
        self.first = latents
        self.bound: BoundObjective = self.objective.bind(self.pairs)
        self._history: list[list[dict[str, float]]] = [[] for _ in self.pairs]
        self._failures: dict[int, str] = {}
        self._estimator = self._estimating_network()

    def round(self, batch: PairBatch) -> None:
        """Runs one guided chain for the batch, and a plain one for the first images.

        A history's row u holds the estimate that step u saw, and its last row the final image; ``selection`` of row 0
        is that of the plain image, which the estimates are no stage of. The plain chain is no cost of the method.
        """
        plain = self.first_images(self.first)
        self.batch_chain.calls = 0
        images = in_unit_range(self.chain.decode(self._guided_latents()))
        # A fresh one each: salient regions are then those of these images themselves.
        before, after = (self.objective.bind(self.pairs).evaluate(own) for own in (plain, images))
        maps = self._maps(images)
        for index, history in enumerate(self._history):
            value = float(after[index])
            history.append({"update": len(history), "loss": value, "selection": value})
            history[0]["selection"] = float(before[index])
        plain, images = eight_bit(plain).cpu(), eight_bit(images).cpu()
        if self._estimator is not self.batch_chain.network:
            self.batch_chain.calls += self._estimator.calls
            self.batch_chain.network.backward_calls += self._estimator.backward_calls
        self.deliver([self._result(index, plain, images, maps) for index in range(len(self.pairs))])

    def _guided_latents(self) -> Tensor:
        """(B, C, h, w) at the end of a guided pass through the sampler's moves."""
        moves, sampler = self.chain.moves, self.chain.sampler
        state = sampler.begin(self.first)
        for index, move in enumerate(moves):
            output = None
            if move.calls_network:
                guided = self.guide(move, state[move.source])
                output = guided.model_output
                self._take(guided)
            state = move.apply(state, output)
            for callback in self.pair_callbacks():
                callback.on_denoising_step(self.trainer, self, index + 1, len(moves))
        return sampler.finish(state)[0]

    def guide(self, move: Move, latents: Tensor) -> _Guided:
        """Returns the network's output for latents (B, C, h, w), changed by the guidance."""
        step, prediction_type = move.step, self.chain.schedule.prediction_type
        noise, network = noise_from(step, prediction_type), self._estimator
        trace = network.trace(latents, step) if self._through_network else None
        seen_output = network(latents, step) if trace is None else trace.output
        output = seen_output if network is self.batch_chain.network else self.batch_chain.network(latents, step)
        kept, weight = self._coefficients(step, prediction_type)
        estimate = kept * latents + weight * seen_output
        with torch.enable_grad():
            leaf = estimate.detach().requires_grad_(True)
            images = self.chain.decode(leaf)
            generators = [pair_generator(pair.seed, "crops0", step.index) for pair in self.pairs]
            seen = self.bound(images, generators, step.index)
            check_gradient(seen.loss, seen.terms, self.method)
            (gradient,) = torch.autograd.grad(seen.loss.sum(), leaf)
        pulled = kept * gradient
        if trace is not None:
            pulled = pulled + trace.pull_back(weight * gradient)
        push = step.sigma * self._scale * pulled
        selection = self.bound.evaluate(in_unit_range(images.detach()))
        norms = pulled.square().sum(dim=tuple(range(1, pulled.ndim))).sqrt()
        # The network may predict something else than noise: noise = ... + noise.output * output.
        return _Guided(output + push / noise.output, seen, selection, norms)

    def _estimating_network(self) -> GuidedModel:
        """Returns the network whose noise the estimates are made of."""
        guided = self.batch_chain.network
        if self._estimate_from == "guided" or (self._estimate_from == "prompt" and not guides(guided.guidance_scale)):
            return guided
        if self._estimate_from == "prompt":
            prompts = network_prompts(self.pairs)
        else:
            prompts = [pair.negative_prompt for pair in self.pairs]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="prompt over")  # said when the batch was taken up
            conditioning = self.chain.encode_prompts(prompts)
        return GuidedModel(self.chain.family, conditioning)

    def _coefficients(self, step: Step, prediction_type: str) -> tuple[float, float]:
        """Weights (of the latents, of the network's output) in the estimate."""
        clean = sample_from(step, prediction_type)
        share = step.sigma if self._estimate == "blended" else 1.0
        return share * clean.latents + 1 - share, share * clean.output

    def _take(self, guided: _Guided) -> None:
        for pair, history in enumerate(self._history):
            row = {"update": len(history), "loss": float(guided.seen.loss[pair])}
            row["selection"] = float(guided.selection[pair])
            row |= {name: float(value[pair]) for name, value in guided.seen.terms.items()}
            row["gradient_norm"] = float(guided.norms[pair])
            if guided.seen.saliency_map is not None:
                row["regions"] = len(guided.seen.regions[pair])
            row |= phrase_columns(guided.seen, pair)
            history.append(row)
            sound = guided.seen.loss[pair].isfinite() and guided.model_output[pair].isfinite().all()
            if not sound:
                self._failures.setdefault(pair, f"non-finite guidance at denoising step {row['update']}")

    def _result(self, index: int, plain: Tensor, images: Tensor, maps: Tensor | None) -> PairResult:
        history, first = self._history[index], self.first[:, index].cpu()
        return PairResult(
            self.pairs[index],
            initial_image=plain[index],
            final_image=images[index],
            initial_latents=first,
            final_latents=first,
            saliency_map=None if maps is None else maps[index].cpu(),
            best_step=len(history) - 1,
            history=history,
            error=self._failures.get(index),
            num_optimization_steps=len(history) - 1,
            network_evaluations=self.batch_chain.calls,
            network_backward_passes=self.batch_chain.network.backward_calls,
        )

    def _maps(self, images: Tensor) -> Tensor | None:
        if self.objective.saliency is None:
            return None
        generators = [pair_generator(pair.seed, "crops0") for pair in self.pairs]
        maps = self.bound(images, generators, 0).saliency_map
        return None if maps is None else eight_bit(maps)
