"""Networks that take turns on the device: when they come and go, and that no bit of a result changes.

A CPU has no second memory, so float64 stands for the device here and float32 for the memory where networks wait. A
network that is called, or has its backward pass, while it waits fails by its dtype as it would by its device, and
weights that were made in float32 go there and back without a change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from sgool.cli import app
from sgool.diffusion import Chain, build_engine
from sgool.errors import ConfigError
from sgool.models.load import load_models
from sgool.models.memory import decode_in_tiles, place
from sgool.models.offload import Turns, working_device
from tests.diffusion.families import PROMPTS
from tests.tiny_families import tiny_family

DEVICE, WAITING = torch.float64, torch.float32


class Spy(Turns):
    """Keeps which network came, in order."""

    def __init__(self, device: Any = DEVICE, waiting: Any = WAITING) -> None:
        super().__init__(device, waiting)
        self.names: dict[int, str] = {}
        self.events: list[str] = []

    def fetch(self, network: nn.Module) -> None:
        before = self._there
        super().fetch(network)
        if before is not network:
            self.events.append(self.names[id(network)])


def test_a_network_comes_for_a_call_and_for_its_backward_pass() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 2, 3), nn.Linear(4, 4)
    for network in (first, second):
        network.requires_grad_(False)
    leaf = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        kept = [weight.double() for network in (first, second) for weight in network.parameters()]
    expected = torch.nn.functional.conv2d(leaf, kept[0], kept[1]) @ kept[2].T + kept[3]
    (wanted,) = torch.autograd.grad(expected.square().sum(), leaf)
    turns = Spy()
    for name, network in (("first", first), ("second", second)):
        turns.names[id(network)] = name
        turns.add(network)
        assert next(network.parameters()).dtype == WAITING
    output = second(first(leaf))
    assert (next(first.parameters()).dtype, next(second.parameters()).dtype) == (WAITING, DEVICE)
    # Another call in between sends the second away before its backward pass.
    with torch.no_grad():
        first(leaf)
    (found,) = torch.autograd.grad(output.square().sum(), leaf)
    assert torch.equal(output, expected) and torch.equal(found, wanted)
    assert turns.events == ["first", "second", "first", "second", "first"]
    assert (next(first.parameters()).dtype, next(second.parameters()).dtype) == (DEVICE, WAITING)
    turns.clear()
    assert next(first.parameters()).dtype == WAITING


def test_a_network_for_which_there_is_no_memory_goes_back_whole() -> None:
    network, turns = nn.Linear(2, 2), Turns(DEVICE, WAITING)
    turns.add(network)
    move, failing = network.to, [True]

    def to(where: Any) -> Any:
        if where == DEVICE and failing[0]:
            network.weight.data = network.weight.data.double()  # a part of it had come
            raise torch.OutOfMemoryError("no memory")
        return move(where)

    network.to = to  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        network(torch.zeros(1, 2, dtype=DEVICE))
    assert network.weight.dtype == WAITING
    failing[0] = False
    assert network(torch.zeros(1, 2, dtype=DEVICE)).dtype == DEVICE


def test_weights_that_moved_in_inference_mode_serve_for_gradients() -> None:
    network, turns = nn.Linear(2, 2).requires_grad_(False), Turns(DEVICE, WAITING)
    turns.add(network)
    with torch.inference_mode():
        network(torch.zeros(1, 2, dtype=DEVICE))
    leaf = torch.ones(1, 2, dtype=DEVICE, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(leaf).sum(), leaf)
    assert torch.equal(gradient, network.weight.sum(0, keepdim=True))


CASES: dict[str, dict[str, Any]] = {
    "sd": {"engine": build_engine("checkpoint")},
    "sd reversible": {"engine": build_engine("reversible"), "sampler": "edict"},
    "sd last steps": {"engine": build_engine("checkpoint", gradient_steps=1)},
    "sd split": {"split_guidance": True},
    # Its activations hold weights on the device, so that it saves little; the numbers are right all the same.
    "sd direct": {"engine": build_engine("direct")},
    "sdxl blocks": {"block_checkpointing": True},
    "sdxl tiles": {"tiles": 16},
    "sd3 native": {"sampler": "native"},
    "flux_dev native": {"sampler": "native", "block_checkpointing": True},
}


@pytest.fixture
def always_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks that wait say float64 too: on a device the dtype of their weights does not change."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

    for kind in (AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel):
        monkeypatch.setattr(kind, "dtype", property(lambda self: DEVICE))
    return


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("always_float64")
def test_no_bit_of_an_update_changes(case: str) -> None:
    expected = update(case, None)
    turns = Spy()
    found = update(case, turns)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    # The network, the decoder, again the decoder for backward (which is still there), and the network, twice.
    assert turns.events == ["network", "vae", "network", "vae", "network"]


def update(case: str, turns: Spy | None) -> list[Tensor]:
    """Images and gradients of two updates of two pairs."""
    options = dict(CASES[case])
    pipeline = tiny_family(case.split()[0], dtype=DEVICE)
    if tiles := options.pop("tiles", None):
        decode_in_tiles(pipeline.vae, tiles)
    chain = Chain.from_pipeline(pipeline, num_inference_steps=2, guidance_scale=3, height=32, width=32, **options)
    (network,) = chain.family.denoisers.values()
    for name, part in {} if turns is None else {"network": network, "vae": pipeline.vae}.items():
        turns.names[id(part)] = name
        turns.add(part)
    chain = chain.with_prompts(PROMPTS[:2], ["", "a blue house"] if chain.is_guided else None)
    chain._cuts.done = True
    made: list[Tensor] = []
    generator = torch.Generator().manual_seed(1)
    shape = (chain.num_streams, 2, *chain.latent_shape())
    leaf = torch.randn(shape, generator=generator, dtype=DEVICE).requires_grad_(True)
    for _ in range(2):
        images = chain(leaf).images
        made += [images.detach(), *torch.autograd.grad(images.square().mean(), leaf)]
    return made


@pytest.mark.usefixtures("always_float64")
def test_a_pipelines_own_call_takes_turns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgool.models.replay._dtype_of", lambda network: DEVICE)
    made = []
    for turns in (None, Spy()):
        pipeline = tiny_family("sd", dtype=DEVICE)
        options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
        chain = Chain.from_pipeline(pipeline, family="replay", sampler="native", **options).with_prompts(PROMPTS[:2])
        for name in () if turns is None else ("unet", "vae"):
            part = getattr(pipeline, name)
            turns.names[id(part)] = name  # type: ignore[union-attr]
            turns.add(part)  # type: ignore[union-attr]
        leaf = torch.randn(1, 2, *chain.latent_shape(), generator=torch.Generator().manual_seed(1), dtype=DEVICE)
        images = chain(leaf.requires_grad_(True)).images
        made.append((images.detach(), *torch.autograd.grad(images.square().mean(), leaf)))
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))
    # One pair after the other, and backward from the last.
    assert turns is not None
    assert turns.events == ["unet", "vae", "unet", "vae", "unet", "vae", "unet"]


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux_dev", "pixart_alpha", "sana", "sana_sprint", "wan"])
def test_every_network_of_a_pipeline_waits_and_encoders_send_the_others_away(name: str) -> None:
    pipeline = tiny_family(name)
    events: list[str] = []
    device = torch.device("cpu", 0)  # the CPU too, but it tells a move to the device from one to where networks wait
    parts = {part: own for part, own in pipeline.components.items() if isinstance(own, nn.Module)}
    for part, own in parts.items():
        spy_on(part, own, events)
    place(pipeline, device, offload="model")
    assert sorted(events) == sorted(f"{part} cpu" for part in parts)
    chain = Chain.from_pipeline(pipeline, sampler="native", num_inference_steps=2, height=32, width=32)
    here = torch.device("cpu")
    assert chain.device == here and all(working_device(own) == here for own in parts.values())
    (network,) = chain.family.denoisers
    for _ in range(2):
        told = chain.with_prompts(["a red cat"], [""] if chain.is_guided else None)
        noises = torch.randn(1 + len(told.noise_draws), 1, *told.latent_shape())
        events.clear()
        told(noises)
    # From one batch to the next: the decoder goes before the first encoder comes.
    assert events == ["vae cpu", f"{network} cpu:0", f"{network} cpu", "vae cpu:0"][-len(events) :]
    events.clear()
    chain.with_prompts(["trees"], [""] if chain.is_guided else None)
    assert events[:2] == ["vae cpu", "text_encoder cpu:0"]
    there = {part for part in parts if ([""] + [e for e in events if e.startswith(f"{part} ")])[-1].endswith(":0")}
    assert not there


def spy_on(part: str, network: Any, events: list[str]) -> None:
    move = network.to

    def to(device: Any) -> Any:
        events.append(f"{part} {device}")
        return move(device)

    network.to = to


def test_a_folder_gives_the_same_bits(pipeline_folder: Path) -> None:
    found = []
    for offload in (None, "model"):
        models = load_models(pipeline_folder, device="cpu", offload=offload)
        chain = Chain(models, num_inference_steps=2, guidance_scale=3).with_prompts(["a red cat"], [""])
        leaf = torch.randn(1, 1, *chain.latent_shape(), generator=torch.Generator().manual_seed(0), requires_grad=True)
        images = chain(leaf).images
        found.append((images, *torch.autograd.grad(images.sum(), leaf), chain.encode_images(images[0])))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_run_gives_the_same_latents_and_may_be_called_again_without_the_key(tmp_path: Path) -> None:
    common = ["fit", "experiment=demo", "data.limit=2", "methods=[sgool]", "trainer.threads=1", "logger=none"]
    common += ["optimization.num_optimization_steps=2", "method.sgool.optimization.candidates=2"]
    common += ["trainer.pairs_per_fit=1", "models.device=cpu", "budget.calls=null"]
    folders = {}
    for name, more in (("plain", []), ("turns", ["models.offload=model"])):
        folders[name] = tmp_path / name
        result = CliRunner().invoke(app, [*common, *more, f"run_dir='{tmp_path / name}'"])
        assert result.exit_code == 0, result.output
    plain = {file.relative_to(folders["plain"]): file for file in folders["plain"].rglob("latents.safetensors")}
    assert len(plain) == 2
    for relative, file in plain.items():
        assert file.read_bytes() == (folders["turns"] / relative).read_bytes()
    # The key changes no result, so a run may go on without it.
    again = CliRunner().invoke(app, [*common, f"run_dir='{folders['turns']}'"])
    assert again.exit_code == 0, again.output


REFUSED = {
    "models.compile=true": r"`models\.compile`: expected false with models\.offload=model, .* got true",
    "models.compile=blocks": r"`models\.compile`: expected false with models\.offload=model, .* got blocks",
    "engine=direct": r"`engine`: expected checkpoint \(with memory_mib 0\) or reversible .* got direct: activations",
    "engine.memory_mib=64": r"`engine`: expected checkpoint .* got engine\.memory_mib=64: activations that are kept",
    "models.offload=sequential": r"`models\.offload`: expected model",
}


@pytest.mark.parametrize("override", REFUSED)
def test_settings_that_do_not_go_with_it_are_refused(override: str) -> None:
    from sgool.run.config import load_config

    with pytest.raises(ConfigError, match=REFUSED[override]):
        load_config(["models.offload=model", override, "run_dir=unused"])


def test_loading_refuses_them_too(pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"`models\.offload`: expected model or null, got 'sequential'"):
        load_models(pipeline_folder, offload="sequential")
    with pytest.raises(ConfigError, match=r"`models\.compile`: expected false with models\.offload=model"):
        load_models(pipeline_folder, offload="model", compile="blocks")
    how = {"quantization": {"backend": "torchao", "weights": "int8"}}
    with pytest.raises(ConfigError, match=r"`models\.quantization`: expected null with models\.offload=model"):
        load_models(pipeline_folder, offload="model", loading=how)
