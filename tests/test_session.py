"""Which device a run takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sgool.errors import SgoolError
from sgool.session import Session


def _session(device: str, devices: Any = 1) -> Session:
    return Session({"models": {"device": device}, "trainer": {"devices": devices, "precision": "32-true"}})


@pytest.fixture(autouse=True)
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("device", "words"), [("cuda", "no CUDA device"), ("cuda:1", "CUDA"), ("mps", "no MPS device")]
)
def test_a_device_that_is_not_there(device: str, words: str) -> None:
    with pytest.raises(SgoolError, match=f"`models.device`: '{device}' was asked for, but torch sees .*{words}"):
        _session(device).device  # noqa: B018 - the access is the test


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("devices", [1, [1]])
def test_the_processor_is_one_device(device: str, devices: Any) -> None:
    session = _session(device, devices)
    assert session.device == torch.device("cpu")
    assert session.trainer_options() == {"accelerator": "cpu", "devices": 1, "precision": "32-true"}


@pytest.mark.parametrize(
    ("device", "devices", "index"), [("auto", 1, None), ("auto", [1], 1), ("cuda", [1], 1), ("cuda:2", [1], 2)]
)
def test_networks_and_trainer_take_the_same_device(
    monkeypatch: pytest.MonkeyPatch, device: str, devices: Any, index: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    session = _session(device, devices)
    assert (session.device.type, session.device.index) == ("cuda", index)
    assert session.trainer_options()["devices"] == (1 if index is None else [index])
