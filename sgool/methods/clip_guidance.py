"""Classifier guidance with a one-step estimate of the clean image: the baseline of DOODL's and SGOOL's papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgool.diffusion.moves import Move, State
from sgool.diffusion.prediction import noise_from, sample_from
from sgool.errors import SgoolError
from sgool.methods.base import FitSettings, PairResult
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.trainer import autocast_like
from sgool.models.schedule import Step
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import BoundObjective, Objective
from sgool.prompts.seeding import pair_generator
from sgool.results.checkpoint import eight_bit
from sgool.types import ObjectiveOutput, PromptSeed

ESTIMATES = ("x0", "blended")


@dataclass(frozen=True)
class _Guided:
    """What one denoising step saw: the network's guided output, the objective, the gradient's norm per pair."""

    model_output: Tensor
    seen: ObjectiveOutput
    selection: Tensor
    norms: Tensor


class ClipGuidance:
    """Pushes the noise of each denoising step along the gradient of the objective (Dhariwal and Nichol 2021, alg. 2).

    At a step with weights alpha of the clean latents and sigma of the noise, latents x and noise eps(x), under
    classifier-free guidance:

        x0  = (x - sigma eps) / alpha                    the one-step estimate of the clean latents
        eps' = eps + sigma * scale * grad_x loss(decode(x0))

    which is the community pipeline's ``noise_pred - sqrt(1 - alpha_prod_t) * grad`` with grad = -scale * grad_x loss.
    The sampler then makes its step with eps'. One network call a step, with its gradient.

    Args:
        name: Of the method, as in the run folder.
        models: Frozen diffusion components.
        objective: What to minimise, on the estimates; with or without crops and salient regions.
        clip_guidance_scale: The scale above.
        through_network: Whether the gradient passes through the denoising network, or x0's own x alone (grad / alpha;
            cheaper by the network's backward pass).
        estimate: "x0"; or "blended", sigma x0 + (1 - sigma) x, what the community pipeline decodes.

    Raises:
        SgoolError: Unknown ``estimate``.
    """

    def __init__(
        self,
        name: str,
        models: StableDiffusion,
        objective: Objective,
        *,
        clip_guidance_scale: float,
        through_network: bool = True,
        estimate: str = "x0",
    ) -> None:
        if estimate not in ESTIMATES:
            raise SgoolError(f"`method.{name}.estimate`: expected {' or '.join(ESTIMATES)}, got {estimate!r}")
        self.name = name
        self._models, self._objective = models, objective
        self._scale, self._through_network, self._estimate = clip_guidance_scale, through_network, estimate

    def run(self, pairs: Sequence[PromptSeed], settings: FitSettings) -> list[PairResult]:
        """One guided chain for the batch, and a plain one for the first images.

        A history's row u holds the estimate that step u saw, and its last row the final image; ``selection`` of row 0
        is that of the plain image, which the estimates are no stage of. The plain chain is no cost of the method.
        """
        module = LatentPairModule(self._models, pairs, self._objective, **settings.module)
        if not module.sampler.guidable:
            raise SgoolError(
                f"`method.{self.name}`: expected sampler=ddim or sampler=dpm_solver, got {module.sampler.name}"
            )
        with torch.no_grad(), autocast_like(settings.trainer, module.latents.device):
            plain = module.sample()
            module.guided_model.calls = 0
            chain = _Chain(self, module, self._objective)
            chain.run(settings)
            return chain.results(plain)

    def guide(self, module: LatentPairModule, objective: BoundObjective, move: Move, latents: Tensor) -> _Guided:
        """The network's output for latents (B, C, h, w) with the guidance in it."""
        step = move.step
        noise, network = noise_from(step, module.chain.schedule.prediction_type), module.guided_model
        trace = network.trace(latents, step) if self._through_network else None
        output = network(latents, step) if trace is None else trace.output
        kept, weight = self._coefficients(step, module.chain.schedule.prediction_type)
        estimate = kept * latents + weight * output
        with torch.enable_grad():
            leaf = estimate.detach().requires_grad_(True)
            images = module.chain.decode(leaf)
            generators = [pair_generator(pair.seed, "crops0", step.index) for pair in module.pairs]
            seen = objective(images, generators, step.index)
            if not seen.loss.requires_grad:
                raise SgoolError(
                    f"`method.{self.name}`: expected an objective with a gradient, got {', '.join(seen.terms)} without "
                    "one; best_of_n needs none"
                )
            (gradient,) = torch.autograd.grad(seen.loss.sum(), leaf)
        pulled = kept * gradient
        if trace is not None:
            pulled = pulled + trace.pull_back(weight * gradient)
        push = step.sigma * self._scale * pulled
        selection = objective.evaluate(images.detach().clamp(0, 1))
        norms = pulled.square().sum(dim=(1, 2, 3)).sqrt()
        # The network may predict something else than noise: noise = ... + noise.output * output.
        return _Guided(output + push / noise.output, seen, selection, norms)

    def _coefficients(self, step: Step, prediction_type: str) -> tuple[float, float]:
        """Weights (of the latents, of the network's output) in the estimate."""
        clean = sample_from(step, prediction_type)
        share = step.sigma if self._estimate == "blended" else 1.0
        return share * clean.latents + 1 - share, share * clean.output


