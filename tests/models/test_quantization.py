"""Quantised weights give the images and gradients of the weights that they stand for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from sgool.config.loading import loading_problems
from sgool.errors import SgoolError
from sgool.models.load import load_models
from sgool.models.quiet import without_notes
from sgool.models.schedule import Step
from tests.tiny_families import tiny_family

STEP = Step(0, 500.0, 0.5, 0.5, 0.6, 0.4)
REASON = "pip install 'sgool[quantization]'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX whose layers are wide enough for blocks of 32 weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=32,
            num_attention_heads=4, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(8, 12, 12),
            guidance_embeds=True,
        )  # fmt: skip
    pipeline = tiny_family("flux_dev")
    pipeline.transformer = transformer
    path = tmp_path_factory.mktemp("flux")
    pipeline.save_pretrained(path)
    return path


def predicted(models: Any) -> tuple[Tensor, Tensor]:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(models.dtype).requires_grad_()
    conditioning, _ = models.encode(["a red cat"], None, 3.5, 16, 16)
    output = models.predict(latents, STEP, conditioning)
    (gradient,) = torch.autograd.grad(output.float().square().sum(), latents)
    return output.detach(), gradient


def assert_stands_for(quantised: Any, plain: Any, weights: dict[str, Tensor]) -> None:
    """The quantised network's output and gradient are those of whole weights, to float32's rounding."""
    own = predicted(plain)
    state = plain.network.state_dict()
    assert weights
    plain.network.load_state_dict({**state, **weights})
    for found, expected, before in zip(predicted(quantised), predicted(plain), own, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert not torch.equal(found, before)  # something was rounded


@pytest.mark.parametrize("weights", ["int8", "float8"])
def test_torchaos_weights_let_gradients_through(weights: str, folder: Path) -> None:
    pytest.importorskip("torchao", reason=REASON)
    how = {"quantization": {"backend": "torchao", "weights": weights}}
    quantised = load_models(folder, device="cpu", loading=how)
    assert quantised.dtype == torch.float32
    found = {name: weight for name, weight in quantised.network.named_parameters() if hasattr(weight, "dequantize")}
    rounded = {name: weight.dequantize() for name, weight in found.items() if type(weight) is not torch.nn.Parameter}
    assert_stands_for(quantised, load_models(folder, device="cpu"), rounded)


def test_a_gguf_file_lets_gradients_through(folder: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason=REASON)
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    plain, kind = load_models(folder, device="cpu"), gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(str(tmp_path / "flux.gguf"), "flux")
    for name, tensor in plain.network.state_dict().items():
        values = tensor.numpy()
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            blocks = gguf.quants.quantize(values, kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = {"components": {"transformer": str(tmp_path / "flux.gguf")}}
    quantised = load_models(folder, device="cpu", loading=parts)
    found = {name: weight for name, weight in quantised.network.named_parameters() if hasattr(weight, "quant_type")}
    # diffusers multiplies by the blocks' scales in float16.
    assert_stands_for(quantised, plain, {name: dequantize_gguf_tensor(w).float() for name, w in found.items()})


def test_what_torch_tells_torchaos_authors_is_not_shown(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers imports torchao, where it is installed, while a pipeline loads; users can mend nothing in it."""
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)  # older releases of torch keep it to themselves
    theirs = logging.getLogger("torch.utils._pytree")
    before = theirs.level
    with caplog.at_level(logging.WARNING), without_notes():
        theirs.warning("register_constant() on Enum subclasses is deprecated")
        theirs.error("an error")
    assert "an error" in caplog.text and "deprecated" not in caplog.text
    assert theirs.level == before


def test_what_cannot_be_made_here_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sgool.config.loading.find_spec", lambda name: object())
    with pytest.raises(SgoolError, match=r"bitsandbytes quantises on a GPU alone, and torch sees none; use "):
        load_models(folder, loading={"quantization": {"backend": "bitsandbytes", "weights": "nf4"}})
    how = {"backend": "torchao", "weights": "int8", "parts": ["unet"]}
    with pytest.raises(SgoolError, match=r"`models\.quantization\.parts`: the pipeline has no unet"):
        load_models(folder, loading={"quantization": how})


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgool.config.loading.find_spec", lambda name: None)
    for backend, weights in (("torchao", "int8"), ("bitsandbytes", "nf4")):
        (problem,) = loading_problems({"quantization": {"backend": backend, "weights": weights}})
        assert problem == (
            f"`models.quantization` needs the package {backend}, which is not installed: pip install "
            "'sgool[quantization]'"
        )
    (problem,) = loading_problems({"components": {"transformer": "flux.gguf"}})
    assert "a GGUF file needs the package gguf, which is not installed: pip install 'sgool[quantization]'" in problem
    both = {"quantization": {"backend": "torchao", "weights": "int8"}, "loras": ["a/b"]}
    assert "`models.loras`: expected none with `models.quantization`" in next(loading_problems(both))
    (problem,) = loading_problems({"quantization": {"backend": "torchao", "weights": "nf4"}})
    assert "`models.quantization.weights`: expected int8, int4 or float8, got 'nf4'" in problem
    (problem,) = loading_problems({"quantization": {"backend": "bitsandbytes", "weights": "int8"}})
    assert "`models.quantization.weights`: expected nf4 or fp4, got 'int8'" in problem
