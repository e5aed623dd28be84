"""A whole fit through Lightning against the plain loop of `tests.reference`, and what the callbacks guard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from sgool.callbacks import (
    ClipGradient,
    ClipGradientNorm,
    EarlyStop,
    Gaussianity,
    MaskGradient,
    NonFiniteGuard,
    NormalizeGradient,
    NormRegularizer,
    PairCallback,
    Perturb,
    PowerSpectrum,
    Renormalize,
    ScheduleLearningRate,
    TieGradients,
    TieLatents,
    Trajectory,
    WhitenGradient,
    WhitenLatents,
    default_callbacks,
)
from sgool.errors import SgoolError
from sgool.methods import LatentPairModule
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, TextAlignment
from sgool.objectives.crops import random_boxes
from sgool.prompts.batches import PairBatch
from sgool.prompts.seeding import first_latents, pair_generator
from sgool.results.checkpoint import eight_bit
from sgool.types import PromptSeed
from tests.fits import Results, Told, chain_of, run, trajectory_of
from tests.reference import Chain, Update, optimise, spherical

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2, negative_prompt="blue"))
CROPS = CropSettings(num=3, power=0.5, min_side=0.5)
STEPS = 3
#: Cuts most elements of the tiny network's gradient but not all.
CLIP = 3e-5


def fitted(
    models: StableDiffusion,
    objective: Objective,
    sampler: str,
    updates: int,
    pairs: Sequence[PromptSeed] = PAIRS,
    lr: float = 1.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    first_only: bool = False,
    **callbacks: Any,
) -> tuple[LatentPairModule, Trajectory]:
    module = LatentPairModule(
        chain_of(models, sampler, num_inference_steps=STEPS, decode="x" if first_only else "both"),
        objective,
        num_optimization_steps=updates,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
    )
    listed = default_callbacks(**callbacks)
    run(module, pairs, listed)
    return module, trajectory_of(listed)


def plain_loop(
    models: StableDiffusion,
    clip: ClipTower,
    pair: PromptSeed,
    streams: int,
    updates: int,
    knobs: Update,
    std: float,
    first_only: bool = False,
    norm_weight: float = 0.0,
) -> tuple[list[list[Tensor]], list[float]]:
    """Latents visited by one pair and the losses (mean over the images) seen there."""
    chain = Chain(
        models.unet, models.encode_prompts([pair.prompt]), models.encode_prompts([pair.negative_prompt]), STEPS
    )
    target = clip.encode_text([pair.prompt])[0]
    seen: list[float] = []

    def losses(latents: list[Tensor], update: int) -> list[Tensor]:
        final = chain.edict(*latents) if streams == 2 else (chain.ddim(latents[0]),)
        final = final[:1] if first_only else final
        values = []
        for stream, last in enumerate(final):
            image = (models.vae.decode(last / models.vae.config.scaling_factor).sample + 1) / 2
            generator = pair_generator(pair.seed, f"crops{stream}", update)
            boxes = random_boxes((32, 32), CROPS.num, generator, power=CROPS.power, min_side=CROPS.min_side)
            crops = [image[..., b.top : b.top + b.height, b.left : b.left + b.width] for b in boxes]
            # All boxes are smaller than the tower's input: bilinear.
            resize = torch.nn.functional.interpolate
            views = [resize(crop, (clip.input_size,) * 2, mode="bilinear", align_corners=False) for crop in crops]
            values.append(
                min((spherical(clip.encode_image(view)[0], target) for view in views), key=lambda x: float(x.detach()))
            )
        seen.append(sum(float(value.detach()) for value in values) / len(values))
        return values

    def noise(update: int) -> Tensor:
        return std * torch.randn((4, 8, 8), generator=pair_generator(pair.seed, "perturb", update)).double()

    def penalty(latents: Tensor) -> Tensor:
        """Eyring et al. 2024, section 3.2, for the 4 * 8 * 8 latents of these tests."""
        return norm_weight * (latents.norm() ** 2 / 2 - (256 - 1) * torch.log(latents.norm()))

    start = first_latents(pair.seed, (4, 8, 8)).double()[None]
    visited = optimise([start] * streams, losses, updates, knobs, noise, penalty if norm_weight else None)
    losses(visited[-1], updates)
    return visited, seen


@pytest.fixture
def objective(clip64: ClipTower) -> Objective:
    return Objective({"text": TextAlignment(clip64)}, {"text": 1.0}, CROPS)


@pytest.mark.parametrize(
    ("sampler", "updates", "knobs", "std"),
    [
        ("edict", 1, Update(clip=CLIP), 1e-4),
        ("edict", 5, Update(clip=CLIP), 1e-4),
        ("edict", 2, Update(clip=CLIP, tie=False), 1e-4),
        ("edict", 5, Update(clip=CLIP, tie=False), 1e-4),
        ("edict", 2, Update(clip=CLIP, tie=False, renormalise=False), 0.0),
        ("edict", 2, Update(clip=CLIP, momentum=0.0), 1e-2),
        ("edict", 2, Update(clip=CLIP, renormalise=False, rate=30.0), 0.0),
        ("edict", 5, Update(clip=CLIP, nesterov=True), 1e-4),
        ("edict", 2, Update(clip=CLIP, nesterov=True, tie=False, renormalise=False), 1e-4),
        ("edict", 2, Update(clip=CLIP, tie=False, longest=1e-4, rate=30.0), 0.0),
        ("ddim", 1, Update(clip=CLIP), 0.0),
        ("ddim", 1, Update(clip=CLIP, nesterov=True), 0.0),
        ("ddim", 2, Update(clip=CLIP, momentum=0.0, rate=100.0), 1e-2),
        ("ddim", 5, Update(clip=CLIP, rate=50.0), 1e-4),
        ("ddim", 2, Update(clip=CLIP, renormalise=False, tie=False), 1e-4),
        ("ddim", 2, Update(clip=CLIP, longest=2e-4, rate=30.0), 0.0),
    ],
    ids=str,
)
def test_fit_equals_the_plain_loop(
    models64: StableDiffusion,
    clip64: ClipTower,
    objective: Objective,
    sampler: str,
    updates: int,
    knobs: Update,
    std: float,
) -> None:
    check_against_the_plain_loop(models64, clip64, objective, sampler, updates, knobs, std)


@pytest.mark.parametrize(
    "knobs",
    [
        Update(clip=CLIP),
        Update(clip=CLIP, tie=False),
        # Unclipped, so that DOODL's factor 0.5 is seen.
        Update(clip=1.0, tie=False, renormalise=False, momentum=0.0),
        Update(clip=CLIP, nesterov=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("updates", [1, 2])
def test_first_image_only(
    models64: StableDiffusion, clip64: ClipTower, objective: Objective, knobs: Update, updates: int
) -> None:
    check_against_the_plain_loop(models64, clip64, objective, "edict", updates, knobs, 1e-4, first_only=True)


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_reno_equals_the_plain_loop(
    models64: StableDiffusion, clip64: ClipTower, objective: Objective, sampler: str
) -> None:
    """Norm regulariser, clipping of the whole gradient's norm, Nesterov; no noise, no renormalisation."""
    knobs = Update(clip=1.0, longest=0.01, nesterov=True, renormalise=False, rate=5.0)
    check_against_the_plain_loop(models64, clip64, objective, sampler, 5, knobs, 0.0, norm_weight=0.01)


