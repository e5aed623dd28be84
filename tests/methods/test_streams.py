"""`optimization.streams: all`: updates and searches of the first latents and of every noise drawn on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sgool.callbacks import BatchCheckpoint
from sgool.callbacks.whiten import whitened
from sgool.diffusion import Chain
from sgool.errors import Interrupted, SgoolError
from sgool.methods import BestOfN, LatentPairModule
from sgool.methods.base import PairModule
from sgool.methods.candidates import draw_candidate
from sgool.methods.evolution import Evolution
from sgool.methods.zero_order import ZeroOrder
from sgool.objectives import CropSettings, Objective, SaliencySettings
from sgool.objectives.pixels import Color, Sharpness
from sgool.prompts.seeding import pair_generator
from sgool.saliency import SpectralResidual
from sgool.types import PairResult, PromptSeed
from tests.diffusion.families import PROMPTS, SEEDS, Float64Inside, chain_of, own_call, pipeline_of, prompted, streams
from tests.fits import assert_same, optimise, run

PAIRS = tuple(PromptSeed(prompt, seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True))
#: Stable Diffusion's layout with LCMScheduler: four steps, three noises.
NAME = "sd_lcm"
RULES: dict[str, Any] = {"grad_clip_value": None, "grad_clip_norm": 0.5, "perturb_std": 1e-2, "norm_regularizer": 0.01}
UPDATES, LR = 3, 2.0


def goal(salient: bool = False) -> Objective:
    saliency = SaliencySettings(SpectralResidual()) if salient else None
    terms = {"color": Color([0.9, 0.1, 0.2]), "sharpness": Sharpness()}
    return Objective(terms, {"color": 1.0, "sharpness": 0.1}, CropSettings(num=0), saliency)


class Given(TorchFunctionMode):
    """Gives a scheduler these noises, one after the other, where it draws."""

    def __init__(self, noises: Tensor) -> None:
        super().__init__()
        self.left = list(noises)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.left.pop(0) if func in (torch.randn, torch.randn_like) else func(*args, **(kwargs or {}))


def value(latents: Tensor, pair: int) -> Tensor:
    """The objective of one pair's first latents and noises (1 + K, 1, C, h, w), through the pipeline's own call."""
    # The pipeline's last draw has no effect.
    with Given(torch.cat([latents[1:], torch.zeros_like(latents[:1])])):
        last = own_call(NAME, pair, latents=latents[0], output_type="latent")
    vae = pipeline_of(NAME, torch.float64).vae
    images = vae.decode(last / vae.config.scaling_factor, return_dict=False)[0] / 2 + 0.5
    losses = [weight * term(images, term.targets([PAIRS[pair]])) for term, weight in ((Color([0.9, 0.1, 0.2]), 1.0),)]
    return torch.stack([*losses, 0.1 * Sharpness()(images, torch.zeros(1, 0))]).sum()


def plain_loop(pair: int, whiten: bool) -> Tensor:
    """ReNO's rule with momentum, written a second time, on all streams of one pair."""
    latents = streams(prompted(NAME, dtype=torch.float64), range(pair, pair + 1))
    norms, momentum = latents.flatten(2).norm(dim=2), torch.zeros_like(latents)
    count = latents[0].numel()
    for update in range(UPDATES):
        leaf = latents.clone().requires_grad_(True)
        radii = leaf.flatten(2).norm(dim=2)
        # Independent noises: their log densities add.
        penalty = (0.5 * radii**2 - (count - 1) * radii.log()).sum()
        (gradient,) = torch.autograd.grad(value(leaf, pair) + RULES["norm_regularizer"] * penalty, leaf)
        gradient = gradient * min(1.0, RULES["grad_clip_norm"] / float(gradient.norm()))
        momentum = 0.9 * momentum + gradient
        latents = latents - LR * momentum
        generator = pair_generator(PAIRS[pair].seed, "perturb", update)
        for stream in latents:
            stream += RULES["perturb_std"] * torch.randn(stream.shape[1:], generator=generator)
        latents = whitened(latents, 16) if whiten else latents
        latents = latents * (norms / latents.flatten(2).norm(dim=2))[..., None, None, None]
    return latents[:, 0]


@pytest.fixture
def all64(monkeypatch: pytest.MonkeyPatch) -> Chain:
    """The case's chain in float64; the pipeline's own call in `value` as well."""
    own = pipeline_of(NAME, torch.float64)
    monkeypatch.setattr("tests.diffusion.families.pipeline_of", lambda *_: own)
    return chain_of(NAME, torch.float64)


@pytest.mark.parametrize("whiten", [False, True])
def test_updates_are_a_plain_loop_over_all_noises(all64: Chain, whiten: bool) -> None:
    """`tie`, which is on by default, leaves noises apart, and the loss is divided by no number of streams."""
    assert len(all64.noise_draws) == 3
    rules = {**RULES, "whiten": {"gradient": False, "latents": whiten, "block": 16}}
    with Float64Inside():
        settings: dict[str, Any] = {"num_optimization_steps": UPDATES, "lr": LR, "streams": "all", "keep": "last"}
        found = optimise(all64, goal(), PAIRS, **settings, **rules)
        expected = [plain_loop(pair, whiten) for pair in range(3)]
    for result, latents in zip(found, expected, strict=True):
        assert result.final_latents.shape == (4, *all64.latent_shape()) == result.initial_latents.shape
        moved = (result.final_latents - result.initial_latents).flatten(1).norm(dim=1)
        assert bool((moved > 0.1).all())
        # The scheduler's tables are float32 in the pipeline.
        torch.testing.assert_close(result.final_latents, latents, rtol=0, atol=1e-5)


