"""Switches that save memory or time: text encoders that wait on the CPU, compiled blocks, networks in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.models.family import tensors_of
from sgool.models.load import load_models
from sgool.models.memory import compile_denoisers, place
from tests.diffusion.families import CASES, prompted, streams
from tests.tiny_families import tiny_family
from tests.tiny_replay import REPLAYED

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
#: "cpu:0" is the CPU too, but tells a move to the device from one to the memory where encoders wait.
DEVICE = torch.device("cpu", 0)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux_dev", "sana", "wan"])
def test_text_encoders_come_to_the_device_for_their_calls_only(name: str) -> None:
    expected = Chain.from_pipeline(tiny_family(name), height=32, width=32).encode_prompts(["a red cat", "trees"])
    pipeline = tiny_family(name)
    encoders = [encoder for part in ENCODERS if (encoder := getattr(pipeline, part, None)) is not None]
    events: list[str] = []
    for encoder in encoders:
        spy_on(encoder, events)
    place(pipeline, DEVICE, offload_text_encoders=True)
    assert events == ["cpu"] * len(encoders)
    events.clear()
    chain = Chain.from_pipeline(pipeline, height=32, width=32)
    for _ in range(2):  # a later batch finds them again
        found = chain.encode_prompts(["a red cat", "trees"])
        for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
            assert torch.equal(one, other)
    assert len(events) >= 3 * 2 * len(encoders)
    assert events == ["cpu:0", "encode", "cpu"] * (len(events) // 3)


def spy_on(encoder: Any, events: list[str]) -> None:
    move, encode = encoder.to, encoder.forward

    def to(device: Any) -> Any:
        events.append(str(device))
        return move(device)

    def forward(*args: Any, **kwargs: Any) -> Any:
        events.append("encode")
        return encode(*args, **kwargs)

    encoder.to, encoder.forward = to, forward


def test_an_encoder_that_fails_goes_back_too() -> None:
    pipeline = tiny_family("sd")
    events: list[str] = []
    spy_on(pipeline.text_encoder, events)
    place(pipeline, DEVICE, offload_text_encoders=True)
    events.clear()
    with pytest.raises(IndexError):
        pipeline.text_encoder(torch.tensor([[10**6]]))
    assert events == ["cpu:0", "encode", "cpu"]


def test_a_folder_is_loaded_with_its_text_encoder_waiting(pipeline_folder: Path) -> None:
    plain = load_models(pipeline_folder, device="cpu").encode_prompts(["a red cat"])
    models = load_models(pipeline_folder, device="cpu", offload_text_encoders=True)
    assert models.text_encoder._forward_pre_hooks
    assert torch.equal(models.encode_prompts(["a red cat"]), plain)


def test_blocks_are_compiled_and_nothing_else() -> None:
    family = Chain.from_pipeline(tiny_family("flux_dev"), height=32, width=32).family
    compile_denoisers(family, "blocks")
    network = family.denoisers["transformer"]
    compiled = [name for name, module in network.named_modules() if module._compiled_call_impl is not None]
    assert compiled == ["transformer_blocks.0", "single_transformer_blocks.0"]
    compile_denoisers(family, False)
    assert network._compiled_call_impl is None
    compile_denoisers(family, True)
    assert network._compiled_call_impl is not None


def test_blocks_of_a_network_that_names_none_are_refused() -> None:
    class Family:
        denoisers = {"transformer": nn.Linear(1, 1)}  # noqa: RUF012

    with pytest.raises(SgoolError, match=r"`models.compile`: blocks needs .* the transformer of this model, Linear"):
        compile_denoisers(Family(), "blocks")


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux_dev", "pixart_alpha", "sana", "sana_sprint", "wan"])
def test_a_network_in_bfloat16_takes_latents_in_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = tiny_family(CASES[name].model)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.to(dtype)
        monkeypatch.setattr("tests.diffusion.families.pipeline_of", lambda name, dtype=None, made=pipeline: made)
        chain = prompted(name, range(1))
        assert (chain.dtype, chain.latents_dtype) == (dtype, torch.float32)
        leaf = streams(chain, range(1)).requires_grad_(True)
        final = chain.denoise(leaf)
        (gradient,) = torch.autograd.grad(final[0].square().mean(), leaf)
        assert final.dtype == gradient.dtype == torch.float32
        gradients.append(gradient.flatten())
    # bfloat16 has three digits; over these few steps the direction is kept.
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert cosine > 0.98, float(cosine)


@pytest.mark.parametrize("name", REPLAYED)
def test_a_pipelines_own_call_works_on_the_device_while_its_text_encoder_waits(name: str) -> None:
    """A pipeline asks its parts where it works, in an order that differs between releases; "meta" stands for a card."""
    pipeline = tiny_family(name, builders=REPLAYED)
    place(pipeline, torch.device("meta"), offload_text_encoders=True)
    assert pipeline.text_encoder.device.type == "cpu"
    assert pipeline._execution_device.type == "meta"