def check_against_the_plain_loop(
    models: StableDiffusion,
    clip: ClipTower,
    objective: Objective,
    sampler: str,
    updates: int,
    knobs: Update,
    std: float,
    *,
    first_only: bool = False,
    norm_weight: float = 0.0,
) -> None:
    module, trajectory = fitted(
        models, objective, sampler, updates, lr=knobs.rate, momentum=knobs.momentum, nesterov=knobs.nesterov,
        grad_clip_value=knobs.clip, grad_clip_norm=knobs.longest, perturb_std=std, tie=knobs.tie, first_only=first_only,
        renormalize=knobs.renormalise, norm_regularizer=norm_weight, keep="last",
    )  # fmt: skip
    for index, pair in enumerate(PAIRS):
        visited, losses = plain_loop(
            models, clip, pair, len(module.latents), updates, knobs, std, first_only, norm_weight
        )
        expected = torch.stack(visited[-1])[:, 0]
        got = module.latents.detach()[:, index]
        assert float((got - torch.stack(visited[0])[:, 0]).abs().max()) > 1e-5  # it moved
        # float64 against float64: rounding, amplified by a few updates.
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
        assert [row["loss"] for row in trajectory.history[index]] == pytest.approx(losses, rel=1e-9)
        assert [row["update"] for row in trajectory.history[index]] == list(range(updates + 1))
        torch.testing.assert_close(trajectory.best[index]["latents"], expected, rtol=0, atol=1e-9)


