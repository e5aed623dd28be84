"""What methods spend: backward passes are counted, and a budget holds, in calls exactly and in seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import pytest

from sgool.callbacks import PairCallback, default_callbacks
from sgool.errors import SgoolError
from sgool.methods import BestOfN, ClipGuidance, Evolution, FKSteering, LatentPairModule, PairModule, Vanilla, ZeroOrder
from sgool.methods.base_options import method_budget
from sgool.methods.budget import Budget, Costs
from sgool.methods.build import Ingredients, build_method
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, TextAlignment
from sgool.types import Candidate, PairResult, PromptSeed
from tests.fits import chain_of, optimise, run

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2))
STEPS = 3
CHAIN: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0}
#: Sampler, engine, network calls of an update: forward, again in backward, backward.
ENGINES: list[tuple[str, dict[str, Any], tuple[int, int, int]]] = [
    ("ddim", {"name": "direct"}, (3, 0, 3)),
    ("ddim", {"name": "checkpoint"}, (3, 3, 3)),
    ("ddim", {"name": "checkpoint", "gradient_steps": 1}, (3, 1, 1)),
    ("edict", {"name": "reversible", "max_drift": 1.0}, (6, 6, 6)),
]


@pytest.fixture
def goal(clip_tower: ClipTower) -> Objective:
    return Objective({"text": TextAlignment(clip_tower)}, {"text": 1.0}, CropSettings(num=2))


def spent(result: PairResult) -> int:
    return result.network_evaluations + result.network_backward_passes


@pytest.mark.parametrize(("sampler", "engine", "update"), ENGINES, ids=str)
@pytest.mark.parametrize("candidates", [1, 3])
def test_an_optimisation_spends_all_but_less_than_an_update(
    models: StableDiffusion,
    goal: Objective,
    sampler: str,
    engine: dict[str, Any],
    update: tuple[int, int, int],
    candidates: int,
) -> None:
    chain = chain_of(models, sampler, engine, **CHAIN)
    forward, _, backward = update
    costs = Costs.of(chain)
    assert (costs.image, costs.update) == (forward, sum(update))
    least = (candidates if candidates > 1 else 0) * forward + sum(update) + forward
    for budget, updates in ((least, 1), (least + sum(update) - 1, 1), (least + sum(update), 2)):
        own = {"candidates": candidates, "budget": Budget(calls=budget)}
        for result in optimise(chain, goal, PAIRS, num_optimization_steps=7, **own):
            assert (result.num_optimization_steps, spent(result)) == (updates, least + (updates - 1) * sum(update))
            assert result.network_backward_passes == updates * backward
    with pytest.raises(SgoolError, match=rf"`budget\.calls`: expected at least {least} for doodl \("):
        optimise(chain, goal, PAIRS, candidates=candidates, budget=Budget(calls=least - 1, method="doodl"))


@pytest.mark.parametrize("memory", [0.5, 1000])
def test_what_is_kept_in_memory_changes_no_number_of_updates(
    models: StableDiffusion, goal: Objective, memory: float
) -> None:
    chain = chain_of(models, engine={"name": "checkpoint", "memory_mib": memory}, **CHAIN)
    assert Costs.of(chain) == Costs.of(chain_of(models, **CHAIN)) == Costs(image=3, update=9)
    assert chain.calls == 0
    for pairs in (PAIRS, PAIRS[:1]):
        for result in optimise(chain, goal, pairs, num_optimization_steps=7, budget=Budget(calls=3 + 2 * 9)):
            assert result.num_optimization_steps == 2 and spent(result) <= 3 + 2 * 9


@pytest.mark.parametrize("method", [BestOfN, ZeroOrder, Evolution, FKSteering])
def test_a_search_spends_all_but_less_than_an_image(models: StableDiffusion, goal: Objective, method: Any) -> None:
    chain = chain_of(models, **CHAIN)
    for budget, images in ((3, 1), (14, 4), (15, 5)):
        for result in run(method(chain, goal, budget=Budget(calls=budget)), PAIRS):
            assert (spent(result), result.network_backward_passes) == (images * STEPS, 0)
    with pytest.raises(SgoolError, match=r"`budget\.calls`: expected at least 3, which it takes, got 2"):
        method(chain, goal, budget=Budget(calls=2, method="it"))


@pytest.mark.parametrize(
    ("options", "evaluations", "backward"),
    [
        ({}, 3, 3),
        ({"through_network": False}, 3, 0),
        ({"estimate_from": "prompt"}, 6, 3),
        ({"estimate_from": "negative_prompt", "through_network": False}, 6, 0),
    ],
    ids=str,
)
def test_methods_of_a_fixed_cost(
    models: StableDiffusion, goal: Objective, options: dict[str, Any], evaluations: int, backward: int
) -> None:
    chain = chain_of(models, **CHAIN)

    def guided(calls: int | None) -> PairModule:
        return ClipGuidance(chain, goal, clip_guidance_scale=1.0, budget=Budget(calls, method="it"), **options)

    for calls in (None, evaluations + backward):
        (result,) = run(guided(calls), PAIRS[:1])
        assert (result.network_evaluations, result.network_backward_passes) == (evaluations, backward)
    said = rf"`budget\.calls`: expected at least {evaluations + backward}, which it takes, got"
    with pytest.raises(SgoolError, match=said):
        guided(evaluations + backward - 1)
    (plain,) = run(Vanilla(chain, budget=Budget(calls=100)), PAIRS[:1])
    assert spent(plain) == STEPS
    with pytest.raises(SgoolError, match=r"`budget\.calls`: expected at least 3, which it takes, got 2"):
        Vanilla(chain, budget=Budget(2, method="it"))


def timed(monkeypatch: pytest.MonkeyPatch, module: PairModule) -> None:
    """A call takes a second, forward and backward alike: the module's own count is its clock."""
    monkeypatch.setattr(
        type(module), "seconds", property(lambda own: own.batch_chain.calls + own.batch_chain.network.backward_calls)
    )


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("pairs", [1, 2])
def test_updates_end_before_the_next_would_exceed_the_seconds(
    models: StableDiffusion, goal: Objective, monkeypatch: pytest.MonkeyPatch, candidates: int, pairs: int
) -> None:
    """By a clock that counts calls, a limit in seconds gives what the same number of calls of the whole batch gives."""
    chain = chain_of(models, **CHAIN)
    for limit in (24, 29, 30, 40):
        own = LatentPairModule(chain, goal, candidates=candidates, budget=Budget(seconds=limit / pairs))
        timed(monkeypatch, own)
        results = run(own, PAIRS[:pairs], default_callbacks())
        monkeypatch.undo()
        expected = optimise(chain, goal, PAIRS[:pairs], candidates=candidates, budget=Budget(calls=limit))
        for one, other in zip(results, expected, strict=True):
            assert (one.num_optimization_steps, spent(one)) == (other.num_optimization_steps, spent(other))
            assert one.history == other.history and one.final_image.equal(other.final_image)