class _Chain:
    """One guided pass through the sampler's moves."""

    def __init__(self, method: ClipGuidance, module: LatentPairModule, objective: Objective) -> None:
        self._method, self._module, self._unbound = method, module, objective
        self._objective = module.objectives[0]
        self._history: list[list[dict[str, float]]] = [[] for _ in module.pairs]
        self._failures: dict[int, str] = {}
        self._final: Tensor | None = None

    def run(self, settings: FitSettings) -> None:
        """From the first latents to the last, telling of each step."""
        module = self._module
        moves = module.chain.moves
        state: State = module.sampler.begin(module.latents.detach())
        for index, move in enumerate(moves):
            output = None
            if move.calls_network:
                guided = self._method.guide(module, self._objective, move, state[move.source])
                output = guided.model_output
                self._take(guided)
            state = move.apply(state, output)
            if settings.on_update:
                settings.on_update(index + 1, len(moves))
            settings.stop_if_asked(index + 1, len(moves))
        self._final = module.sampler.finish(state)[0]

    def _take(self, guided: _Guided) -> None:
        for pair, history in enumerate(self._history):
            row = {"update": len(history), "loss": float(guided.seen.loss[pair])}
            row["selection"] = float(guided.selection[pair])
            row |= {name: float(value[pair]) for name, value in guided.seen.terms.items()}
            row["gradient_norm"] = float(guided.norms[pair])
            if guided.seen.saliency_map is not None:
                row["regions"] = len(guided.seen.regions[pair])
            history.append(row)
            sound = guided.seen.loss[pair].isfinite() and guided.model_output[pair].isfinite().all()
            if not sound:
                self._failures.setdefault(pair, f"non-finite guidance at denoising step {row['update']}")

    def results(self, plain: Tensor) -> list[PairResult]:
        """One per pair; ``plain``: the images of the unguided chain."""
        module, first = self._module, self._module.latents.detach().cpu()
        assert self._final is not None
        images = module.chain.decode(self._final).clamp(0, 1)
        # A fresh one each: salient regions are then those of these images themselves.
        before, after = (self._unbound.bind(module.pairs).evaluate(own) for own in (plain, images))
        maps = self._maps(images)
        plain, images = eight_bit(plain).cpu(), eight_bit(images).cpu()
        found = []
        for index, (pair, history) in enumerate(zip(module.pairs, self._history, strict=True)):
            value = float(after[index])
            history.append({"update": len(history), "loss": value, "selection": value})
            history[0]["selection"] = float(before[index])
            found.append(
                PairResult(
                    pair,
                    initial_image=plain[index],
                    final_image=images[index],
                    initial_latents=first[:, index],
                    final_latents=first[:, index],
                    saliency_map=None if maps is None else maps[index].cpu(),
                    best_step=len(history) - 1,
                    history=history,
                    error=self._failures.get(index),
                    num_optimization_steps=len(history) - 1,
                    network_evaluations=module.guided_model.calls,
                )
            )
        return found

    def _maps(self, images: Tensor) -> Tensor | None:
        if self._unbound.saliency is None:
            return None
        generators = [pair_generator(pair.seed, "crops0") for pair in self._module.pairs]
        maps = self._objective(images, generators, 0).saliency_map
        return None if maps is None else eight_bit(maps)
