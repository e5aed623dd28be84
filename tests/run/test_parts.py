"""The parts of a run: which device it takes, and what it says of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sgool.errors import SgoolError
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