def test_the_clip_value_of_these_tests_cuts_some_elements(models64: StableDiffusion, objective: Objective) -> None:
    module = LatentPairModule(chain_of(models64, num_inference_steps=STEPS), objective, pairs=PAIRS)
    module.training_step(PairBatch(PAIRS), 0).backward()
    assert module.latents.grad is not None
    cut = float((module.latents.grad.abs() > CLIP).double().mean())
    assert 0.05 < cut < 0.95


def test_order_of_the_callbacks(clip_tower: ClipTower) -> None:
    order = [
        NormRegularizer,
        Gaussianity,
        PowerSpectrum,
        EarlyStop,
        NonFiniteGuard,
        TieGradients,
        MaskGradient,
        WhitenGradient,
        NormalizeGradient,
        ClipGradientNorm,
        ClipGradient,
        ScheduleLearningRate,
        Perturb,
        TieLatents,
        WhitenLatents,
        Renormalize,
        Trajectory,
    ]
    everything = default_callbacks(
        gradient_rms=1e-3,
        grad_clip_norm=1.0,
        norm_regularizer=0.1,
        gaussianity={"weight": 0.1},
        power_spectrum={"weight": 0.1},
        whiten={"gradient": True, "latents": True, "block": 16},
        warmup_updates=2,
        saliency_mask=True,
        early_stop=EarlyStop(TextAlignment(clip_tower), 2),
    )
    assert [type(c) for c in everything] == order
    places = [callback.order for callback in everything]
    assert places == sorted(places)  # the same order, whoever sorts them
    plain = [NonFiniteGuard, TieGradients, ClipGradient, Perturb, TieLatents, Renormalize, Trajectory]
    assert [type(c) for c in default_callbacks(norm_regularizer=0, gaussianity={"weight": 0})] == plain
    off = default_callbacks(power_spectrum={"weight": 0}, whiten={"gradient": False, "latents": False, "block": 16})
    assert [type(c) for c in off] == plain
    without = default_callbacks(grad_clip_value=None, perturb_std=0, tie=False, renormalize=False)
    assert [type(c) for c in without] == [NonFiniteGuard, Trajectory]


def test_best_and_last(models64: StableDiffusion, objective: Objective) -> None:
    kept = {}
    for keep in ("best", "last"):
        # So much noise that the last image is not the best.
        module, kept[keep] = fitted(models64, objective, "ddim", 4, perturb_std=1.0, keep=keep)
    for index in range(len(PAIRS)):
        selections = [row["selection"] for row in kept["best"].history[index]]
        assert selections == [row["selection"] for row in kept["last"].history[index]] and len(selections) == 5
        best, last = kept["best"].best[index], kept["last"].best[index]
        assert best["selection"] == min(selections) and best["update"] == selections.index(min(selections))
        assert last["selection"] == selections[-1] and last["update"] == 4
        assert last["latents"].equal(module.latents.detach()[:, index])
    assert any(kept["best"].best[i]["update"] < 4 for i in range(len(PAIRS)))


def test_best_image_is_that_of_the_best_latents(models64: StableDiffusion, objective: Objective) -> None:
    module, trajectory = fitted(models64, objective, "edict", 3, lr=100.0)
    for index, best in enumerate(trajectory.best):
        latents = best["latents"][:, None].expand(-1, len(PAIRS), -1, -1, -1)
        with torch.no_grad():
            image = module(latents).images[0, index].clamp(0, 1)
        # float64: but for pixels at the edge between two of the 256 values, the same.
        assert best["image"].equal(eight_bit(image)) and not image.equal(eight_bit(image))