def test_first_leaves_the_noises_alone(all64: Chain) -> None:
    settings: dict[str, Any] = {"num_optimization_steps": 2, "lr": LR, **RULES}
    alone, every = (optimise(all64, goal(), PAIRS[:1], streams=own, **settings)[0] for own in ("first", "all"))
    assert alone.final_latents.shape == (1, *all64.latent_shape())
    assert alone.initial_image.equal(every.initial_image)
    assert alone.initial_latents[0].equal(every.initial_latents[0])
    # Four streams of nearly the same norm: their penalties add.
    ratio = every.history[0]["norm_regularizer"] / alone.history[0]["norm_regularizer"]
    assert ratio == pytest.approx(4, rel=0.1)


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "updates": (LatentPairModule, {"num_optimization_steps": 2, "lr": LR, "candidates": 3}),
    "best_of_n": (BestOfN, {"num_candidates": 4}),
    "zero_order": (ZeroOrder, {"num_candidates": 6, "num_neighbours": 2, "threshold": 0.95}),
    "evolution": (Evolution, {"num_candidates": 7, "population": 3, "num_elites": 1}),
}
EACH = pytest.mark.parametrize("name", METHODS)


def made(name: str, chain: Chain, pairs: Any = PAIRS, callbacks: Any = (), salient: bool = False) -> list[PairResult]:
    kind, options = METHODS[name]
    if kind is LatentPairModule:
        return optimise(chain, goal(salient), pairs, callbacks, streams="all", **options, **RULES)
    module: PairModule = kind(chain, goal(salient), streams="all", **options)
    return run(module, pairs, callbacks)


@EACH
def test_batch_mates_do_not_change_a_result(all64: Chain, name: str) -> None:
    together = made(name, all64)
    for pair, result in enumerate(together):
        (alone,) = made(name, all64, PAIRS[pair : pair + 1])
        assert alone.best_step == result.best_step
        # float64: only the order of sums differs; some layers of diffusers' networks work in float32.
        torch.testing.assert_close(result.final_latents, alone.final_latents, rtol=0, atol=1e-5)


@EACH
def test_they_go_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    chain, file = chain_of(NAME), tmp_path / "it.ckpt"
    expected = made(name, chain, salient=True)
    assert all(result.final_latents.shape[0] == 4 for result in expected)
    for stop_after in range(1, 4):
        asked = iter([False] * (stop_after - 1) + [True] * 99)
        try:
            made(name, chain, callbacks=[BatchCheckpoint(lambda _: file, interrupted=asked.__next__)], salient=True)
        except Interrupted:
            assert file.exists()
        again = made(name, chain, callbacks=[BatchCheckpoint(lambda _: file)], salient=True)
        assert_same(again, expected)
        file.unlink(missing_ok=True)


def test_candidates_have_noises_of_their_own() -> None:
    first = torch.randn(4, 3, 4, 8, 8)
    found = draw_candidate(first, PAIRS, 2, num_noises=3)
    assert found[0].equal(draw_candidate(first[:1], PAIRS, 2)[0])  # the first latents are those of `first`
    flat = torch.cat([found.flatten(0, 1), first.flatten(0, 1)]).flatten(1)
    nearness = torch.corrcoef(flat) - torch.eye(len(flat))
    assert float(nearness.abs().max()) < 0.35  # 256 numbers each: five standard deviations


def test_every_noise_of_a_neighbour_has_the_angle(all64: Chain) -> None:
    result = made("zero_order", all64, PAIRS[1:2])[0]
    assert result.best_step > 0
    turned = torch.nn.functional.cosine_similarity(
        result.final_latents.flatten(1), result.initial_latents.flatten(1), dim=1
    )
    rounds = -(-result.best_step // 2)
    low, high = (0.95**rounds - 0.2, 0.951)
    assert bool((turned > low).all()) and bool((turned < high).all())
    norms = [own.flatten(1).norm(dim=1) for own in (result.final_latents, result.initial_latents)]
    torch.testing.assert_close(*norms, rtol=1e-6, atol=0)  # float32 draws


def test_a_scheduler_without_noise_is_refused() -> None:
    chain = chain_of("sd_turbo")
    expected = "all needs a sampler that adds noise on the way, and native with the model's EulerDiscreteScheduler"
    for kind in (LatentPairModule, BestOfN, ZeroOrder, Evolution):
        with pytest.raises(SgoolError, match=expected):
            kind(chain, goal(), streams="all")
    with pytest.raises(SgoolError, match=r"`optimization\.streams`: expected first or all, got 'both'"):
        LatentPairModule(chain, goal(), streams="both")
