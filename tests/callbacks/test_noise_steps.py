"""Whitening, the penalty of the power spectrum, Adam and learning rates: each against a plain loop in float64."""

from __future__ import annotations

import cmath
import csv
import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from sgool.callbacks import EarlyStop, ScheduleLearningRate, default_callbacks, power_spectrum, whitened
from sgool.callbacks.whiten import fitting_block
from sgool.errors import SgoolError
from sgool.methods import LatentPairModule
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, TextAlignment
from sgool.prompts.seeding import first_latents, pair_generator
from sgool.types import PromptSeed, Start
from tests.callbacks.test_callback_options import BARE, ONE_BY_ONE, Scripted, random_latents
from tests.callbacks.test_callbacks import OnceBad
from tests.fits import chain_of, optimisation, optimise, run, trajectory_of

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2))
CROPS = CropSettings(num=2)
STEPS = 2
MEAN = math.sqrt(math.pi) / 2


@pytest.fixture
def objective(clip64: ClipTower) -> Objective:
    return Objective({"text": TextAlignment(clip64)}, {"text": 1.0}, CROPS)


def coefficients(numbers: np.ndarray) -> list[complex]:
    """Equation for F(x) of Hwang and Sung 2026: the Fourier sums one by one, the two real ones made one."""
    count = len(numbers)
    places = np.arange(count)
    sums = [complex((numbers * np.exp(-2j * math.pi * k * places / count)).sum()) / math.sqrt(count)
            for k in range(count // 2 + 1)]  # fmt: skip
    return [(sums[0].real + 1j * sums[-1].real) / math.sqrt(2), *sums[1:-1]]


def plain_whitened(numbers: np.ndarray, block: int) -> np.ndarray:
    """The same numbers block by block: the threshold by bisection, the way back as a sum of waves."""
    found = coefficients(numbers)
    white: list[complex] = []
    for start in range(0, len(found), block):
        part = found[start : start + block]
        low, high = -1e6 * max(map(abs, part)), max(map(abs, part))
        for _ in range(300):
            middle = (low + high) / 2
            above = [max(abs(y) - middle, 0) for y in part]
            enough = sum(above) ** 2 > block * math.pi / 4 * sum(a * a for a in above)
            low, high = (middle, high) if enough else (low, middle)
        above = [max(abs(y) - low, 0) for y in part]
        white += [cmath.rect(MEAN * block * a / sum(above), cmath.phase(y)) for a, y in zip(above, part, strict=True)]
    count, places = len(numbers), np.arange(len(numbers))
    whole = math.sqrt(2) * white[0].real + math.sqrt(2) * white[0].imag * (-1.0) ** places
    for k in range(1, count // 2):
        whole = whole + 2 * (white[k] * np.exp(2j * math.pi * k * places / count)).real
    return whole / math.sqrt(count)


@pytest.mark.parametrize("block", [2, 5, 10, 20])
def test_whitened_is_the_projection_of_the_formula(block: int) -> None:
    latents = random_latents(2, 3, 2, 4, 5)
    latents[:, 1] = latents[:, 1].cumsum(dim=-1)  # smooth
    latents[:, 2] = 1e-3 * latents[:, 2] ** 5  # a few large ones
    got = whitened(latents, block)
    for stream in range(2):
        for pair in range(3):
            numbers = latents[stream, pair].flatten().numpy()
            # Bisection ends where float64 does; its threshold is multiplied by at most 1e3.
            np.testing.assert_allclose(got[stream, pair].flatten().numpy(), plain_whitened(numbers, block), atol=1e-11)


def test_whitened_is_that_of_the_authors_formula() -> None:
    """The numbers are those of a public port of wgnc.py of github.com/KAIST-Visual-AI-Group/GPER, in float64."""
    i = torch.arange(256, dtype=torch.float64)
    waves = torch.sin(2 * math.pi * i / 16) + 0.3 * torch.cos(2 * math.pi * 37 * i / 256)
    numbers = waves + 0.01 * ((i * i * 7) % 31 - 15)
    white = whitened(numbers.view(1, 1, 4, 8, 8), 16).flatten()
    assert white[:3].tolist() == pytest.approx(
        [-2.9340853047408992, -0.6036969350847172, 1.2108617657343927], rel=1e-12
    )
    assert float((white * torch.cos(i)).sum()) == pytest.approx(-1.5565624680107977, rel=1e-11)
    assert float((white - numbers).norm()) == pytest.approx(15.81115130841374, rel=1e-12)


def test_whitened_has_noises_statistics_and_is_the_nearest_that_has() -> None:
    latents = random_latents(1, 40, 4, 8, 8)
    smooth = latents.cumsum(dim=-1)
    white, others = whitened(smooth, 16), whitened(latents, 16)
    for numbers in white[0].flatten(1).numpy()[:3]:
        sizes = np.abs(coefficients(numbers)).reshape(-1, 16)
        np.testing.assert_allclose(sizes.mean(axis=1), MEAN, rtol=1e-12)
        np.testing.assert_allclose((sizes**2).mean(axis=1), 1, rtol=1e-12)
    torch.testing.assert_close(white.square().mean(dim=(0, 2, 3, 4)), torch.ones(40).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(whitened(white, 16), white, rtol=0, atol=1e-12)
    # The others have the statistics too, and so have blends of both; none is nearer.
    own = (smooth - white).flatten(2).norm(dim=2)
    assert bool((own < (smooth - others).flatten(2).norm(dim=2)).all())
    blends = whitened(white + 0.05 * others, 16)
    assert bool((own < (smooth - blends).flatten(2).norm(dim=2)).all())
    # Noise is near to what it is projected to: the paper found a cosine of at least 0.988 in more dimensions.
    assert float(torch.cosine_similarity(latents.flatten(2), others.flatten(2), dim=2).min()) > 0.97


@pytest.mark.parametrize(
    ("count", "block", "fitting"),
    [(1024, None, 16), (1024, 8, 8), (4 * 18 * 18, None, 12), (4 * 65 * 65, None, 13), (2 * 17, 17, 17)],
)
def test_a_block_that_fits_is_found(count: int, block: int | None, fitting: int) -> None:
    assert fitting_block(count, block) == fitting
    white = whitened(torch.randn(1, 1, 1, 1, count, generator=torch.Generator().manual_seed(0)).double(), fitting)
    assert float(white.square().mean()) == pytest.approx(1, abs=1e-12)  # float64


@pytest.mark.parametrize(
    ("count", "block", "words"), [(4 * 18 * 18, 16, "possible are 2, 3"), (34, None, "none fits|17")]
)
def test_a_block_that_does_not_fit_is_refused(count: int, block: int | None, words: str) -> None:
    with pytest.raises(SgoolError, match=rf"`optimization\.whiten\.block`: expected a divisor of .*({words})"):
        fitting_block(count, block)


def test_blocks_without_a_direction_and_with_equal_magnitudes() -> None:
    nothing = torch.zeros(1, 1, 4, 8, 8)
    assert whitened(nothing, 16).equal(nothing)
    single = nothing.clone()
    single[0, 0, 0, 0, 0] = 3.0  # all magnitudes are equal
    sizes = np.abs(coefficients(whitened(single.double(), 16).flatten().numpy())).reshape(-1, 16)
    np.testing.assert_allclose(sizes.mean(axis=1), MEAN, rtol=1e-8)
    np.testing.assert_allclose((sizes**2).mean(axis=1), 1, rtol=1e-8)
    assert whitened(2 * single, 16).equal(whitened(single, 16))  # the same choice each time
    half = nothing.double()
    half[0, 0, :] = random_latents(4, 8, 8).abs() + 1
    sums = torch.fft.rfft(half.flatten())
    sums[1:16] = 0  # a block with the mean and the alternating sum alone
    mended = whitened(torch.fft.irfft(sums).view(half.shape), 16)
    assert bool(mended.isfinite().all()) and float(mended.square().mean()) == pytest.approx(1, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_and_streams_are_whitened_alone(dtype: torch.dtype) -> None:
    latents = random_latents(2, 3, 4, 8, 8).to(dtype)
    together = whitened(latents, 16)
    assert together.dtype == dtype
    for stream in range(2):
        for pair in range(3):
            alone = whitened(latents[stream : stream + 1, pair : pair + 1], 16)
            assert together[stream, pair].equal(alone[0, 0])
    latents[0, 0] = torch.nan
    assert whitened(latents, 16)[:, 1:].equal(together[:, 1:]) and whitened(latents, 16)[1, 0].equal(together[1, 0])


class Recorder(L.Callback):
    """Raw gradients of each update, and latents after it; the rate of the step."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.latents: list[Tensor] = []
        self.rates: list[float] = []
        self.states: list[dict[str, Tensor]] = []

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.gradients.append(pl_module.latents.grad.detach().clone())

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.latents.append(pl_module.latents.detach().clone())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        state = trainer.optimizers[0].state[pl_module.latents]
        self.states.append({name: value.clone() for name, value in state.items() if value is not None})


def recorded(models: StableDiffusion, objective: Objective, sampler: str = "ddim", **options: Any) -> Recorder:
    chain, recorder = chain_of(models, sampler, num_inference_steps=STEPS), Recorder()
    module, callbacks = optimisation(chain, objective, **options)
    run(module, PAIRS, [*callbacks, recorder])
    return recorder


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
@pytest.mark.parametrize(
    ("gradient", "latents", "block"), [(True, False, 16), (False, True, 16), (True, True, 16), (True, True, None)]
)
def test_updates_with_whitening(
    models64: StableDiffusion, objective: Objective, sampler: str, gradient: bool, latents: bool, block: int | None
) -> None:
    """From the raw gradients alone: tie, whiten, scale, clip, momentum, noise, tie, whiten, norm of the first draw."""
    found = recorded(
        models64, objective, sampler, num_optimization_steps=3, momentum=0.9, gradient_rms=0.02, grad_clip_value=0.05,
        perturb_std=1e-3, whiten={"gradient": gradient, "latents": latents, "block": block},
    )  # fmt: skip
    for index, pair in enumerate(PAIRS):
        start = first_latents(pair.seed, (4, 8, 8)).double().flatten().numpy()
        now, velocity = start, np.zeros_like(start)
        for update in range(3):
            step = found.gradients[update][:, index].mean(dim=0).flatten().numpy()
            step = plain_whitened(step, 16) if gradient else step
            step = (0.02 * step / math.sqrt((step**2).mean())).clip(-0.05, 0.05)
            velocity = 0.9 * velocity + step
            noise = torch.randn((4, 8, 8), generator=pair_generator(pair.seed, "perturb", update)).double()
            now = now - velocity + 1e-3 * noise.flatten().numpy()
            now = plain_whitened(now, 16) if latents else now
            now = now * np.linalg.norm(start) / np.linalg.norm(now)
            for stream in found.latents[update][:, index]:
                # Latents of size 1 and two ways to the threshold.
                np.testing.assert_allclose(stream.flatten().numpy(), now, atol=1e-10)


def plain_adam(gradients: list[np.ndarray], start: np.ndarray, rates: list[float], decoupled: bool) -> list[np.ndarray]:
    """Kingma and Ba 2015, algorithm 1, and Loshchilov and Hutter 2019, algorithm 2; decays 0.8 and 0.95."""
    now, first, second, visited = start, 0.0 * start, 0.0 * start, []
    for number, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = gradient if decoupled else gradient + 0.1 * now
        first, second = 0.8 * first + 0.2 * g, 0.95 * second + 0.05 * g**2
        step = (first / (1 - 0.8**number)) / (np.sqrt(second / (1 - 0.95**number)) + 1e-6)
        now = now - rate * step - (rate * 0.1 * now if decoupled else 0)
        visited.append(now)
    return visited


ADAM: dict[str, Any] = {"betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.1}


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_adam_and_schedules(models64: StableDiffusion, objective: Objective, optimizer: str, schedule: str) -> None:
    found = recorded(
        models64, objective, num_optimization_steps=5, optimizer=optimizer, adam=ADAM, lr=0.05, lr_schedule=schedule,
        warmup_updates=2, **BARE,
    )  # fmt: skip
    later = {
        "constant": [1.0, 1.0, 1.0],
        "cosine": [1.0, (1 + math.cos(math.pi / 3)) / 2, (1 + math.cos(2 * math.pi / 3)) / 2],
        "linear": [1.0, 2 / 3, 1 / 3],
    }
    rates = [0.05 * factor for factor in (1 / 3, 2 / 3, *later[schedule])]
    assert found.rates == pytest.approx(rates, rel=1e-12)
    for index, pair in enumerate(PAIRS):
        gradients = [gradient[0, index].numpy() for gradient in found.gradients]
        start = first_latents(pair.seed, (4, 8, 8)).double().numpy()
        for got, expected in zip(found.latents, plain_adam(gradients, start, rates, optimizer == "adamw"), strict=True):
            np.testing.assert_allclose(got[0, index].numpy(), expected, atol=1e-12)
    assert float((found.latents[-1] - found.latents[0]).abs().max()) > 0.01


def test_a_schedule_begins_anew_with_each_batch_and_is_logged(
    models: StableDiffusion, clip_tower: ClipTower, tmp_path: Path
) -> None:
    objective = Objective({"text": TextAlignment(clip_tower)}, {"text": 1.0}, CROPS)
    chain = chain_of(models, num_inference_steps=STEPS)
    module, callbacks = optimisation(
        chain, objective, num_optimization_steps=3, lr=4.0, lr_schedule="linear", warmup_updates=1
    )
    results = run(module, PAIRS, callbacks, logger=CSVLogger(tmp_path), **ONE_BY_ONE)
    rates = [2.0, 4.0, 2.0]
    for result in results:
        assert [row["lr"] for row in result.history] == [*rates, 0.0]
    with (tmp_path / "lightning_logs/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["update"]]
    assert [float(row["lr"]) for row in rows] == rates * 2
    assert [float(row["update"]) for row in rows] == [0, 1, 2] * 2


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_batch_starts_with_a_fresh_adam(models64: StableDiffusion, objective: Objective, optimizer: str) -> None:
    chain = chain_of(models64, num_inference_steps=STEPS)
    options: dict[str, Any] = {"num_optimization_steps": 2, "optimizer": optimizer, "lr": 0.05, **BARE}
    after_another = optimise(chain, objective, PAIRS, trainer=ONE_BY_ONE, **options)[1]
    alone = optimise(chain, objective, PAIRS[1:], **options)[0]
    assert after_another.final_latents.equal(alone.final_latents)
    assert float((alone.final_latents - alone.initial_latents).abs().max()) > 0.01


def test_a_stopped_pair_rests_whatever_the_step_is(models64: StableDiffusion, objective: Objective) -> None:
    """AdamW's decay and the whitening of latents move what has no gradient."""
    script = {1: [5.0, 4.0, 3.0, 2.0, 1.0], 2: [5.0, 4.0, 6.0, 4.5, 3.0]}
    options: dict[str, Any] = {
        **BARE, "optimizer": "adamw", "adam": {"weight_decay": 0.5}, "lr": 0.05, "keep": "last",
        "whiten": {"gradient": True, "latents": True},
    }  # fmt: skip
    chain = chain_of(models64, num_inference_steps=STEPS)
    stop = EarlyStop(Scripted(script), 2)
    going, stopped = optimise(chain, objective, PAIRS, num_optimization_steps=4, early_stop=stop, **options)
    whole = optimise(chain, objective, PAIRS, num_optimization_steps=4, **options)
    shorter = optimise(chain, objective, PAIRS, num_optimization_steps=3, **options)
    assert going.final_latents.equal(whole[0].final_latents)
    assert stopped.final_latents.equal(shorter[1].final_latents) and stopped.num_optimization_steps == 3
    assert not stopped.final_latents.equal(whole[1].final_latents)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_retry_halves_the_first_moment_alone(models64: StableDiffusion, clip64: ClipTower, optimizer: str) -> None:
    options: dict[str, Any] = {
        **BARE, "num_optimization_steps": 4, "optimizer": optimizer, "adam": {"weight_decay": 0.3}, "lr": 0.05,
    }  # fmt: skip
    spoiled = Objective({"text": OnceBad(clip64, PAIRS[1].seed, "gradient", 2)}, {"text": 1.0}, CROPS)
    healthy = Objective({"text": TextAlignment(clip64)}, {"text": 1.0}, CROPS)
    broken, whole = (recorded(models64, goal, **options) for goal in (spoiled, healthy))
    good, bad, middle = (broken.latents[update][:, 1] for update in range(3))
    # The step of update 1 led to what was not finite; half of it is taken back, and no decay moves the rest.
    torch.testing.assert_close(middle, (good + bad) / 2, rtol=0, atol=1e-15)
    before, after = broken.states[1], broken.states[2]
    assert after["exp_avg"][:, 1].equal(before["exp_avg"][:, 1] / 2)
    assert after["exp_avg_sq"][:, 1].equal(before["exp_avg_sq"][:, 1])
    assert not broken.latents[3][:, 1].equal(middle)
    assert [x[:, 0].tolist() for x in broken.latents] == [x[:, 0].tolist() for x in whole.latents]


def plain_power_spectrum(numbers: np.ndarray, order: np.ndarray, weight: float, block: int, target: float) -> float:
    """Hwang et al. 2025, the final loss: moments, then Fourier sums one by one in blocks of neighbours."""
    count = len(numbers)
    moments = abs(numbers.mean()) + abs(math.sqrt((numbers**2).mean()) - 1)
    mixed = numbers[order]
    waves = [np.exp(-2j * math.pi * k * np.arange(count) / count) for k in range(count)]
    sizes = [abs((mixed * wave).sum()) / math.sqrt(count) for wave in waves]
    blocks = [sizes[start : start + block] for start in range(0, count, block)]
    return moments + weight * sum(abs(sum(part) / len(part) - target) for part in blocks) / len(blocks)


@pytest.mark.parametrize("block", [1, 5, 16])
def test_power_spectrum_is_the_formula(block: int) -> None:
    latents = random_latents(2, 3, 2, 4, 4)
    latents[:, 1] = 1.7 * latents[:, 1].cumsum(dim=-1) + 0.5
    orders = torch.stack([torch.randperm(32, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    got = power_spectrum(latents, orders, 7.0, block, 0.9)
    for stream in range(2):
        for pair in range(3):
            numbers, order = latents[stream, pair].flatten().numpy(), orders[pair].numpy()
            expected = plain_power_spectrum(numbers, order, 7.0, block, 0.9)
            assert float(got[stream, pair]) == pytest.approx(expected, rel=1e-12)


def test_power_spectrum_sees_what_is_less_like_noise() -> None:
    latents = random_latents(1, 4, 4, 16, 16)
    latents[:, 1] *= 1.3
    latents[:, 2] = latents[:, 2].sign() * 3 * (latents[:, 2].abs() > 2.2)
    latents[:, 3] = latents[:, 3].cumsum(dim=-1) / 3
    same = torch.arange(1024).expand(4, -1)
    noise, stretched, _, smooth = power_spectrum(latents, same)[0].tolist()
    assert noise < 3.5 < min(stretched, smooth)
    assert torch.autograd.gradcheck(
        lambda x: power_spectrum(x, same[:2, :32]), (random_latents(1, 2, 2, 4, 4).requires_grad_(True),)
    )


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_power_spectrum_joins_the_gradient_in_an_order_of_each_pair(
    models64: StableDiffusion, objective: Objective, sampler: str
) -> None:
    def fitted(**options: Any) -> tuple[Tensor, list[list[dict[str, float]]]]:
        chain = chain_of(models64, sampler, num_inference_steps=STEPS)
        module, callbacks = optimisation(
            chain, objective, num_optimization_steps=1, momentum=0.0, **{**BARE, **options}
        )
        run(module, PAIRS, callbacks)
        return module.latents.detach(), trajectory_of(callbacks).history

    plain, _ = fitted()
    pushed, history = fitted(power_spectrum={"weight": 0.3})
    assert "power_spectrum" in history[0][1]
    for index, pair in enumerate(PAIRS):
        first = first_latents(pair.seed, (4, 8, 8)).double().expand(len(plain), 1, 4, 8, 8).clone().requires_grad_(True)
        order = torch.randperm(256, generator=pair_generator(pair.seed, "power_spectrum", 0))
        penalty = power_spectrum(first, order[None]).mean()
        (gradient,) = torch.autograd.grad(penalty, first)
        # Learning rate 1. First latents of size 1 are subtracted: float64's last digits.
        torch.testing.assert_close((pushed - plain)[:, index], -0.3 * gradient[:, 0], rtol=0, atol=1e-13)
        assert history[index][0]["power_spectrum"] == pytest.approx(float(penalty.detach()), rel=1e-10)
    assert float((pushed - plain).abs().max()) > 1e-4


def test_whitening_under_autocast(models: StableDiffusion, clip_tower: ClipTower) -> None:
    objective = Objective({"text": TextAlignment(clip_tower)}, {"text": 1.0}, CROPS)
    chain = chain_of(models, num_inference_steps=STEPS)
    options: dict[str, Any] = {**BARE, "whiten": {"gradient": True, "latents": True}, "power_spectrum": {"weight": 0.1}}
    trainer = {"precision": "bf16-mixed"}
    results = optimise(
        chain, objective, PAIRS, trainer=trainer, num_optimization_steps=2, gradient_rms=0.02, keep="last", **options
    )
    for result in results:
        assert result.error is None and result.final_latents.dtype == torch.float32
        sizes = np.abs(coefficients(result.final_latents.double().flatten().numpy())).reshape(-1, 16)
        np.testing.assert_allclose(sizes.mean(axis=1), MEAN, rtol=1e-6)  # rounded to float32


def test_latents_that_cannot_be_whitened(models64: StableDiffusion, objective: Objective) -> None:
    chain = chain_of(models64, num_inference_steps=STEPS)
    for part in ("gradient", "latents"):
        with pytest.raises(SgoolError, match=r"`optimization\.whiten\.block`: expected a divisor of 128, .* got 24; "):
            optimise(chain, objective, PAIRS, num_optimization_steps=1, whiten={part: True, "block": 24})
    with pytest.raises(SgoolError, match=r"`optimization\.whiten\.block`: expected a whole number of at least 2"):
        default_callbacks(whiten={"gradient": True, "block": 1})
    found = PromptSeed("a panda", 3, start=Start(torch.zeros(4, 8, 8)))
    with pytest.raises(SgoolError, match=r"`optimization\.whiten\.latents`: expected pairs that start from noise, but"):
        optimise(chain, objective, [found], num_optimization_steps=1, whiten={"latents": True})
    assert chain.calls == 0


def test_bad_optimisers_and_schedules(models: StableDiffusion, objective: Objective) -> None:
    chain = chain_of(models, num_inference_steps=STEPS)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"optimizer": "lion"}, r"`optimization\.optimizer`: expected one of sgd, adam, adamw, got 'lion'"),
        ({"optimizer": "adam", "nesterov": True}, r"`optimization\.nesterov`: expected false with optimizer=adam"),
        ({"adam": {"weight_decay": 0.1}}, r"`optimization\.adam\.weight_decay`: expected 0 with optimizer=sgd"),
    ]
    for options, message in cases:
        with pytest.raises(SgoolError, match=message):
            LatentPairModule(chain, objective, **options)
    with pytest.raises(SgoolError, match=r"`optimization\.lr_schedule`: expected one of constant, cosine, linear"):
        ScheduleLearningRate("step")
    with pytest.raises(SgoolError, match=r"`optimization\.warmup_updates`: expected a number of at least 0, got -1"):
        ScheduleLearningRate("cosine", -1)
    with pytest.raises(SgoolError, match=r"`optimization\.warmup_updates`: expected less than the 2 updates, got 2"):
        optimise(chain, objective, PAIRS, num_optimization_steps=2, warmup_updates=2)
    for name in ("weight", "block", "target", "spectrum_weight"):
        with pytest.raises(SgoolError, match=rf"`optimization\.power_spectrum\.{name}`: expected a positive number"):
            default_callbacks(power_spectrum={"weight": 1.0, name: -1})