class Spoiled:
    """Text alignment that breaks for one pair: "loss" is NaN from the start, "gradient" only in backward."""

    name = "text"

    def __init__(self, clip: ClipTower, seed: int, how: str, from_call: int) -> None:
        self._inner, self._seed, self._how, self._from = TextAlignment(clip), seed, how, from_call
        self.input_size, self.calls = clip.input_size, 0

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        marks = torch.tensor([[float(pair.seed == self._seed)] for pair in pairs], dtype=torch.float64)
        return torch.cat([self._inner.targets(pairs), marks], dim=1)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        values = self._inner(views, targets[:, :-1])
        if torch.is_grad_enabled():
            self.calls += 1
        if self.calls <= self._from or not torch.is_grad_enabled():
            return values
        bad = targets[:, -1] > 0
        if self._how == "loss":
            return torch.where(bad, torch.nan, values)
        # sqrt has slope infinity at 0; times 0 is NaN. The inner `where` keeps that from the other views.
        return values + torch.where(bad, torch.where(bad, 0 * views.mean((1, 2, 3)), 1.0).sqrt(), 0)


@pytest.mark.parametrize(
    ("sampler", "how", "from_call"),
    [("ddim", "loss", 0), ("ddim", "loss", 2), ("ddim", "gradient", 1), ("edict", "loss", 1), ("edict", "gradient", 2)],
)
def test_a_pair_that_breaks_leaves_the_others_alone(
    models64: StableDiffusion, clip64: ClipTower, sampler: str, how: str, from_call: int
) -> None:
    pairs = (PAIRS[0], PromptSeed("a panda", 7), PAIRS[1])
    from_call = from_call * (2 if sampler == "edict" else 1)
    spoiled = Objective({"text": Spoiled(clip64, 7, how, from_call)}, {"text": 1.0}, CROPS)
    healthy = Objective({"text": TextAlignment(clip64)}, {"text": 1.0}, CROPS)
    broken, trajectory = fitted(models64, spoiled, sampler, 3, pairs)
    whole, expected = fitted(models64, healthy, sampler, 3, pairs)
    first = from_call // len(broken.latents)
    # At the first update there is nothing to go back to; at the last one, no update is left to fail at.
    last = first + 1 if first else 0
    again = f", after non-finite {how} at update {first} and a retry with half the step" if first else ""
    reasons = {1: f"non-finite {how} at update {last}{again}"} if last < 3 else {}
    assert broken.failures == reasons and whole.failures == {}
    assert broken.retries == ({1: (first, how)} if first else {})
    for index in (0, 2):
        assert broken.latents[:, index].equal(whole.latents[:, index])
        assert trajectory.best[index]["image"].equal(expected.best[index]["image"])
        assert trajectory.history[index] == expected.history[index]
    rows = trajectory.history[1]
    assert [row["update"] for row in rows] == list(range(last + 1))
    assert math.isnan(rows[first]["loss"]) == (how == "loss")
    assert ("image" in trajectory.best[1]) == (first > 0)
    if not reasons:
        return
    # It rests at the latents that were evaluated well last: neither gradient, nor momentum, nor noise.
    _, until = fitted(models64, healthy, sampler, max(first - 1, 1), pairs, keep="last")
    there = until.best[1]["latents"] if first > 1 else first_latents(7, (4, 8, 8)).double()
    torch.testing.assert_close(broken.latents.detach()[:, 1], there.expand_as(broken.latents[:, 1]), rtol=0, atol=1e-12)


class OnceBad(TextAlignment):
    """NaN for one pair in one training step, counted from 0; "gradient": in backward alone."""

    def __init__(self, clip: ClipTower, seed: int, how: str, call: int) -> None:
        super().__init__(clip)
        self._spoiled = Spoiled(clip, seed, how, call)
        self._last = call + 1

    def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
        return self._spoiled.targets(pairs)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        if self._spoiled.calls < self._last:
            return self._spoiled(views, targets)
        return super().__call__(views, targets[:, :-1])


