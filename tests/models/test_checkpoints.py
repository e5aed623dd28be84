"""Weights files: safe reading, the nesting and prefixes of public layouts, strict loading with names in the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sgool.errors import SgoolError
from sgool.models.checkpoints import below, first_tensor, load_strictly, read_state

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, 2.0])}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"params": state}},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["plain", "state_dict", "nested", "data parallel"],
)
def test_finds_the_state_dict(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(STATE), tmp_path / "file.pth.tar")
    state = read_state(tmp_path / "file.pth.tar")
    assert state.keys() == STATE.keys() and all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_reads_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "file.safetensors")
    assert torch.equal(read_state(str(tmp_path / "file.safetensors"))["weight"], STATE["weight"])


def test_a_name_that_starts_with_module_is_no_prefix_unless_all_do(tmp_path: Path) -> None:
    torch.save({"module.weight": STATE["weight"], "bias": STATE["bias"]}, tmp_path / "file.pt")
    assert set(read_state(tmp_path / "file.pt")) == {"module.weight", "bias"}


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code from a weights file ran",))


@pytest.mark.parametrize("extra", [_Evil(), np.float64(0.5)], ids=["code", "numpy scalar"])
def test_files_that_need_arbitrary_code_are_refused(
    tmp_path: Path, extra: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": STATE, "extra": extra}, tmp_path / "file.pt")
    with pytest.raises(SgoolError, match=r"(?s)file.pt holds more than tensors.*refused.*convert it once: python -c"):
        read_state(tmp_path / "file.pt")
    assert "ran" not in capsys.readouterr().out


def test_the_conversion_in_the_message_works(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "extra": np.float64(0.5)}, tmp_path / "IN")
    with pytest.raises(SgoolError) as caught:
        read_state(tmp_path / "IN")
    script = str(caught.value).split('python -c "')[1].split('"')[0]
    script = script.replace("'IN'", repr(str(tmp_path / "IN"))).replace("'OUT'", repr(str(tmp_path / "OUT")))
    exec(script, {})
    assert torch.equal(read_state(tmp_path / "OUT")["weight"], STATE["weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "is a web page, not weights. Download the raw file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a git-lfs pointer"),
        (b"", "file.pt is empty: expected weights, got 0 bytes"),
        (b"PK\x03\x04 cut off", "file.pt is cut short: expected a PyTorch archive with its end, got the first 12"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(SgoolError, match=message):
        read_state(tmp_path / "file.pt")


def test_damaged_safetensors(tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"1234")
    with pytest.raises(SgoolError, match=r"file.safetensors is no safetensors file: expected a header, got b'1234'"):
        read_state(tmp_path / "file.safetensors")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match=r"Expected a weights file at .*nothing.pt, but there is none"):
        read_state(tmp_path / "nothing.pt")


@pytest.mark.parametrize(("content", "words"), [({"epoch": 3, "lr": 0.1}, "but: epoch, lr"), ([1, 2], "list")])
def test_no_state_dict(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(SgoolError, match=f"holds no state dict .*{words}"):
        read_state(tmp_path / "file.pt")


def test_strict_loading_names_what_does_not_fit() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    state = {"weight": torch.zeros(4, 3), "scale": torch.ones(1)}
    with pytest.raises(SgoolError) as caught:
        load_strictly(module, state, "head.pth")
    text = str(caught.value)
    assert "head.pth do not fit Linear: 1 missing: bias; 1 unexpected: scale" in text
    assert "1 of another shape: weight (expected (2, 3), got (4, 3))" in text
    assert torch.equal(module.weight, before)


def test_long_lists_are_cut() -> None:
    with pytest.raises(SgoolError, match=r"20 unexpected: k0, k1, k2, k3, k4, k5 and 14 more"):
        load_strictly(nn.Identity(), {f"k{i}": torch.ones(1) for i in range(20)}, "file")


def test_strict_loading_keeps_the_module_s_type_and_forgives_old_counters() -> None:
    module = nn.BatchNorm2d(2).double()
    state = {name: value.float() + 2 for name, value in module.state_dict().items() if "num" not in name}
    load_strictly(module, state, "file")
    assert module.weight.dtype == torch.float64 and module.weight.tolist() == [3, 3]
    assert module.running_mean is not None and module.running_mean.tolist() == [2, 2]


def test_below_and_first_tensor() -> None:
    state = {"a.b": STATE["bias"], "c": STATE["weight"]}
    assert list(below(state, "a.")) == ["b"]
    assert first_tensor(state, ["x", "c"], "file", "thing") is STATE["weight"]
    with pytest.raises(SgoolError, match=r"file is no thing: expected x or y among its tensors, got a.b, c"):
        first_tensor(state, ["x", "y"], "file", "thing")
