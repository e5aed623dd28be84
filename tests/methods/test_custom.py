"""Methods of the user's own that update latents: rules of `optimization` hold for them too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgool.callbacks import EarlyStop
from sgool.errors import ConfigError, SgoolError
from sgool.methods import LatentPairModule, PairModule
from sgool.methods.custom import updates_latents
from sgool.run.config import load_config, to_plain
from sgool.run.parts import Parts

RED = "+objective.terms.red={type: color, rgb: [1, 0, 0], weight: 0}"
STOP = "optimization.early_stop={term: red, patience: 1}"


class Mine(LatentPairModule):
    """All settings are those of the base class."""


class Fixed(LatentPairModule):
    """Has an optimiser and a number of updates of its own."""

    def __init__(self, chain: Any, objective: Any, *, judges: Any = None) -> None:
        super().__init__(chain, objective, num_optimization_steps=3, optimizer="adam", lr=0.1, judges=judges)


class Plain(PairModule):
    """Makes no updates."""


def factory(chain: Any, objective: Any) -> PairModule:
    return LatentPairModule(chain, objective)


@pytest.fixture
def parts(pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Parts]:
    """Makes the parts of a run of the class ``method.mine._target_``, after `doodl` where that is asked for."""
    (tmp_path / "method").mkdir()

    def make(name: str, *overrides: str, methods: str = "mine") -> Parts:
        (tmp_path / "method/mine.yaml").write_text(f"_target_: {__name__}.{name}\n", encoding="utf-8")
        own = [f"models.path={pipeline_folder}", "models.device=cpu", "sampler.num_inference_steps=1"]
        own += ["+method@method.mine=mine", f"methods=[{methods}]"]
        return Parts(to_plain(load_config([*own, *overrides], tmp_path)), judged=False)

    return make


def test_an_early_stop_stops_a_class_of_ones_own(parts: Callable[..., Parts]) -> None:
    built = parts("Mine", RED, STOP)
    built.check_methods()
    module, callbacks = built.method("mine")
    (stop,) = (callback for callback in callbacks if isinstance(callback, EarlyStop))
    assert stop.term.name == "red" and stop.patience == 1
    assert isinstance(module, Mine) and "red" not in module.objective.terms  # it is measured apart
    _, callbacks = parts("Mine", RED).method("mine")
    assert not any(isinstance(callback, EarlyStop) for callback in callbacks)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimization.early_stop.term=nosuch"], r"`optimization\.early_stop\.term`: there is no term 'nosuch'"),
        (["optimization.early_stop.term=text_alignment"], r"expected a term that is not optimised, with objective"),
        (["optimization.optimizer=adam", "optimization.lr=1.0"], "expected a learning rate below 1 where optimizer=a"),
        (
            ["optimization.whiten.gradient=true", "optimization.grad_clip_value=0.001"],
            "expected grad_clip_value=null where whiten.gradient=true",
        ),
        (["optimization.warmup_updates=16"], "expected less than num_optimization_steps=16, got 16"),
        (["optimization.saliency_mask=true"], r"expected use_saliency=true where `optimization\.saliency_mask` is"),
        (["budget.seconds=3", "optimization.lr_schedule=cosine"], "expected lr_schedule constant where `budget.sec"),
        (["+method.mine.optimization.early_stop.term=nosuch"], "there is no term 'nosuch'"),
    ],
)
def test_rules_of_an_optimisation_hold_before_a_network_loads(
    parts: Callable[..., Parts], overrides: list[str], message: str
) -> None:
    built = parts("Mine", *overrides)
    with pytest.raises(ConfigError, match=f"`method.mine`: .*{message}"):
        built.check_methods()
    assert not {"networks", "chain"} & vars(built).keys()


def test_no_network_loads_for_the_methods_before_it(parts: Callable[..., Parts]) -> None:
    built = parts("Mine", "+method.mine.optimization.early_stop.term=nosuch", methods="doodl,mine")
    built.check_streams()
    with pytest.raises(ConfigError, match="there is no term 'nosuch'"):
        built.check_methods()
    assert not {"networks", "chain"} & vars(built).keys()


def test_a_class_is_asked_nothing_of_what_it_does_not_take(parts: Callable[..., Parts]) -> None:
    overrides = ["optimization.optimizer=adam", "optimization.lr=1.0", "optimization.num_optimization_steps=2"]
    parts("Fixed", *overrides, "optimization.warmup_updates=2").check_methods()
    with pytest.raises(ConfigError, match=r"`method\.mine`: .*expected less than the 3 updates, got 3"):
        parts("Fixed", *overrides, "optimization.warmup_updates=3").check_methods()


def test_a_class_without_updates_has_no_rules_of_updates(parts: Callable[..., Parts]) -> None:
    parts("Plain", "optimization.early_stop.term=nosuch").check_methods()


def test_a_function_can_have_no_early_stop(parts: Callable[..., Parts]) -> None:
    module, _ = parts("factory").method("mine")
    assert module.makes_updates
    with pytest.raises(SgoolError, match=r"`optimization\.early_stop\.term`: mine cannot have one \(got red\), since"):
        parts("factory", RED, STOP).method("mine")
    # Before any method runs.
    with pytest.raises(ConfigError, match="mine cannot have one"):
        parts("factory", RED, STOP, methods="doodl,mine").check_methods()


def test_who_updates_latents() -> None:
    kinds = ("vanilla", "optimize", "best_of_n", "clip_guidance")
    assert [updates_latents({"kind": kind}) for kind in kinds] == [False, True, False, False]
    for name, makes in (("Mine", True), ("Plain", False), ("factory", False)):
        assert updates_latents({"kind": "custom", "_target_": f"{__name__}.{name}"}) == makes
    with pytest.raises(SgoolError, match=r"`method\.x\._target_`: cannot import"):
        updates_latents({"kind": "custom", "_target_": "nowhere.Mine"}, "method.x")