class Recorder(L.Callback):
    """Latents and momentum after each update."""

    def __init__(self) -> None:
        self.latents: list[Tensor] = []
        self.momenta: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.latents.append(pl_module.latents.detach().clone())
        self.momenta.append(trainer.optimizers[0].state[pl_module.latents]["momentum_buffer"].clone())


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize(("renormalize", "nesterov"), [(False, False), (True, True)])
def test_a_pair_is_put_back_by_half_of_its_last_step_and_goes_on(
    models64: StableDiffusion, clip64: ClipTower, how: str, renormalize: bool, nesterov: bool
) -> None:
    def recorded(term: TextAlignment) -> tuple[LatentPairModule, Recorder, Trajectory]:
        objective, recorder = Objective({"text": term}, {"text": 1.0}, CROPS), Recorder()
        chain = chain_of(models64, num_inference_steps=STEPS)
        module = LatentPairModule(chain, objective, num_optimization_steps=4, nesterov=nesterov, lr=30.0)
        callbacks = default_callbacks(renormalize=renormalize, perturb_std=1e-3, on_note=notes.append)
        run(module, PAIRS, [*callbacks, recorder])
        return module, recorder, trajectory_of(callbacks)

    notes: list[str] = []
    module, recorder, trajectory = recorded(OnceBad(clip64, PAIRS[1].seed, how, 2))
    assert notes == [f"{PAIRS[1].pair_id}: non-finite {how} at update 2, retried with half the step"]
    assert module.failures == {} and module.retries == {1: (2, how)}
    # Evaluated well at update 1, that is after the step of update 0.
    good, bad = (recorder.latents[update][:, 1] for update in (0, 1))
    middle = (good + bad) / 2
    if renormalize:
        middle = middle * good.norm() / middle.norm()
    torch.testing.assert_close(recorder.latents[2][:, 1], middle, rtol=0, atol=1e-14)  # float64's last digits
    assert recorder.momenta[2][:, 1].equal(recorder.momenta[1][:, 1] / 2)
    assert not recorder.latents[3][:, 1].equal(recorder.latents[2][:, 1])  # and on it goes
    rows = trajectory.history[1]
    assert [row["update"] for row in rows] == list(range(5))
    assert [math.isfinite(row["loss"]) for row in rows] == [True, True, how == "gradient", True, True]
    # The other one saw nothing of it.
    whole, seen, expected = recorded(TextAlignment(clip64))
    assert [x[:, 0].tolist() for x in recorder.latents] == [x[:, 0].tolist() for x in seen.latents]
    assert trajectory.history[0] == expected.history[0] and whole.retries == {}


class Blow(PairCallback):
    """Makes a pair's latents infinite after an update, where nothing has looked at its loss or gradient yet."""

    order = 66

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.update == 1:
            pl_module.latents.data[:, 1] = math.inf


@pytest.mark.parametrize("updates", [2, 4])
def test_latents_that_an_update_made_infinite_end_their_pair_alone(
    models64: StableDiffusion, objective: Objective, updates: int
) -> None:
    def results(*more: PairCallback) -> tuple[LatentPairModule, Results]:
        module = LatentPairModule(
            chain_of(models64, num_inference_steps=STEPS), objective, num_optimization_steps=updates
        )
        kept = Results()
        run(module, PAIRS, [*default_callbacks(), kept, *more])
        return module, kept

    module, kept = results(Blow())
    assert module.failures == {1: "non-finite latents after update 1"} and module.stopped[1][0] == 1
    assert kept.all[1].error == "non-finite latents after update 1" and len(kept.all[1].history) == 2
    assert module.latents.isfinite().all()
    _, whole = results()
    assert kept.all[0].history == whole.all[0].history and kept.all[0].final_latents.equal(whole.all[0].final_latents)


def test_a_fit_ends_when_all_pairs_have_failed(models64: StableDiffusion, clip64: ClipTower) -> None:
    objective = Objective({"text": Spoiled(clip64, PAIRS[0].seed, "loss", 1)}, {"text": 1.0}, CROPS)
    module, trajectory = fitted(models64, objective, "ddim", 10, PAIRS[:1])
    reason = "non-finite loss at update 2, after non-finite loss at update 1 and a retry with half the step"
    assert module.failures == {0: reason} and module.stopped[0][0] == 2
    assert len(trajectory.history[0]) == 3 and trajectory.best[0]["update"] == 0
    # Three evaluations with their recomputation, none after the end.
    assert module.batch_chain.calls == module.stopped[0][1] == 3 * 2 * STEPS


def test_normalise_gradient_is_per_pair_and_free_of_scale(models64: StableDiffusion, clip64: ClipTower) -> None:
    def latents(weight: float) -> Tensor:
        objective = Objective({"text": TextAlignment(clip64)}, {"text": weight}, CROPS)
        options: dict[str, Any] = {"grad_clip_value": None, "perturb_std": 0, "renormalize": False}
        module, _ = fitted(models64, objective, "edict", 1, gradient_rms=0.01, **options)
        return module.latents.detach()

    start = torch.stack([first_latents(pair.seed, (4, 8, 8)).double() for pair in PAIRS])
    step = latents(1.0) - start
    rms = step.square().mean(dim=(0, 2, 3, 4)).sqrt()
    # Not exact: first latents are subtracted again.
    torch.testing.assert_close(rms, torch.full_like(rms, 0.01), rtol=1e-12, atol=0)
    torch.testing.assert_close(latents(50.0), latents(1.0), rtol=0, atol=1e-12)


