from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from sgool.errors import SgoolError
from sgool.methods import LatentPairModule
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.prompts.batches import PairBatch
from sgool.prompts.seeding import first_latents, pair_generator
from sgool.saliency import SpectralResidual
from sgool.types import PromptSeed, Start
from tests.fits import chain_of

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2, negative_prompt="blue"), PromptSeed("a panda", 3))


@pytest.fixture
def objective(clip64: ClipTower) -> Objective:
    return Objective({"text": TextAlignment(clip64)}, {"text": 1.0}, CropSettings(num=3))


@pytest.fixture
def plain(clip_tower: ClipTower) -> Objective:
    return Objective({"text": TextAlignment(clip_tower)}, {"text": 1.0})


def module(
    models: StableDiffusion, objective: Objective, *, pairs: Any = PAIRS, how: Any = None, **chain: Any
) -> LatentPairModule:
    """With pairs of its own; ``how`` has further arguments of the module."""
    built = chain_of(models, **{"num_inference_steps": 3, **chain})
    return LatentPairModule(built, objective, pairs=pairs, **(how or {}))


def first_step(built: LatentPairModule) -> Tensor:
    """The loss of the first training step, outside a Trainer."""
    return built.training_step(PairBatch(built.pairs), 0)


def gradient(built: LatentPairModule) -> Tensor:
    """Of the first training step."""
    first_step(built).backward()
    assert built.latents.grad is not None
    return built.latents.grad


@pytest.mark.parametrize(("sampler", "streams"), [("ddim", 1), ("edict", 2)])
def test_latents_are_the_only_parameter(
    models: StableDiffusion, plain: Objective, clip_tower: ClipTower, sampler: str, streams: int
) -> None:
    built = module(models, plain, sampler=sampler, how={"judges": {"judge": clip_tower}})
    assert [name for name, _ in built.named_parameters()] == ["latents"]
    # The other states are sums: of the objective, of its judges' scores.
    assert list(built.buffers()) == []
    assert all(value.numel() <= 2 for name, value in built.state_dict().items() if name != "latents")
    assert {name for name, _ in built.named_children()} == {"objective_mean", "objective_initial_mean", "panel"}
    assert built.latents.shape == (streams, 3, 4, 8, 8) and built.latents.dtype == torch.float32
    assert built.latents[0].equal(built.latents[-1])


def test_checkpoint_of_a_fit_holds_latents_and_momentum_alone(
    models: StableDiffusion, plain: Objective, clip_tower: ClipTower, tmp_path: Path
) -> None:
    built = module(models, plain, how={"num_optimization_steps": 2, "judges": {"judge": clip_tower}})
    trainer = L.Trainer(max_epochs=1, limit_train_batches=1, accelerator="cpu", logger=False,
                        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(built)
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    saved = torch.load(tmp_path / "fit.ckpt", weights_only=False)
    # Beside the latents there are sums of scores: no weights of a network.
    assert {name for name, value in saved["state_dict"].items() if value.numel() > 2} == {"latents"}
    assert [list(state) for state in saved["optimizer_states"][0]["state"].values()] == [["momentum_buffer"]]
    batch = saved["pairs"]
    assert batch["update"] == 1 and batch["pairs"] == [pair.pair_id for pair in PAIRS]
    assert batch["latents"].shape == batch["momentum"].shape == (1, 3, 4, 8, 8)
    # Latents and momentum (twice three times 4x8x8 floats) are there twice, beside them the guard's last good latents,
    # two sets of three images as PNG, and Lightning's notes.
    assert (tmp_path / "fit.ckpt").stat().st_size < 80_000


def test_first_latents_are_those_of_diffusers(models: StableDiffusion, plain: Objective) -> None:
    built = module(models, plain)
    for index, pair in enumerate(PAIRS):
        expected = randn_tensor((1, 4, 8, 8), generator=torch.Generator("cpu").manual_seed(pair.seed))
        assert built.latents[0, index].equal(expected[0])
    assert module(models, plain, height=48, width=32).latents.shape == (1, 3, 4, 12, 8)


def test_a_schedulers_own_scale_of_noise_does_not_count(models: StableDiffusion, plain: Objective) -> None:
    """Euler's latents start at a standard deviation of 14.6; those of this chain at 1 whatever the scheduler."""
    euler = EulerDiscreteScheduler.from_config(models.scheduler.config)
    assert float(euler.init_noise_sigma) > 10
    built, usual = module(replace(models, scheduler=euler), plain), module(models, plain)
    assert built.latents.equal(usual.latents)
    torch.testing.assert_close(built.sample(), usual.sample(), atol=1e-6, rtol=0)


def started(*latents: Tensor) -> list[PromptSeed]:
    """The pairs, each from latents of its own."""
    return [replace(pair, start=Start(own)) for pair, own in zip(PAIRS, latents, strict=False)]


def test_given_latents(models: StableDiffusion, plain: Objective) -> None:
    given = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    built = module(models, plain, pairs=started(*given), sampler="edict")
    assert built.latents[0].equal(given) and built.latents[1].equal(given)
    with torch.no_grad():
        built.latents.add_(1)
    assert given.equal(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(9)))  # a copy was changed
    streams = torch.randn(2, 4, 8, 8)
    assert module(models, plain, pairs=started(streams), sampler="edict").latents[:, 0].equal(streams)
    with pytest.raises(SgoolError, match=r"`start.latents` of \S+: expected shape \(4, 8, 8\), got \(4, 8, 7\)"):
        module(models, plain, pairs=started(given[0], given[1, :, :, :7]))
    with pytest.raises(SgoolError, match=r"expected shape \(4, 8, 8\), got \(2, 4, 8, 8\)"):
        module(models, plain, pairs=started(streams))  # DDIM has one stream
    with pytest.raises(SgoolError, match="the same number of streams for all pairs of a batch"):
        module(models, plain, pairs=started(given[0], streams), sampler="belm")


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_each_pair_has_the_gradient_it_has_alone(models64: StableDiffusion, objective: Objective, sampler: str) -> None:
    options: dict[str, Any] = {"sampler": sampler, "engine": "checkpoint"}
    together = module(models64, objective, **options)
    gradients = gradient(together)
    for index, pair in enumerate(PAIRS):
        alone = module(models64, objective, pairs=[pair], **options)
        expected = gradient(alone)
        assert float(expected.abs().max()) > 1e-8
        # Kernels of another batch size sum in another order: float64's 16 digits, less the chain's amplification.
        torch.testing.assert_close(gradients[:, index], expected[:, 0], rtol=1e-8, atol=1e-12)
        assert alone.evaluation is not None and together.evaluation is not None
        torch.testing.assert_close(together.evaluation.loss[index], alone.evaluation.loss[0], rtol=1e-11, atol=0)


