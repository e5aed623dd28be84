"""The parts of a run: which device it takes, and what it says of prompts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sgool.errors import ConfigError, SgoolError
from sgool.run.config import load_config, to_plain
from sgool.run.parts import Parts


def _parts(device: str, devices: Any = 1) -> Parts:
    return Parts({"models": {"device": device}, "trainer": {"devices": devices, "precision": "32-true"}})


@pytest.fixture(autouse=True)
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("device", "words"), [("cuda", "no CUDA device"), ("cuda:1", "CUDA"), ("mps", "no MPS device")]
)
def test_a_device_that_is_not_there(device: str, words: str) -> None:
    with pytest.raises(SgoolError, match=f"`models.device`: got '{device}', but torch sees .*{words}"):
        _parts(device).device  # noqa: B018 - the access is the test


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("devices", [1, [1]])
def test_the_processor_is_one_device(device: str, devices: Any) -> None:
    parts = _parts(device, devices)
    assert parts.device == torch.device("cpu")
    assert parts.trainer_options() == {"accelerator": "cpu", "devices": 1, "precision": "32-true"}


@pytest.mark.parametrize(
    ("device", "devices", "index"), [("auto", 1, None), ("auto", [1], 1), ("cuda", [1], 1), ("cuda:2", [1], 2)]
)
def test_networks_and_trainer_take_the_same_device(
    monkeypatch: pytest.MonkeyPatch, device: str, devices: Any, index: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    parts = _parts(device, devices)
    assert (parts.device.type, parts.device.index) == ("cuda", index)
    assert parts.trainer_options()["devices"] == (1 if index is None else [index])


@pytest.mark.parametrize(("guidance", "negative", "said"), [(1, "blue", 1), (0, "blue", 1), (0, "", 0), (2, "blue", 0)])
def test_negative_prompts_that_nothing_reads_are_named(guidance: float, negative: str, said: int) -> None:
    parts = Parts(to_plain(load_config([f"sampler.guidance_scale={guidance}"])))
    texts = parts.unread_negative_prompts(["", negative])
    assert len(texts) == said
    assert all(f"`sampler.guidance_scale` is {guidance}, and at 1 or less" in text for text in texts)


@pytest.mark.parametrize(
    ("overrides", "clamps"),
    [
        ([], {"doodl": False, "reno": True, "clip_guidance": False}),
        (["optimization=doodl"], {"doodl": True, "reno": True, "clip_guidance": True}),
        (["method.clip_guidance.clamp_images=true"], {"doodl": False, "clip_guidance": True}),
        (["optimization=doodl", "method.clip_guidance.clamp_images=false"], {"doodl": True, "clip_guidance": False}),
    ],
)
def test_whose_objective_clamps(pipeline_folder: Path, overrides: list[str], clamps: dict[str, bool]) -> None:
    parts = Parts(to_plain(load_config([f"models.path={pipeline_folder}", *overrides])), judged=False)
    found = {name: parts.method(name)[0] for name in clamps}
    assert {name: module.objective.clamp_images for name, module in found.items()} == clamps  # type: ignore[union-attr]


def test_what_the_callbacks_of_any_method_refuse_is_said_at_once(pipeline_folder: Path) -> None:
    overrides = [
        f"models.path={pipeline_folder}",
        "methods=[vanilla,doodl,reno]",
        "sampler.num_inference_steps=1",
        "budget.calls=20",
        "optimization.warmup_updates=10",
        "optimization.gaussianity={weight: 1, dim: 100000}",
    ]
    with pytest.raises(ConfigError) as refused:
        Parts(to_plain(load_config(overrides)), judged=False).check_methods()
    text = str(refused.value)
    for name in ("doodl", "reno"):
        assert re.search(
            f"`method.{name}`: `optimization.warmup_updates`: expected less than the . updates, got 10", text
        )
    assert "`method.doodl`: `optimization.gaussianity.dim`: expected at most 256, the number of latents, got 1" in text
    assert "vanilla" not in text


def test_a_warm_up_is_compared_with_the_updates_of_the_budget(pipeline_folder: Path) -> None:
    overrides = [f"models.path={pipeline_folder}", "methods=[doodl]", "optimization.warmup_updates=20"]
    with pytest.raises(ConfigError, match="expected less than num_optimization_steps=16, got 20"):
        load_config(overrides)
    config = to_plain(load_config([*overrides, "sampler.num_inference_steps=1", "budget.calls=500"]))
    Parts(config, judged=False).check_methods()


def test_the_chain_has_the_schedule_of_doodls_code(pipeline_folder: Path) -> None:
    overrides = [f"models.path={pipeline_folder}", "sampler=edict", "optimization=doodl"]
    chain = Parts(to_plain(load_config(overrides))).chain
    assert [step.timestep for step in chain.schedule.steps] == list(range(980, -1, -20))


@pytest.mark.parametrize(("methods", "said"), [(["vanilla"], False), (["vanilla", "doodl"], True)])
def test_prompts_that_a_term_of_the_objective_cuts_off(
    clip_folder: Path, pipeline_folder: Path, methods: list[str], said: bool
) -> None:
    """The term's own CLIP reads fewer words than the guide; without a method that optimises, no one reads with it."""
    overrides = [
        f"models.path={pipeline_folder}",
        "models.device=cpu",
        f"objective.terms.text_alignment.clip={clip_folder}",
        f"methods=[{','.join(methods)}]",
    ]
    long = "a red cat to the left of a blue house and two green trees above a large orange car beside a heart"
    texts = Parts(to_plain(load_config(overrides))).truncations([long, "a cat"])
    (text,) = texts  # the pipeline and the term, whose tokenizers are alike, in one sentence
    assert text.count(long) == 1
    assert (": the pipeline and the objective's term text_alignment do not see " in text) == said
