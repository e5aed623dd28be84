"""A search among seeds before the updates: against a loop of its own, interrupted anywhere, in batches."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.callbacks import BatchCheckpoint, default_callbacks
from sgool.errors import Interrupted, SgoolError
from sgool.methods import BestOfN, LatentPairModule
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.saliency import SpectralResidual
from sgool.types import PairResult, PromptSeed, Start
from tests.fits import Told, assert_same, chain_of, optimise, run

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2), PromptSeed("a panda", 3))
STEPS, UPDATES, CANDIDATES = 2, 3, 4
CHAIN: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0}
#: Steps large enough that the best image is not always the first.
RULES: dict[str, Any] = {"grad_clip_value": None, "gradient_rms": 0.02, "perturb_std": 1e-3}


def objective(clip: ClipTower, salient: bool = False) -> Objective:
    saliency = SaliencySettings(SpectralResidual()) if salient else None
    return Objective({"text": TextAlignment(clip)}, {"text": 1.0}, CropSettings(num=2), saliency)


def drawn(seed: int, number: int, like: Tensor) -> Tensor:
    """A candidate, drawn anew: the generator's seed is the first seven bytes of a hash of purpose, seed and number."""
    digest = hashlib.sha256(f"best_of_n|{seed}|{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(like.shape, generator=generator).to(like)


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
@pytest.mark.parametrize("salient", [False, True])
def test_the_search_is_a_loop_over_seeds(
    models64: StableDiffusion, clip64: ClipTower, sampler: str, salient: bool
) -> None:
    """Each pair alone: its candidates one by one, then the updates from the best of them."""
    chain, goal = chain_of(models64, sampler, **CHAIN), objective(clip64, salient)
    found = optimise(chain, goal, PAIRS, num_optimization_steps=UPDATES, candidates=CANDIDATES, **RULES)
    plain = optimise(chain, goal, PAIRS, num_optimization_steps=1, **RULES)
    for pair, result, first in zip(PAIRS, found, plain, strict=True):
        own = first.initial_latents[0]
        tried = [own, *(drawn(pair.seed, number, own) for number in range(1, CANDIDATES))]
        starts = [replace(pair, start=Start(latents)) for latents in tried]
        images = [LatentPairModule(chain, goal, pairs=[start]).sample() for start in starts]
        scores = [float(goal.bind([pair]).evaluate(image)) for image in images]
        best = scores.index(min(scores))
        (expected,) = optimise(chain, goal, [starts[best]], num_optimization_steps=UPDATES, **RULES)
        rows = result.history
        # 1e-9: float64, and only the order of sums in a batch differs, over a few updates.
        assert [row["selection"] for row in rows[:CANDIDATES]] == pytest.approx(scores, abs=1e-9)
        selections = [row["selection"] for row in expected.history]
        assert [row["selection"] for row in rows[CANDIDATES:]] == pytest.approx(selections, abs=1e-9)
        assert [row["update"] for row in rows] == list(range(CANDIDATES + UPDATES + 1))
        assert [row["candidate"] for row in rows] == [*range(CANDIDATES), *[best] * (UPDATES + 1)]
        assert result.best_step == CANDIDATES + expected.best_step
        torch.testing.assert_close(result.final_latents, expected.final_latents, rtol=0, atol=1e-9)
        # The first image and latents stay the pair's own.
        assert result.initial_latents.equal(first.initial_latents)
        assert result.initial_image.equal(first.initial_image)
        assert (result.num_optimization_steps, result.error) == (UPDATES, None)
        searched = CANDIDATES * chain.sampling_calls
        assert result.network_evaluations == searched + expected.network_evaluations
        assert result.network_backward_passes == expected.network_backward_passes == UPDATES * chain.sampling_calls


def test_the_candidates_are_those_of_best_of_n(models: StableDiffusion, clip_tower: ClipTower) -> None:
    chain, goal = chain_of(models, **CHAIN), objective(clip_tower)
    pairs = [PromptSeed("a red cat", seed) for seed in range(6)]
    searched = run(BestOfN(chain, goal, num_candidates=CANDIDATES), pairs)
    found = optimise(chain, goal, pairs, num_optimization_steps=1, candidates=CANDIDATES, **RULES)
    chosen = set()
    for one, other in zip(searched, found, strict=True):
        assert [row["selection"] for row in one.history] == [row["selection"] for row in other.history[:CANDIDATES]]
        assert one.best_step == other.history[-1]["candidate"]
        chosen.add(one.best_step)
    assert len(chosen) > 1  # pairs of a batch go on from different ones


def test_one_candidate_is_no_search(models: StableDiffusion, clip_tower: ClipTower) -> None:
    chain, goal = chain_of(models, **CHAIN), objective(clip_tower)
    plain = optimise(chain, goal, PAIRS, num_optimization_steps=2, **RULES)
    assert_same(optimise(chain, goal, PAIRS, num_optimization_steps=2, candidates=1, **RULES), plain)
    assert "candidate" not in plain[0].history[0]


def test_batch_mates_do_not_change_a_result(models64: StableDiffusion, clip64: ClipTower) -> None:
    chain, goal = chain_of(models64, **CHAIN), objective(clip64, salient=True)
    settings = {"num_optimization_steps": 2, "candidates": 3, **RULES}
    (alone,), together = optimise(chain, goal, PAIRS[1:2], **settings), optimise(chain, goal, PAIRS, **settings)
    assert together[1].best_step == alone.best_step
    # float64: only the order of sums differs.
    torch.testing.assert_close(together[1].final_latents, alone.final_latents, rtol=0, atol=1e-9)


@pytest.mark.parametrize("updates_salient", [False, True])
def test_what_chooses_may_be_another_objective(
    models: StableDiffusion, clip_tower: ClipTower, updates_salient: bool
) -> None:
    chain, goal = chain_of(models, **CHAIN), objective(clip_tower, updates_salient)
    chooser = objective(clip_tower, not updates_salient)
    module = LatentPairModule(chain, goal, num_optimization_steps=2, candidates=3, choosing=chooser)
    results = run(module, PAIRS, default_callbacks(**RULES))
    plain = optimise(chain, goal, PAIRS, num_optimization_steps=2, candidates=3, **RULES)
    for pair, result in zip(PAIRS, results, strict=True):
        # 1e-2: the image that is kept has 8 bits a pixel.
        kept = float(chooser.bind([pair]).evaluate(result.final_image[None]))
        assert result.history[result.best_step]["selection"] == pytest.approx(kept, abs=1e-2)
        selections = [row["selection"] for row in result.history]
        assert selections[result.best_step] == min(selections)
    first, other = ([result.history[0]["selection"] for result in own] for own in (results, plain))
    assert all(one != two for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize(("sampler", "salient"), [("ddim", False), ("edict", True)])
def test_it_goes_on_to_the_same_bits_from_any_candidate_or_update(
    models: StableDiffusion, clip_tower: ClipTower, tmp_path: Path, sampler: str, salient: bool
) -> None:
    chain, goal = chain_of(models, sampler, **CHAIN), objective(clip_tower, salient)
    settings = {"num_optimization_steps": UPDATES, "candidates": CANDIDATES, "snapshot_every": 1, **RULES}
    expected = optimise(chain, goal, PAIRS, **settings)
    file = tmp_path / "it.ckpt"

    def part(stop_after: int) -> tuple[list[PairResult], list[tuple[int, int]], list[tuple[int, int]]]:
        told, written = Told(), []
        asked = iter([False] * (stop_after - 1) + [True] * 99)
        keeper = BatchCheckpoint(
            lambda _: file,
            interrupted=lambda: next(asked),
            on_written=lambda pairs, done, total: written.append((done, total)),
        )
        try:
            return optimise(chain, goal, PAIRS, [told, keeper], **settings), told.updates, written
        except Interrupted as stopped:
            assert f"of {CANDIDATES}" in str(stopped)
            return [], told.updates, written

    for stop_after in range(1, CANDIDATES + UPDATES):
        results, _, written = part(stop_after)
        assert results == [] and written == [(stop_after, CANDIDATES + UPDATES)]
        results, updates, _ = part(99)
        assert_same(results, expected)
        left = UPDATES - max(stop_after - CANDIDATES, 0)
        assert updates == [(UPDATES - left + made, UPDATES) for made in range(1, left + 1)]
        file.unlink()


def test_checkpoints_between_candidates(models: StableDiffusion, clip_tower: ClipTower, tmp_path: Path) -> None:
    chain, goal, written = chain_of(models, **CHAIN), objective(clip_tower), []
    keeper = BatchCheckpoint(
        lambda _: tmp_path / "it.ckpt", every=2, on_written=lambda pairs, done, total: written.append(done)
    )
    optimise(chain, goal, PAIRS, [keeper], num_optimization_steps=UPDATES, candidates=CANDIDATES, **RULES)
    assert written == [2, 4, 6]


def test_a_candidate_that_is_not_finite_is_never_chosen(models: StableDiffusion, clip_tower: ClipTower) -> None:
    chain, goal = chain_of(models, **CHAIN), objective(clip_tower)
    plain = optimise(chain, goal, PAIRS[:1], num_optimization_steps=1, candidates=CANDIDATES, **RULES)
    scores = [row["selection"] for row in plain[0].history[:CANDIDATES]]
    order = sorted(range(CANDIDATES), key=scores.__getitem__)

    class Broken(TextAlignment):
        """NaN for the best candidate's score."""

        def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
            values = super().__call__(views, targets)
            return torch.where((values - scores[order[0]]).abs() < 1e-6, torch.nan, values)

    broken = Objective({"text": Broken(clip_tower)}, {"text": 1.0}, CropSettings(num=2))
    (result,) = optimise(chain, broken, PAIRS[:1], num_optimization_steps=1, candidates=CANDIDATES, **RULES)
    assert result.history[-1]["candidate"] == order[1] and result.error is None


def test_bad_input(models: StableDiffusion, clip_tower: ClipTower) -> None:
    chain, goal = chain_of(models, **CHAIN), objective(clip_tower)
    with pytest.raises(SgoolError, match=r"`optimization\.candidates`: expected 1 or more, got 0"):
        LatentPairModule(chain, goal, candidates=0)
    started = replace(PAIRS[0], start=Start(torch.zeros(4, 8, 8)))
    expected = r"`optimization\.candidates`: expected 1 where a pair starts from given latents, got 2: prompts-00000-"
    with pytest.raises(SgoolError, match=expected):
        optimise(chain, goal, [started], num_optimization_steps=1, candidates=2)
