"""Components by name and by dotted path: what they say before torch is imported, and when they are built."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sgool.config.kinds import Kind
from sgool.config.locate import locate, module_problems
from sgool.config.options import CustomOptions, Options
from sgool.diffusion import build_engine, build_sampler
from sgool.diffusion.options import ENGINES, SAMPLERS, EngineOptions, SamplerOptions
from sgool.errors import ConfigError, SgoolError
from sgool.methods.options import METHODS
from sgool.metrics.build import build_judges
from sgool.metrics.options import JUDGES
from sgool.models.networks import Networks
from sgool.objectives import build_term
from sgool.objectives.options import TERMS, TermOptions
from sgool.run.config import load_config
from sgool.saliency import build_detector
from sgool.saliency.options import DETECTORS

KINDS = {"sampler": SAMPLERS, "engine": ENGINES, "term": TERMS, "detector": DETECTORS, "judge": JUDGES}
ROOMS = ("diffusion", "methods", "metrics", "models", "objectives", "saliency")
#: Options that are the run's business: not passed to what builds the component.
COMMON = {
    "sampler": {*SamplerOptions.schema(), "decode"},
    "engine": set(EngineOptions.schema()),
    "term": set(TermOptions.schema()),
}

MODULE = """
from dataclasses import dataclass

from sgool.config.options import Options, option, required
from sgool.config.rules import integer


@dataclass(frozen=True, kw_only=True)
class ToyOptions(Options):
    size: int = required(integer(1))
    power: int = option(2, integer(1))

    def problems(self, where, config):
        if self.size > 9:
            yield f"`{where}.size`: too large"


class Toy:
    options = ToyOptions

    def __init__(self, size, power, name=None, networks=None):
        self.size, self.power, self.name, self.networks = size, power, name, networks

    def __call__(self, images):
        return images


class Empty:
    pass


def number():
    return 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current directory."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_kinds_for_tests.py").write_text(MODULE)
    return "own_kinds_for_tests"


def own(path: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": path, "arguments": arguments}


# What the shipped components say


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in KINDS[kind].components], ids=lambda value: value
)
def test_every_component_s_builder_takes_its_options(kind: str, name: str) -> None:
    options = KINDS[kind].components[name]
    names = set(options.schema()) - COMMON.get(kind, set())
    offered = {"name", "networks", "terms"}
    signature = inspect.signature(locate(options.builder, "builder"))
    accepted = offered & set(signature.parameters)
    bound = signature.bind(**dict.fromkeys(names | accepted))  # a TypeError for a name that it does not take
    assert set(bound.arguments) | set(bound.kwargs) >= names


@pytest.mark.parametrize("name", METHODS.components)
def test_every_method_names_its_class(name: str) -> None:
    assert callable(locate(METHODS.components[name].builder, "builder"))


def test_capabilities_are_attributes() -> None:
    assert SAMPLERS.able("invertible") == ["edict", "belm", "bdia"]
    assert SAMPLERS.able("has_inverse") == ["ddim", "edict", "belm", "bdia"]
    assert SAMPLERS.able("guidable") == ["ddim", "dpm_solver"]
    assert TERMS.able("needs_text") == ["text_alignment", "hps", "pickscore", "image_reward", "hps_v3", "vqa_score"]
    searches = ["best_of_n", "zero_order", "evolution", "fk_steering"]
    assert METHODS.able("needs_objective") == ["optimize", "clip_guidance", *searches]
    assert METHODS.able("optimizes") == METHODS.able("starts_from_image") == ["optimize"]
    assert SAMPLERS.options({"name": "custom"}).invertible is None


@pytest.mark.parametrize("module_name", [*(f"sgool.{room}.options" for room in ROOMS), "sgool.run.config.schema"])
def test_options_import_nothing_heavy(module_name: str) -> None:
    code = (
        f"import sys; import {module_name}; "
        "print(sorted({'torch', 'lightning', 'diffusers', 'transformers', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.returncode) == ("[]", 0), result.stderr


# Of the user's own, before anything is imported


def test_a_module_is_looked_for_and_not_executed(tmp_path: Path, module: str) -> None:
    (tmp_path / "loud_package").mkdir()
    (tmp_path / "loud_package" / "__init__.py").write_text("raise RuntimeError('executed')")
    (tmp_path / "loud_package" / "inner.py").write_text("raise RuntimeError('executed')")
    for path in ("loud_package.Name", "loud_package.inner.Name", f"{module}.Toy", "json.decoder.JSONDecoder"):
        assert list(module_problems(path, "key")) == []
    for path in ("loud_package.missing.Name", f"{module}.inner.Name", "no_such_module_here.Name"):
        (problem,) = module_problems(path, "key")
        assert problem.startswith(f"`key`: cannot import {path!r}: No module named {path.removesuffix('.Name')!r}.")
    assert "loud_package" not in sys.modules


def test_all_modules_that_are_missing_are_reported_at_once(tmp_path: Path) -> None:
    files = {
        "sampler": "{_target_: nowhere.A, num_inference_steps: 2, guidance_scale: 1}",
        "engine": "{_target_: nowhere.B}",
        "objective": "{terms: {x: {_target_: nowhere.C}}, crops: {num: 1, power: 1, min_side: 1, reduction: min}}",
        "judges": "# @package models.judges\nx: {_target_: nowhere.D}",
        "method": "{_target_: nowhere.E, use_saliency: true}",
    }
    for group, text in files.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text)
    groups = ["sampler=mine", "engine=mine", "objective=mine", "judges=mine", "+method@method.mine=mine"]
    with pytest.raises(ConfigError) as caught:
        load_config([*groups, "methods=[mine]"], tmp_path)
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    places = ("sampler", "engine", "objective.terms.x", "models.judges.x", "method.mine")
    assert keys == [f"`{place}._target_`" for place in places]


