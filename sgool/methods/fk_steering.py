"""Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848): particles that are resampled as they are denoised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.diffusion.prediction import noise_from, sample_from
from sgool.errors import SgoolError
from sgool.methods.base import PairModule
from sgool.methods.budget import Budget, check_fixed_cost
from sgool.methods.candidates import draw_candidate
from sgool.methods.particles import Particles
from sgool.methods.resampling import RESAMPLERS
from sgool.methods.search import saliency_of
from sgool.metrics.panel import JudgePanel
from sgool.models.autoencoder import in_unit_range
from sgool.models.schedule import Step
from sgool.objectives import BoundObjective, Objective
from sgool.prompts.batches import PairBatch
from sgool.prompts.seeding import pair_generator
from sgool.results.checkpoint import eight_bit, pack_image, unpack_image
from sgool.types import PairResult, PromptSeed

POTENTIALS = ("max", "difference", "sum")


class FKSteering(PairModule):
    """Denoises k particles of each pair side by side, and lets promising ones take the place of others on the way.

    Each step needs noise, else copies of a particle would stay equal: DDIM with eta > 0 (Song et al. 2021, eq. 16),
    from a generator of each particle and step. At some steps, the one-step estimates of the clean latents are decoded
    and scored; the reward is r = -score. The particles are then resampled by their potentials (Singhal et al., 3.2):

    ==============  ==================================================
    ``potential``   weight of a particle
    ==============  ==================================================
    ``max``         exp(scale · highest reward on its way so far)
    ``difference``  exp(scale · (reward - reward at the time before))
    ``sum``         exp(scale · sum of the rewards on its way so far)
    ==============  ==================================================

    After the last step the particle with the lowest score is kept. Particle 0 starts from the pair's own first latents,
    the others as the candidates of `sgool.methods.BestOfN`. Prediction serves each batch once a denoising step; one
    particle is denoised at a time.

    Args:
        chain: The denoising chain; its sampler has to be DDIM.
        objective: What to choose by.
        particles: k; the paper has 4.
        potential: As above.
        scale: The paper's lambda; it has 10 for rewards that vary by about 1.
        resample_every: Denoising steps between two resamplings; the first is after as many steps.
        resampling: "systematic", "ssp" or "multinomial".
        ess_threshold: Resample only where the effective sample size is at most this share of k; 1: always.
        eta: Share of fresh noise in each step, in (0, 1]; 1 is that of DDPM.
        judges, pairs: As for every method.
        budget: The most that a pair may cost. Calls decide on k; seconds on how often k particles are tried; both
            on how often, and on k where the calls do not allow ``particles``.

    Raises:
        SgoolError: Settings outside of what is said above, another sampler, or a budget below one particle.
    """

    method = "fk_steering"

    def __init__(
        self,
        chain: Chain,
        objective: Objective,
        *,
        particles: int = 4,
        potential: str = "max",
        scale: float = 10.0,
        resample_every: int = 3,
        resampling: str = "systematic",
        ess_threshold: float = 1.0,
        eta: float = 1.0,
        judges: JudgePanel | Mapping[str, Any] | None = None,
        pairs: Sequence[PromptSeed] | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(chain, judges=judges, pairs=pairs, budget=budget)
        _check(chain, particles, potential, scale, resample_every, resampling, ess_threshold, eta)
        check_fixed_cost(chain.sampling_calls, self.budget)
        particles, sweeps = _swarm(chain.sampling_calls, particles, self.budget)
        self.objective, self.particles, self.resample_every, self.eta = objective, particles, resample_every, eta
        self.rules = (potential, scale, resampling, ess_threshold)
        self._moves = len(chain.moves)
        self.num_rounds = self._moves * sweeps

    def start(self, latents: Tensor) -> None:
        """Sets the particles of a batch with these first latents (1, B, C, h, w)."""
        self.first = latents
        self.bound: BoundObjective = self.objective.bind(self.pairs)
        self._history: list[list[dict[str, float]]] = [[] for _ in self.pairs]
        self._best: list[dict[str, Any]] = [{"selection": math.inf} for _ in self.pairs]
        self._plain: Tensor | None = None
        self._begin_sweep(0)

    def _begin_sweep(self, sweep: int) -> None:
        numbers = range(sweep * self.particles, (sweep + 1) * self.particles)
        latents = [draw_candidate(self.first, self.pairs, number)[0] for number in numbers]
        self.swarm = Particles(torch.stack(latents), *self.rules)

    def round(self, batch: PairBatch) -> None:
        """Makes one denoising step of all particles; after the last one, keeps the best of them."""
        if self._plain is None:
            self._plain = self._first_score()
        sweep, at = divmod(batch.update, self._moves)
        self._step(sweep, at)
        if at + 1 < self._moves:
            return
        self._finish(sweep)
        self.end_if_spent(batch, rounds=self._moves)
        if batch.is_over:
            self.deliver([self._result(index) for index in range(len(self.pairs))])
        else:
            self._begin_sweep(sweep + 1)

    def _first_score(self) -> Tensor:
        """Images (B, 3, H, W) of the pairs' own latents without fresh noise, which are no cost of the method."""
        calls = self.batch_chain.calls
        images = self.first_images(self.first)
        self.batch_chain.calls = calls
        for history, score in zip(self._history, self.bound.evaluate(images).tolist(), strict=True):
            history.append({"update": 0, "loss": score, "selection": score})
        return eight_bit(images).cpu()

    def _step(self, sweep: int, at: int) -> None:
        """Calls the network for each particle, resamples them where it is time, and moves them on."""
        move = self.chain.moves[at]
        if not move.calls_network:  # a step without a change of noise
            self.swarm.latents = torch.stack([move.apply((own,), None)[0] for own in self.swarm.latents])
            return
        step, kind = move.step, self.chain.schedule.prediction_type
        clean, noise = sample_from(step, kind), noise_from(step, kind)
        seen = self.swarm.latents
        outputs = torch.stack([self.batch_chain.network(own, step) for own in seen])
        estimates = clean.latents * seen + clean.output * outputs
        remaining = noise.latents * seen + noise.output * outputs
        if at and at % self.resample_every == 0:
            scores = [self._scores(own)[0] for own in estimates]
            generators = [pair_generator(pair.seed, f"resample{sweep}", at) for pair in self.pairs]
            rows, taken = self.swarm.resample(scores, generators)
            for history, row in zip(self._history, rows, strict=True):
                history.append({"update": len(history), **row, "denoising_step": at})
            estimates, remaining = (self.swarm.of(values, taken) for values in (estimates, remaining))
        self.swarm.latents = self._moved(sweep, step, estimates, remaining)

    def _moved(self, sweep: int, step: Step, clean: Tensor, noise: Tensor) -> Tensor:
        """Returns alpha' x0 + sqrt(sigma'^2 - s^2) eps + s n for all particles (k, B, C, h, w)."""
        fresh = fresh_noise(step, self.eta)
        kept = math.sqrt(max(step.sigma_prev**2 - fresh**2, 0.0))
        moved = step.alpha_prev * clean + kept * noise
        if not fresh:
            return moved
        for particle, own in enumerate(moved):
            number = sweep * self.particles + particle
            for index, pair in enumerate(self.pairs):
                generator = pair_generator(pair.seed, f"fk_steering{number}", step.index)
                own[index] += fresh * torch.randn(own.shape[1:], generator=generator).to(own)
        return moved

    def _scores(self, latents: Tensor) -> tuple[list[float], Tensor]:
        """Scores (B) of the images of clean latents (B, C, h, w), infinite where not finite, and the images."""
        images = in_unit_range(self.chain.decode(latents))
        scores, pixels = self.bound.evaluate(images).tolist(), eight_bit(images).cpu()
        sound = pixels.isfinite().flatten(1).all(dim=1).tolist()
        return [s if ok and math.isfinite(s) else math.inf for s, ok in zip(scores, sound, strict=True)], pixels

    def _finish(self, sweep: int) -> None:
        """Scores the images of the particles and remembers the best of each pair."""
        for particle, latents in enumerate(self.swarm.latents):
            scores, pixels = self._scores(latents)
            for pair, (score, best) in enumerate(zip(scores, self._best, strict=True)):
                if score < best["selection"]:
                    number = sweep * self.particles + self.swarm.ancestors[pair][particle]
                    best |= {"selection": score, "number": number, "image": pixels[pair].clone()}

    def _result(self, index: int) -> PairResult:
        assert self._plain is not None
        pair, best, history = self.pairs[index], self._best[index], self._history[index]
        own = self.first[:, index].cpu()
        chosen, image, score = own, best.get("image", self._plain[index]), best["selection"]
        if "number" in best:
            chosen = draw_candidate(self.first, self.pairs, best["number"])[:, index].cpu()
        history.append({"update": len(history), "loss": score, "selection": score})
        return PairResult(
            pair,
            initial_image=self._plain[index],
            final_image=image,
            initial_latents=own,
            final_latents=chosen.clone(),
            saliency_map=saliency_of(self, pair, image),
            best_step=len(history) - 1,
            history=history,
            error=None if "image" in best else "the objective was never finite",
            network_evaluations=self.batch_chain.calls,
        )

    def batch_state(self) -> dict[str, Any]:
        """The particles, what is known of them, and the best of earlier ones, with images as PNG."""
        assert self._plain is not None and self.batch is not None
        best = [{**own, "image": pack_image(own["image"])} if "image" in own else own for own in self._best]
        plain = [pack_image(image) for image in self._plain]
        own = {"update": self.batch.update + 1, "history": self._history, "best": best, "plain": plain}
        return super().batch_state() | own | {"swarm": self.swarm.state_dict()}

    def load_batch_state(self, state: Mapping[str, Any]) -> None:
        """Restores a `batch_state`; the batch goes on with the denoising step after it."""
        super().load_batch_state(state)
        assert self.batch is not None
        self.batch.update, self._history = state["update"], state["history"]
        self._plain = torch.stack([unpack_image(image) for image in state["plain"]])
        self._best = [{**own, "image": unpack_image(own["image"])} if "image" in own else own for own in state["best"]]
        self.swarm.load_state_dict(state["swarm"])

    def checkpoint_settings(self) -> list[Any]:
        """All settings that the batch's results depend on."""
        own = [self.particles, self.resample_every, self.eta, self.num_rounds, *self.rules, self.budget]
        return [*super().checkpoint_settings(), *own, self.objective.checkpoint_settings()]


