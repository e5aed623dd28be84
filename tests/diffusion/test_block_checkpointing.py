"""Blocks and tiles that are computed again in backward: the same gradients, with fewer activations in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sgool.diffusion import Chain
from sgool.diffusion.activations import activation_bytes
from sgool.errors import SgoolError
from tests.diffusion.families import CASES, prompted, streams
from tests.diffusion.problem import randn
from tests.tiny_families import tiny_family

ONE_OF_EACH = ("sd", "sdxl", "sd3", "flux_dev", "pixart_alpha", "sana", "wan")


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines of the test's own, which it may switch."""
    made = {name: tiny_family(CASES[name].model) for name in ONE_OF_EACH}
    monkeypatch.setattr("tests.diffusion.families.pipeline_of", lambda name, dtype=torch.float32: made[name])


def gradient(chain: Chain, start: Tensor) -> Tensor:
    leaf = start.clone().requires_grad_(True)
    final = chain.denoise(leaf)
    weight = randn(*final.shape, seed=1).float()
    (found,) = torch.autograd.grad((final * weight).sum(), leaf)
    return found


def kept(chain: Chain, start: Tensor) -> int:
    """Bytes that autograd keeps of one network call."""
    with activation_bytes(chain.network.networks) as counted:
        chain.network(start[0].clone().requires_grad_(True), chain.schedule.steps[0])
    return counted.total


@pytest.mark.parametrize("engine", ["direct", "checkpoint"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.usefixtures("pipelines")
def test_gradients_are_the_same_bits_and_less_is_kept(name: str, engine: str) -> None:
    plain = prompted(name, range(2), engine=engine, sampler="ddim", steps=2)
    start = streams(plain, range(2))[:1]
    expected, before = gradient(plain, start), kept(plain, start)
    chain = prompted(name, range(2), engine=engine, sampler="ddim", steps=2, block_checkpointing=True)
    assert not any(network.training for network in chain.network.networks)
    # The same kernels see the same numbers, and gradients are added up in the same order.
    assert torch.equal(gradient(chain, start), expected)
    # Two blocks here; each keeps what enters it. 6 % (sana) to 26 % (sd) seen.
    assert kept(chain, start) < 0.4 * before


@pytest.mark.usefixtures("pipelines")
def test_what_is_counted_contains_what_enters_the_blocks() -> None:
    """They are held by the recomputation itself, so a count that misses them would find next to nothing."""
    chain = prompted("flux_dev", range(1), block_checkpointing=True)
    start = streams(chain, range(1))
    network = chain.network.networks[0]
    entering = []
    for block in (*network.transformer_blocks, *network.single_transformer_blocks):
        block.register_forward_pre_hook(
            lambda module, args: entering.extend(part for part in args if isinstance(part, Tensor))
        )
    found = kept(chain, start)
    different = {part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in entering}
    assert found >= sum(different.values()) > 1000


def test_a_network_that_cannot_is_refused() -> None:
    class Family:
        denoisers = {"unet": nn.Linear(2, 2)}  # noqa: RUF012

    from sgool.models.memory import checkpoint_blocks

    with pytest.raises(SgoolError, match=r"`engine.block_checkpointing`: expected a unet .* got Linear, which cannot"):
        checkpoint_blocks(Family())