def test_snapshots_and_terms_in_the_history(models64: StableDiffusion, objective: Objective) -> None:
    _, trajectory = fitted(models64, objective, "ddim", 4, snapshot_every=2)
    assert [update for update, _ in trajectory.snapshots] == [0, 2, 4]
    assert trajectory.snapshots[0][1].shape == (2, 3, 32, 32)
    assert trajectory.first_images is not None and trajectory.snapshots[0][1].equal(trajectory.first_images)
    row = trajectory.history[0][0]
    assert set(row) == {"update", "loss", "selection", "latent_norm", "text"} and row["text"] == row["loss"]
    norms = [row["latent_norm"] for row in trajectory.history[1]]
    assert norms == pytest.approx([norms[0]] * 5, rel=1e-12)  # renormalised


def test_progress_and_loggers_see_each_update(models: StableDiffusion, clip_tower: ClipTower, tmp_path: Any) -> None:
    from lightning.pytorch.loggers import CSVLogger

    objective = Objective({"text": TextAlignment(clip_tower)}, {"text": 2.0}, CROPS)
    module = LatentPairModule(chain_of(models, num_inference_steps=2), objective, num_optimization_steps=3)
    callbacks, told = default_callbacks(), Told()
    run(module, PAIRS, [*callbacks, told], logger=CSVLogger(tmp_path))
    assert told.updates == [(1, 3), (2, 3), (3, 3)]
    lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("term/text")
    history = trajectory_of(callbacks).history
    expected = [(history[0][i]["text"] + history[1][i]["text"]) / 2 for i in range(3)]
    values = [line.split(",")[column] for line in lines[1:]]
    # The last row holds the means over all pairs, which have no terms.
    assert values.pop() == ""
    assert [float(value) for value in values] == pytest.approx(expected, rel=1e-12)


def half(precision: str) -> dict[str, Any]:
    """A Trainer's options; on the CPU Lightning takes bf16-mixed in place of 16-mixed, unless it is given as such."""
    return {"plugins": MixedPrecision(precision, "cpu")} if precision == "16-mixed" else {"precision": precision}


@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "bf16-true"])
def test_precisions_that_would_couple_pairs_or_round_latents(
    models: StableDiffusion, clip_tower: ClipTower, precision: str
) -> None:
    objective = Objective({"text": TextAlignment(clip_tower)}, {"text": 1.0}, CROPS)
    module = LatentPairModule(chain_of(models, num_inference_steps=2), objective, num_optimization_steps=1)
    with pytest.raises(SgoolError, match=f"expected 32-true, 64-true or bf16-mixed, got {precision}"):
        run(module, PAIRS, default_callbacks(), **half(precision))


def test_bad_knobs() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"grad_clip_value": 0.0}, r"`optimization\.grad_clip_value`: expected a positive number, got 0"),
        ({"gradient_rms": -1.0}, r"`optimization\.gradient_rms`: expected a positive number, got -1"),
        ({"perturb_std": -0.1}, r"`optimization\.perturb_std`: expected a number of at least 0, got -0\.1"),
        (
            {"perturb_schedule": "wild"},
            r"`optimization\.perturb_schedule`: expected one of constant, linear, sph.* 'wild'",
        ),
        ({"grad_clip_norm": 0.0}, r"`optimization\.grad_clip_norm`: expected a positive number, got 0"),
        ({"norm_regularizer": -1.0}, r"`optimization\.norm_regularizer`: expected a positive number, got -1"),
        (
            {"gaussianity": {"weight": 1, "dim": 0}},
            r"`optimization\.gaussianity\.dim`: expected a positive number, got 0",
        ),
        ({"keep": "first"}, r"`optimization\.keep`: expected best or last, got 'first'"),
    ]
    for options, message in cases:
        with pytest.raises(SgoolError, match=message):
            default_callbacks(**options)


def test_callbacks_are_lightnings() -> None:
    assert all(isinstance(callback, L.Callback) for callback in default_callbacks(gradient_rms=1.0))