def test_a_share_of_the_calls_is_for_the_search(models: StableDiffusion, goal: Objective) -> None:
    chain = chain_of(models, **CHAIN)
    image, update = Costs.of(chain).image, Costs.of(chain).update
    whole = 10 * image + 4 * update
    for budget, share, tried in (
        (whole, 0.5, whole // 2 // image),
        (whole, 0.99, (whole - update - image) // image),  # an update and the last image are left
        (update + 2 * image, 0.5, 0),  # a single candidate needs no search
    ):
        updates = (budget - tried * image - image) // update
        for result in optimise(chain, goal, PAIRS, search_share=share, budget=Budget(calls=budget), candidates=99):
            assert result.num_optimization_steps == updates
            assert len(result.history) == tried + updates + 1
            assert spent(result) == tried * image + updates * update + image


def test_a_share_of_the_seconds_is_for_the_search(
    models: StableDiffusion, goal: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(models, **CHAIN)
    for limit, share in ((40, 0.5), (60, 0.3)):
        own = LatentPairModule(chain, goal, search_share=share, budget=Budget(seconds=limit / 2))
        timed(monkeypatch, own)
        results = run(own, PAIRS[:2], default_callbacks())
        monkeypatch.undo()
        expected = optimise(chain, goal, PAIRS[:2], search_share=share, budget=Budget(calls=limit))
        for one, other in zip(results, expected, strict=True):
            assert (one.num_optimization_steps, spent(one)) == (other.num_optimization_steps, spent(other))
            assert one.history == other.history and one.final_image.equal(other.final_image)


def test_a_search_by_the_clock_says_how_many_candidates_it_expects(
    models: StableDiffusion, goal: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Totals(PairCallback):
        def __init__(self) -> None:
            self.all: list[int] = []

        def on_candidate(self, trainer: L.Trainer, pl_module: Any, seen: Candidate) -> None:
            self.all.append(seen.total)

    totals, limit = Totals(), Budget(seconds=10 * STEPS)
    own = LatentPairModule(chain_of(models, **CHAIN), goal, search_share=0.5, budget=limit)
    timed(monkeypatch, own)
    run(own, PAIRS[:1], [*default_callbacks(), totals])
    # A candidate takes STEPS seconds here, and half of the time is for them.
    assert totals.all == [5] * 5


def test_what_the_most_updates_leave_is_for_the_search(
    models: StableDiffusion, goal: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(models, **CHAIN)
    image, update = Costs.of(chain).image, Costs.of(chain).update
    least = 2 * image + 2 * update + image  # two candidates, two updates, the image after them
    for calls, tried, updates in ((least, 2, 2), (least + 2 * image + 1, 4, 2), (least + 4 * image, 6, 2)):
        own = {"search_share": 0.1, "max_updates": 2}
        for result in optimise(chain, goal, PAIRS, **own, budget=Budget(calls=calls), candidates=99):
            assert (result.num_optimization_steps, len(result.history)) == (updates, tried + updates + 1)
            assert spent(result) == (tried + 1) * image + updates * update
        timed_one = LatentPairModule(chain, goal, **own, budget=Budget(seconds=calls / 2))
        timed(monkeypatch, timed_one)
        results = run(timed_one, PAIRS, default_callbacks())
        monkeypatch.undo()
        assert {(result.num_optimization_steps, spent(result)) for result in results} == {
            (updates, (tried + 1) * image + updates * update)
        }


def test_the_most_updates_hold_without_a_share_and_not_without_a_budget(
    models: StableDiffusion, goal: Objective
) -> None:
    chain = chain_of(models, **CHAIN)
    for budget, updates in ((Budget(calls=100), 2), (Budget(), 4)):
        results = optimise(chain, goal, PAIRS, num_optimization_steps=4, max_updates=2, budget=budget)
        assert [result.num_optimization_steps for result in results] == [updates] * 2
    with pytest.raises(SgoolError, match=r"`optimization\.max_updates`: expected 1 or more, or None, got 0"):
        LatentPairModule(chain, goal, max_updates=0)


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_is_below_one(models: StableDiffusion, goal: Objective, share: float) -> None:
    with pytest.raises(SgoolError, match=r"`optimization\.search_share`: expected a number between 0 and 1, got"):
        LatentPairModule(chain_of(models, **CHAIN), goal, search_share=share)


@pytest.mark.parametrize("method", [BestOfN, ZeroOrder, Evolution])
def test_candidates_end_before_the_next_would_exceed_the_seconds(
    models: StableDiffusion, goal: Objective, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    chain = chain_of(models, **CHAIN)
    for limit in (1, 3, 14, 15):
        own = method(chain, goal, budget=Budget(seconds=limit / 2))
        timed(monkeypatch, own)
        results = run(own, PAIRS)
        monkeypatch.undo()
        assert [spent(result) for result in results] == [max(limit // STEPS, 1) * STEPS] * 2


def test_a_slow_start_does_not_count_for_the_rounds_after_it(
    models: StableDiffusion, goal: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = BestOfN(chain_of(models, **CHAIN), goal, budget=Budget(seconds=2.9 * STEPS))
    # The first round takes as long as a call each, all others a tenth of that.
    clock = property(lambda module: 0.9 * STEPS + 0.1 * module.batch_chain.calls)
    monkeypatch.setattr(BestOfN, "seconds", clock)
    (result,) = run(own, PAIRS[:1])
    assert spent(result) // STEPS in (19, 20)  # 0.9 + 0.1 n is 2.9


def test_particles_are_tried_again_while_there_is_time(
    models: StableDiffusion, goal: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(models, **CHAIN)
    for limit, sweeps in ((5, 1), (12, 2), (17, 2), (18, 3)):
        own = FKSteering(chain, goal, particles=2, resample_every=1, budget=Budget(seconds=limit))
        timed(monkeypatch, own)
        (result,) = run(own, PAIRS[:1])
        monkeypatch.undo()
        assert spent(result) == sweeps * 2 * STEPS and result.error is None


@pytest.mark.parametrize(
    ("calls", "seconds", "spent_calls"),
    [(5 * STEPS, 100, 4 * STEPS), (5 * STEPS, 3 * STEPS, 2 * STEPS), (STEPS, 100, STEPS)],
    ids=["the calls end it", "the clock ends it", "fewer particles"],
)
def test_particles_keep_both_limits(
    models: StableDiffusion,
    goal: Objective,
    monkeypatch: pytest.MonkeyPatch,
    calls: int,
    seconds: int,
    spent_calls: int,
) -> None:
    own = FKSteering(
        chain_of(models, **CHAIN), goal, particles=2, resample_every=1, budget=Budget(calls=calls, seconds=seconds)
    )
    timed(monkeypatch, own)
    (result,) = run(own, PAIRS[:1])
    assert spent(result) == spent_calls and result.error is None


def test_the_seconds_of_a_real_clock_hold(models: StableDiffusion, goal: Objective) -> None:
    chain = chain_of(models, **CHAIN)
    one = optimise(chain, goal, PAIRS, num_optimization_steps=1)[0].seconds
    results = optimise(chain, goal, PAIRS, num_optimization_steps=1, budget=Budget(seconds=8 * one))
    assert results[0].num_optimization_steps > 1
    # Half above: an update may take longer than those before it, on a machine that others use as well.
    assert results[0].seconds < 1.5 * 8 * one


def test_a_search_follows_the_budget_of_the_method_that_it_is_compared_with() -> None:
    methods = {
        "doodl": {"budget": {"calls": 40}, "optimization": {}},
        "best_of_n": {"budget": {}, "num_candidates": None, "same_budget_as": "doodl"},
        "own": {"budget": {"seconds": 2.0}, "num_candidates": None, "same_budget_as": "doodl"},
        "fixed": {"budget": {}, "num_candidates": 3, "same_budget_as": "doodl"},
    }
    config = {"budget": {"calls": None, "seconds": None}, "method": methods}
    found = {name: method_budget(config, name) for name in methods}
    assert found["doodl"] == found["best_of_n"] == {"calls": 40, "seconds": None}
    assert found["own"] == {"calls": None, "seconds": 2.0}
    assert found["fixed"] == {"calls": None, "seconds": None}


def test_best_of_n_may_spend_what_the_search_of_an_optimisation_costs(models: StableDiffusion, goal: Objective) -> None:
    chain = chain_of(models, **CHAIN)
    (spender,) = optimise(chain, goal, PAIRS[:1], num_optimization_steps=2, candidates=5)
    (searched,) = run(BestOfN(chain, goal, 2, candidates=5), PAIRS[:1])
    assert searched.network_evaluations == spender.network_evaluations == (5 + 2 * 2 + 1) * STEPS


def test_a_method_of_ones_own_that_knows_no_budget_is_refused(models: StableDiffusion, goal: Objective) -> None:
    entry = {"kind": "custom", "_target_": "tests.toys.toy_method.Mirror", "arguments": {}, "budget": {}}
    given = Ingredients(chain_of(models, **CHAIN), None, lambda: goal, lambda: None, {})
    assert build_method("mine", entry, given)[0].method == "mine"
    expected = "`budget`: mine does not look at it, since its class has no parameter `budget`; set method.mine.budget="
    with pytest.raises(SgoolError, match=expected):
        build_method("mine", entry, replace(given, budget=Budget(calls=100)))