def test_what_an_update_saw(models64: StableDiffusion, objective: Objective) -> None:
    built = module(models64, objective, sampler="edict")
    total = first_step(built)
    seen = built.evaluation
    assert seen is not None and seen.update == 0
    torch.testing.assert_close(total.detach(), seen.loss.sum())
    assert seen.images.equal(built.sample()) and seen.latents.equal(built.latents)
    assert seen.images.min() >= 0 and seen.images.max() <= 1
    tensors = [seen.latents, seen.images, seen.loss, seen.selection, seen.output.loss, *seen.output.terms.values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    # Selection: the spherical distance of the whole image, without crops.
    torch.testing.assert_close(seen.selection, objective.bind(PAIRS).evaluate(seen.images))


def test_both_streams_of_edict_count_half_each_with_crops_of_their_own(
    models64: StableDiffusion, objective: Objective
) -> None:
    built = module(models64, objective, sampler="edict")
    first_step(built)
    images = built().images.detach()
    losses = []
    for stream in range(2):
        generators = [pair_generator(pair.seed, f"crops{stream}", 0) for pair in PAIRS]
        losses.append(objective.bind(PAIRS)(images[stream], generators, 0).loss)
    assert built.evaluation is not None
    torch.testing.assert_close(built.evaluation.loss, (losses[0] + losses[1]) / 2, rtol=1e-12, atol=0)


def test_each_stream_keeps_its_own_salient_regions(models: StableDiffusion, clip_tower: ClipTower) -> None:
    """Between two detections the first image's boxes must not become those found in the second image."""
    seen: list[Tensor] = []

    def detect(images: Tensor) -> Tensor:
        seen.append(images)
        return SpectralResidual()(images)

    saliency = SaliencySettings(detect, every_n_steps=2)
    objective = Objective({"text": TextAlignment(clip_tower)}, {"text": 1.0}, CropSettings(num=2), saliency)
    latents = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    built = module(models, objective, sampler="edict", sampler_options={"mixing_coeff": 1.0})
    built.latents.data.copy_(latents)
    with torch.no_grad():
        first = built._evaluate(0)[1].output
        later = built._evaluate(1)[1].output
    assert len(seen) == 2 and not seen[0].equal(seen[1])
    assert first.saliency_map is not None and later.saliency_map is not None
    assert later.regions == first.regions and later.saliency_map.equal(first.saliency_map)


def test_bad_input(models: StableDiffusion, objective: Objective) -> None:
    with pytest.raises(SgoolError, match="`pairs`: expected at least one prompt-seed pair, got none"):
        module(models, objective, pairs=[])
    with pytest.raises(SgoolError, match="num_optimization_steps`: expected 1 or more, got 0"):
        module(models, objective, how={"num_optimization_steps": 0})
    with pytest.raises(SgoolError, match=r"`models\.height`: expected a multiple of 8 pixels"):
        module(models, objective, height=30)


def test_random_numbers_belong_to_pair_purpose_and_update() -> None:
    def draw(*key: Any) -> list[float]:
        return torch.rand(4, generator=pair_generator(*key)).tolist()

    keys = [(1, "crops0", 0), (2, "crops0", 0), (1, "perturb", 0), (1, "crops0", 1)]
    assert draw(*keys[0]) == draw(*keys[0])
    assert len({tuple(draw(*key)) for key in keys}) == 4
    state = torch.get_rng_state()
    first_latents(3, (4, 8, 8))
    assert torch.get_rng_state().equal(state)