def test_arguments_stand_beside_the_target(tmp_path: Path, module: str) -> None:
    (tmp_path / "sampler").mkdir()
    text = f"_target_: {module}.Toy\nnum_inference_steps: 2\nguidance_scale: 1\nsize: 3\narguments: {{decode: 1}}\n"
    (tmp_path / "sampler" / "mine.yaml").write_text(text)
    assert dict(load_config(["sampler=mine"], tmp_path).sampler) == {
        "name": "custom", "_target_": f"{module}.Toy", "num_inference_steps": 2, "guidance_scale": 1, "decode": "both",
        "arguments": {"decode": 1, "size": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sampler", "problem"),
    [
        ("_target_: Toy", "`sampler._target_`: expected a dotted path such as my_module.score, got 'Toy'"),
        ("_target_: json.loads\narguments: 3", "`sampler.arguments`: expected a mapping of keyword arguments, got 3"),
        ("name: custom", "`sampler._target_`: is missing"),
        ("name: edict\n_target_: json.loads", "unknown key `sampler._target_`"),
        ("name: [edict]", "`sampler.name`: expected ddim, edict, belm, bdia, dpm_solver or native, got ['edict']"),
        (
            "name: edit",
            "`sampler.name`: expected ddim, edict, belm, bdia, dpm_solver or native, got 'edit'; did",
        ),
    ],
)
def test_what_is_wrong_with_a_target(tmp_path: Path, sampler: str, problem: str) -> None:
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "mine.yaml").write_text(f"{sampler}\nnum_inference_steps: 2\nguidance_scale: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(["sampler=mine"], tmp_path)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(problem)


# Of the user's own, when they are built


@pytest.fixture
def networks() -> Networks:
    return Networks({"device": "cpu"})


def test_what_does_not_fit_is_said_with_what_was_expected_and_got(module: str) -> None:
    path = f"{module}.Empty"
    with pytest.raises(
        SgoolError, match=rf"`sampler`: the arguments do not fit {path}: .*'a'. Expected Empty\(\), got a"
    ):
        build_sampler("custom", **own(path, a=1))
    with pytest.raises(SgoolError, match=r"`engine._target_`: expected an engine, with name, check and run; .*"):
        build_engine("custom", **own(path))
    with pytest.raises(SgoolError, match=r"`sampler._target_`: expected a sampler, .* lacks name, num_streams"):
        build_sampler("custom", **own(path))


def test_judges_terms_and_detectors_of_another_kind(module: str, networks: Networks) -> None:
    path = f"{module}.Empty"
    with pytest.raises(SgoolError, match=r"`models.judges.x._target_`: expected a judge, a TextScore, .*Empty"):
        build_judges({"x": {"type": "custom", **own(path)}}, {}, networks)
    with pytest.raises(SgoolError, match=r"`objective.terms.x._target_`: expected a term, with name, input_size"):
        build_term("x", {"type": "custom", "weight": 1, **own(path)}, networks)
    with pytest.raises(SgoolError, match=r"`saliency.detector._target_`: expected a detector, with __call__; .*number"):
        build_detector({"name": "custom", **own(f"{module}.number")}, networks)


def test_a_component_s_own_options_are_followed(module: str, networks: Networks) -> None:
    detector = {"name": "custom", **own(f"{module}.Toy", size=3)}
    built: Any = build_detector(detector, networks)
    assert (built.size, built.power, built.networks) == (3, 2, networks)
    assert built(torch.zeros(1)).shape == (1,)
    for arguments, problem in (
        ({"size": 0}, "`saliency.detector.size`: expected a whole number of at least 1, got 0"),
        ({"size": 10}, "`saliency.detector.size`: too large"),
        ({"size": 1, "sizes": 2}, "unknown key `saliency.detector.sizes`; did you mean `saliency.detector.size`?"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_detector({"name": "custom", **own(f"{module}.Toy", **arguments)}, networks)
        assert caught.value.problems[0].startswith(problem)


def test_an_unknown_name() -> None:
    kind: Kind[Options] = Kind(word="a thing", key="name", components={}, custom=CustomOptions)
    with pytest.raises(ConfigError, match=r"`thing.name`: expected one of , got 'x'"):
        kind.build("x", {}, "thing")
