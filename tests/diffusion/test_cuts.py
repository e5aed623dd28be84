"""The guard that finds gradients cut inside a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from sgool.diffusion import Chain
from sgool.errors import SgoolError
from tests.diffusion.families import CASES, prompted, streams
from tests.tiny_families import tiny_family

ONE_OF_EACH = ("sd", "sdxl", "sdxl_lcm", "sd3", "flux_dev", "pixart_alpha", "sana", "sana_sprint", "wan")


def chain_of(monkeypatch: pytest.MonkeyPatch, name: str, pipeline: Any = None, **options: Any) -> Chain:
    """A chain over a pipeline of the test's own, which it may break."""
    pipeline = pipeline or tiny_family(CASES[name].model)
    monkeypatch.setattr("tests.diffusion.families.pipeline_of", lambda name, dtype=torch.float32: pipeline)
    return prompted(name, range(1), sampler="native" if "sprint" in name else "ddim", steps=2, **options)


def denoise(chain: Chain) -> Tensor:
    return chain.denoise(streams(chain, range(1)).requires_grad_(True))


@pytest.mark.parametrize("block_checkpointing", [False, True])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_families_as_they_are_pass_and_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, name: str, block_checkpointing: bool
) -> None:
    chain = chain_of(monkeypatch, name, block_checkpointing=block_checkpointing)
    assert denoise(chain).requires_grad
    assert chain.calls == chain.sampling_calls == 2
    hooks = [module for network in chain.network.networks for module in network.modules() if module._forward_hooks]
    assert hooks == []


def detached(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: call(*args, **kwargs).detach()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_attention_kernel_without_backward_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The output of the whole network still has a gradient: everything but attention."""
    chain = chain_of(monkeypatch, name)
    real = torch.nn.functional.scaled_dot_product_attention
    with (
        mock.patch("torch.nn.functional.scaled_dot_product_attention", detached(real)),
        pytest.raises(SgoolError, match=r"the gradient is cut inside the network, in \S*attn") as caught,
    ):
        denoise(chain)
    assert "an attention kernel without backward" in str(caught.value)


def test_a_module_that_detaches_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_family("flux_dev")
    projection = pipeline.transformer.transformer_blocks[0].attn.to_v
    monkeypatch.setattr(projection, "forward", detached(projection.forward))
    chain = chain_of(monkeypatch, "flux_dev", pipeline)
    with pytest.raises(SgoolError, match=r"in transformer_blocks\.0\.attn\.to_v: the output there"):
        denoise(chain)


def test_a_module_that_is_given_a_constant_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module's output lost a gradient that its input had: the cut is between two modules."""

    class Branch(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = x + self.inner(x.detach())
            return made

    pipeline = tiny_family("flux_dev")
    block = pipeline.transformer.transformer_blocks[0]
    block.norm2 = nn.Sequential(block.norm2, Branch(nn.Linear(32, 32).requires_grad_(False)))
    chain = chain_of(monkeypatch, "flux_dev", pipeline)
    with pytest.raises(SgoolError, match=r"in transformer_blocks\.0\.norm2\.1\.inner: "):
        denoise(chain)


def test_it_looks_once_for_all_prompts_and_only_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = chain_of(monkeypatch, "sd")
    network, seen = chain.network.networks[0], []
    network.register_forward_pre_hook(lambda module, args: seen.append(torch.is_grad_enabled()))
    with torch.no_grad():
        chain.denoise(streams(chain, range(1)))
    assert len(seen) == 2
    denoise(chain)
    assert len(seen) == 2 + 2 + 2  # two of the guard: with gradients, and without
    denoise(chain.with_prompts(["another"]))
    assert len(seen) == 2 + 2 + 2 + 2


def test_a_network_that_gives_nan_is_not_taken_for_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_family("sd")
    with torch.no_grad():
        pipeline.unet.time_embedding.linear_1.bias.fill_(torch.nan)
    assert denoise(chain_of(monkeypatch, "sd", pipeline)).isnan().all()


def test_a_compiled_network_is_looked_at_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_family("sd")
    projection = pipeline.unet.mid_block.attentions[0].proj_in
    monkeypatch.setattr(projection, "forward", detached(projection.forward))
    pipeline.unet.compile(backend="eager")
    compiled = pipeline.unet._compiled_call_impl
    with pytest.raises(SgoolError, match=r"in mid_block\.attentions\.0\.proj_in: "):
        denoise(chain_of(monkeypatch, "sd", pipeline))
    assert pipeline.unet._compiled_call_impl is compiled