#: The most times that all particles are tried where only the clock ends that.
_MOST_SWEEPS = 1_000


def fresh_noise(step: Step, eta: float) -> float:
    """Returns the standard deviation s of the fresh noise in a step (Song et al. 2021, eq. 16).

    s = eta · sigma' · sqrt(1 - (alpha sigma' / (alpha' sigma))^2), with alpha and sigma the weights of the clean
    latents and of the noise, before and (with ') after the step. Where alpha^2 + sigma^2 = 1 this is the paper's
    eta · sigma' / sigma · sqrt(1 - alpha^2 / alpha'^2). It holds for flow matching too, and is never above sigma'.
    """
    if not step.sigma:
        return 0.0
    ratio = step.alpha * step.sigma_prev / (step.alpha_prev * step.sigma)
    return eta * step.sigma_prev * math.sqrt(max(1 - ratio**2, 0.0))


def _swarm(calls: int, particles: int, budget: Budget) -> tuple[int, int]:
    """Returns how many particles, of so many calls each, and how many sweeps of them a budget allows."""
    if budget.calls is None or not calls:
        return particles, 1 if budget.seconds is None else _MOST_SWEEPS
    fitting = budget.calls // calls
    if budget.seconds is None or fitting < particles:
        return fitting, 1
    return particles, fitting // particles


def _check(
    chain: Chain,
    particles: int,
    potential: str,
    scale: float,
    resample_every: int,
    resampling: str,
    ess_threshold: float,
    eta: float,
) -> None:
    problems = []
    for name, value in (("particles", particles), ("resample_every", resample_every)):
        if value < 1:
            problems.append(f"`{name}`: expected 1 or more, got {value}")
    for name, word, known in (("potential", potential, POTENTIALS), ("resampling", resampling, tuple(RESAMPLERS))):
        if word not in known:
            problems.append(f"`{name}`: expected one of {', '.join(known)}, got {word!r}")
    if not scale >= 0:
        problems.append(f"`scale`: expected a number of at least 0, got {scale}")
    for name, share in (("ess_threshold", ess_threshold), ("eta", eta)):
        if not 0 < share <= 1:
            problems.append(f"`{name}`: expected a number above 0 and at most 1, got {share}")
    if chain.sampler.name != "ddim":
        problems.append(f"expected sampler=ddim, which has a step with fresh noise (eta), got {chain.sampler.name}")
    if problems:
        raise SgoolError("fk_steering: " + "; ".join(problems))
