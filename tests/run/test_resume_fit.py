"""A fit that is stopped anywhere and taken up again returns, to the last bit, what an undisturbed one does."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from diffusers import AutoencoderKL
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from sgool.callbacks import BatchCheckpoint, EarlyStop, PairCallback, Trajectory, default_callbacks
from sgool.diffusion import Chain
from sgool.errors import Interrupted, SgoolError
from sgool.methods.base import PairModule
from sgool.methods.best_of_n import BestOfN
from sgool.methods.clip_guidance import ClipGuidance
from sgool.methods.latent_pairs import LatentPairModule
from sgool.methods.vanilla import Vanilla
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.prompts.datamodule import PromptDataModule
from sgool.results.checkpoint import eight_bit, pack_image, unpack_image
from sgool.run.train import train
from sgool.saliency import SpectralResidual
from sgool.types import PairResult, PromptSeed, Start
from tests.fits import assert_same

PAIRS = (
    PromptSeed("a red cat", 1),
    PromptSeed("two green trees", 2, negative_prompt="blue", phrases=("two trees", "green leaves")),
    PromptSeed("a panda", 3),
)
STEPS = 2
#: What an unfinished fit leaves in the place of results.
NONE: list[PairResult] = []


class Cliff(TextAlignment):
    """NaN for the given losses, to the last bits: where a pair comes by, whatever came before."""

    def __init__(self, clip: ClipTower, bad: Sequence[float]) -> None:
        super().__init__(clip)
        self._bad = bad

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        values = super().__call__(views, targets)
        for bad in self._bad:
            values = torch.where((values - bad).abs() < 1e-7, torch.nan, values)
        return values


class Told(PairCallback):
    """Calls a function with each update or candidate that is done, and of how many."""

    order = 84

    def __init__(self, function: Callable[[int, int], Any]) -> None:
        self._function = function

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._function(batch.update + 1, batch.updates)

    def on_predict_batch_end(self, *args: Any, **_: Any) -> None:
        self._function(args[3].update + 1, args[3].updates)


@dataclass(frozen=True)
class Problem:
    """A method: makes its module and the callbacks that belong to it, as each process does."""

    make: Callable[[], tuple[PairModule, list[L.Callback]]]

    def run(
        self,
        pairs: Sequence[PromptSeed] = PAIRS,
        *,
        checkpoint: Path | None = None,
        on_update: Callable[[int, int], Any] | None = None,
        callbacks: Sequence[L.Callback] = (),
        logger: Any = False,
        **settings: Any,
    ) -> list[PairResult]:
        """One batch by a Trainer of its own, with the settings of a `BatchCheckpoint`; `NONE` where it was stopped."""
        module, rules = self.make()
        rules += [Told(on_update)] if on_update is not None else []
        if checkpoint is not None or settings:
            file = checkpoint or Path("no such folder")
            rules.append(BatchCheckpoint(lambda _: file, **settings))
        data = PromptDataModule(pairs, pairs_per_fit=len(pairs))
        train(module, data, callbacks=[*rules, *callbacks], accelerator="cpu", logger=logger)
        return module.results


@dataclass(frozen=True)
class Networks:
    """What all problems of this file share."""

    models: StableDiffusion
    clip: ClipTower
    other_clip: ClipTower

    def objective(
        self, *, salient: bool = False, match: Any = "prompt", crops: int = 2, bad: Sequence[float] = ()
    ) -> Objective:
        saliency = SaliencySettings(SpectralResidual(), every_n_steps=2, match=match) if salient else None
        return Objective({"text": Cliff(self.clip, bad)}, {"text": 1.0}, CropSettings(num=crops), saliency)

    def chain(self, sampler: str = "ddim", **options: Any) -> Chain:
        known = {"sampler": sampler, "num_inference_steps": STEPS, "guidance_scale": 3.0}
        return Chain(self.models, **{**known, **options})

    def optimise(
        self, sampler: str = "ddim", updates: int = 4, *, name: str = "it", chain: Chain | None = None, **options: Any
    ) -> Problem:
        goal = self.objective(**{key: options.pop(key) for key in ("salient", "match", "bad") if key in options})
        own = {"lr": options.pop("lr", 300.0), "nesterov": options.pop("nesterov", False)}
        own |= {key: options.pop(key) for key in ("optimizer", "adam") if key in options}
        patience = options.pop("early_stop", None)

        def make() -> tuple[PairModule, list[L.Callback]]:
            # Steps so large that the best image is neither always the first nor always the last one.
            module = LatentPairModule(chain or self.chain(sampler), goal, num_optimization_steps=updates, **own)
            module.method = name
            rules = {"grad_clip_value": None, "perturb_std": 1e-2, **options}
            if patience is not None:
                rules["early_stop"] = EarlyStop(TextAlignment(self.other_clip), patience)
            return module, default_callbacks(**rules)

        return Problem(make)

    def predict(self, kind: Any, *args: Any, sampler: str = "ddim", salient: bool = False, **options: Any) -> Problem:
        """A method without updates of latents."""
        goal = () if kind is Vanilla else (self.objective(salient=salient),)
        return Problem(lambda: (kind(self.chain(sampler), *goal, *args, **options), []))

    def doodl(self) -> Problem:
        return self.optimise()

    def sgool(self) -> Problem:
        """Two streams with regions of their own; a map that is found at one update weights the next one's gradient."""
        return self.optimise("edict", 3, salient=True, saliency_mask=True, snapshot_every=2)

    def phrases(self) -> Problem:
        """Regions that are matched with phrases, of which the pairs have one and two."""
        return self.optimise("edict", 3, salient=True, match="phrases", snapshot_every=2)

    def reno(self) -> Problem:
        """Of the three pairs two stop early, at different updates."""
        return self.optimise(
            updates=5, early_stop=1, nesterov=True, norm_regularizer=0.01,
            grad_clip_norm=0.1, renormalize=False, tie=False, perturb_std=0,
        )  # fmt: skip

    def adamw(self) -> Problem:
        """Two moments and a number of steps; a rate that depends on the update; an order drawn at each update."""
        return self.optimise(
            updates=5, optimizer="adamw", adam={"weight_decay": 0.1}, lr=0.3, lr_schedule="cosine", warmup_updates=1,
            whiten={"gradient": True, "latents": True}, power_spectrum={"weight": 0.1}, keep="last",
        )  # fmt: skip

    def retried(self) -> Problem:
        """The second pair is put back at update 1, and fails at update 3, on the first one's bad values."""
        whole = self.optimise(updates=5).run()
        once = self.optimise(updates=5, bad=[whole[1].history[1]["loss"]]).run()
        return self.optimise(updates=5, bad=[whole[1].history[1]["loss"], once[1].history[3]["loss"]])


@pytest.fixture(scope="module")
def networks(models: StableDiffusion, clip_tower: ClipTower, wordpiece_tower: ClipTower) -> Networks:
    return Networks(models, clip_tower, wordpiece_tower)


def after(*polls: int) -> Callable[[], bool]:
    """True at the given polls, counted from 1."""
    count = iter(range(1, 1000))
    return lambda: next(count) in polls


@contextmanager
def counted_calls(models: StableDiffusion) -> Iterator[list[int]]:
    """A list that grows with each call of the denoising network."""
    calls: list[int] = []
    hook = models.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize("name", ["doodl", "sgool", "phrases", "reno", "adamw", "retried"])
def test_stopped_after_any_update(networks: Networks, name: str, tmp_path: Path) -> None:
    problem, notes = getattr(networks, name)(), []
    whole: list[tuple[int, int]] = []
    expected = problem.run(on_update=lambda *update: whole.append(update))
    check_the_problem(name, expected)
    for update, _ in whole[:-1]:
        told: list[tuple[int, int]] = []
        own = {"checkpoint": tmp_path / f"{update}.ckpt", "on_note": notes.append}
        assert problem.run(interrupted=after(update), on_update=lambda *u, told=told: told.append(u), **own) == NONE
        assert told == whole[:update]
        found = problem.run(on_update=lambda *u, told=told: told.append(u), **own)
        assert_same(found, expected)
        assert told == whole
    # Of a batch whose last update is done nothing is left to go on with: it ends as if nobody had asked.
    file = tmp_path / "last.ckpt"
    assert_same(problem.run(interrupted=after(len(whole)), checkpoint=file), expected)
    assert not file.exists() and notes == []


def check_the_problem(name: str, expected: list[PairResult]) -> None:
    """That each problem is what it is for."""
    if name == "reno":
        assert len({result.num_optimization_steps for result in expected}) > 1
    elif name == "retried":
        assert [result.retries for result in expected] == [0, 1, 0]
        assert expected[1].error == "non-finite loss at update 3, after non-finite loss at update 1 and a retry with " \
            "half the step"  # fmt: skip
        assert expected[0].error is expected[2].error is None
    else:
        assert len({result.best_step for result in expected} | {0}) > 1
        assert (expected[0].saliency_map is not None) == (name in ("sgool", "phrases")) == bool(expected[0].snapshots)
        assert [len(result.phrases) for result in expected] == ([1, 2, 1] if name == "phrases" else [0, 0, 0])


def test_stopped_twice_and_at_the_last_update(networks: Networks, tmp_path: Path) -> None:
    problem, file = networks.sgool(), tmp_path / "deep" / "it.ckpt"
    expected = problem.run()
    for _ in range(2):  # the first run stops after update 1, the second, which is polled anew, after update 2
        assert problem.run(checkpoint=file, interrupted=after(1)) == NONE
    with counted_calls(networks.models) as calls:
        assert_same(problem.run(checkpoint=file, interrupted=after(1)), expected)
    # One update of both streams, with recomputation, the last evaluation, and two that look for gradients that are cut.
    assert len(calls) == 2 * 2 * STEPS + 2 * STEPS + 2
    assert [entry.name for entry in file.parent.iterdir()] == ["it.ckpt"]  # whole; who gave the path removes it


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["doodl", "sgool", "reno"])
def test_killed_between_two_checkpoints(networks: Networks, name: str, tmp_path: Path) -> None:
    problem = getattr(networks, name)()
    expected = problem.run()
    own: dict[str, Any] = {"checkpoint": tmp_path / "it.ckpt", "every": 2}

    def die(update: int, _: int) -> None:
        if update == 3:
            raise Killed

    with pytest.raises(Killed):
        problem.run(on_update=die, **own)
    told: list[int] = []
    assert_same(problem.run(on_update=lambda update, _: told.append(update), **own), expected)
    assert told[0] == 3  # the update that was lost


def test_position_in_the_updates(networks: Networks, tmp_path: Path) -> None:
    class Position(L.Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[int, ...]] = []

        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.seen.append((trainer.global_step, batch_idx, batch.index))

        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            self.seen[-1] = (*self.seen[-1], pl_module.update)

    problem, whole = networks.optimise(updates=3), Position()
    state = torch.get_rng_state()
    problem.run(callbacks=[whole])
    assert whole.seen == [(0, 0, 0, 0), (1, 1, 0, 1), (2, 2, 0, 2)]
    assert torch.get_rng_state().equal(state)  # no fit draws from the process's own generator
    for update in (1, 2):
        first, second = Position(), Position()
        assert problem.run(callbacks=[first], checkpoint=tmp_path / f"{update}.ckpt", interrupted=after(update)) == NONE
        problem.run(callbacks=[second], checkpoint=tmp_path / f"{update}.ckpt")
        assert first.seen == whole.seen[:update]
        # A Trainer counts its own steps; the batch knows which of its updates they are.
        assert [seen[-1] for seen in second.seen] == [seen[-1] for seen in whole.seen[update:]]
        assert [seen[:3] for seen in second.seen] == [seen[:3] for seen in whole.seen[: 3 - update]]


def test_each_update_is_logged_once(networks: Networks, tmp_path: Path) -> None:
    problem = networks.optimise(updates=3)

    def logged(name: str, **settings: Any) -> list[dict[str, str]]:
        """The rows of one run, whether it was stopped or not; without Lightning's count of a Trainer's own steps."""
        logger = CSVLogger(tmp_path / name, name="", version="")
        problem.run(logger=[logger], **settings)
        logger.save()
        with (tmp_path / name / "metrics.csv").open() as file:
            rows = [{k: v for k, v in row.items() if k != "step" and v} for row in csv.DictReader(file)]
        return [row for row in rows if "update" in row]  # the last row has the means over the data set

    whole = logged("whole")
    assert [float(row["update"]) for row in whole] == [0, 1, 2]
    for update in (1, 2):
        own = {"checkpoint": tmp_path / f"{update}.ckpt"}
        first = logged(f"first{update}", interrupted=after(update), **own)
        assert len(first) == update and first + logged(f"rest{update}", **own) == whole


@pytest.mark.parametrize("at", [1, 2])
def test_a_sigterm_that_nobody_asks_about_is_an_interrupt(networks: Networks, tmp_path: Path, at: int) -> None:
    problem, file = networks.optimise(updates=3), tmp_path / "it.ckpt"
    before = signal.getsignal(signal.SIGTERM)

    def terminate(update: int, _: int) -> None:
        if update == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped by a SIGTERM"):
        problem.run(checkpoint=file, on_update=terminate)
    assert signal.getsignal(signal.SIGTERM) is before
    told: list[int] = []
    assert_same(problem.run(checkpoint=file, on_update=lambda update, _: told.append(update)), problem.run())
    assert told == list(range(at + 1, 4))


def test_control_c_stays_what_it_is(networks: Networks) -> None:
    before = signal.getsignal(signal.SIGINT)

    def press(*_: int) -> None:
        raise KeyboardInterrupt

    for problem in (networks.doodl(), networks.predict(BestOfN, num_candidates=2)):
        with pytest.raises(KeyboardInterrupt):
            problem.run(on_update=press)
        assert signal.getsignal(signal.SIGINT) is before


def spoil(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "flipped":
        # In the middle of the latents, which are stored as they are.
        latents = torch.load(file, weights_only=True)["batch"]["latents"].numpy().tobytes()
        content[content.index(latents) + 100] ^= 1
    file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no checkpoint"}.get(how, content))


@pytest.mark.parametrize("how", ["cut", "empty", "text", "flipped"])
def test_a_damaged_checkpoint_is_said_and_left(networks: Networks, tmp_path: Path, how: str) -> None:
    problem, file, notes = networks.optimise(updates=2), tmp_path / "it.ckpt", []
    assert problem.run(checkpoint=file, interrupted=after(1)) == NONE
    spoil(file, how)
    assert_same(problem.run(checkpoint=file, on_note=notes.append), problem.run())
    (note,) = notes
    assert note.startswith(f"the checkpoint {file} cannot be read, it is cut off or damaged (")
    assert note.endswith("): the fit starts anew")


def test_a_checkpoint_of_something_else_is_said_and_left(networks: Networks, tmp_path: Path) -> None:
    problem, file = networks.optimise(updates=2), tmp_path / "it.ckpt"
    assert problem.run(checkpoint=file, interrupted=after(1)) == NONE
    content = file.read_bytes()
    cases: list[tuple[Problem, dict[str, Any], str]] = [
        (problem, {"pairs": PAIRS[::-1]}, "pairs, settings"),
        (problem, {"fingerprint": "another configuration"}, "settings"),
        (networks.optimise(updates=2, chain=networks.chain(num_inference_steps=3)), {}, "settings"),
        (networks.optimise(updates=3), {}, "settings"),
        (networks.optimise(updates=2, lr=301.0), {}, "settings"),
        (networks.optimise(updates=2, perturb_std=2e-2), {}, "settings"),
        (networks.optimise(updates=2, salient=True), {}, "settings"),
        (networks.optimise(updates=2, name="that"), {}, "method"),
    ]
    for other, own, different in cases:
        file.write_bytes(content)
        notes: list[str] = []
        found = other.run(checkpoint=file, on_note=notes.append, **own)
        assert notes == [f"the checkpoint {file} is of other {different}: the fit starts anew"]
        assert_same(found, other.run(**{key: value for key, value in own.items() if key == "pairs"}))


def test_a_start_of_its_own_decides_too(networks: Networks, tmp_path: Path) -> None:
    """Two edits of one text may differ in nothing but the latents where they begin."""
    problem, file, notes = networks.optimise(updates=2), tmp_path / "it.ckpt", []
    first, second = (
        replace(PAIRS[0], start=Start(torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))))
        for seed in (0, 1)
    )
    assert problem.run([first], checkpoint=file, interrupted=after(1)) == NONE
    assert_same(problem.run([second], checkpoint=file, on_note=notes.append), problem.run([second]))
    assert notes == [f"the checkpoint {file} is of other settings: the fit starts anew"]
    assert_same(problem.run([first], checkpoint=file, interrupted=after(2)), problem.run([first]))


def test_a_checkpoint_that_cannot_be_written(networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SgoolError, match=r"Cannot write the checkpoint .*it\.ckpt: .*\. Free space or mend"):
        networks.optimise(updates=2).run(checkpoint=tmp_path / "file" / "it.ckpt", interrupted=after(1))


def test_best_of_n_goes_on_with_the_next_candidate(networks: Networks, tmp_path: Path) -> None:
    def problem_of(num_candidates: int) -> Problem:
        return networks.predict(BestOfN, 2, sampler="edict", salient=True, num_candidates=num_candidates)

    problem, file = problem_of(4), tmp_path / "it.ckpt"
    expected = problem.run()
    for count in (1, 2, 3):
        with pytest.raises(Interrupted, match=f"stopped after {count} of 4"):
            problem.run(checkpoint=file, interrupted=after(count))
        told: list[int] = []
        with counted_calls(networks.models) as calls:
            assert_same(problem.run(checkpoint=file, on_update=lambda update, _, t=told: t.append(update)), expected)
        assert told == list(range(count + 1, 5)) and len(calls) == (4 - count) * 2 * STEPS
        file.unlink()

    def die(update: int, _: int) -> None:
        if update == 4:
            raise Killed

    with pytest.raises(Killed):
        problem.run(checkpoint=file, every=2, on_update=die)
    notes: list[str] = []
    with counted_calls(networks.models) as calls:
        assert_same(problem.run(checkpoint=file, on_note=notes.append), expected)
    assert len(calls) == 2 * 2 * STEPS and notes == []
    assert len(problem_of(3).run(checkpoint=file, on_note=notes.append)[0].history) == 3
    assert notes == [f"the checkpoint {file} is of other settings: the fit starts anew"]


def test_methods_without_a_checkpoint_stop_too(networks: Networks, tmp_path: Path) -> None:
    guidance, file = networks.predict(ClipGuidance, clip_guidance_scale=1.0), tmp_path / "it.ckpt"
    with pytest.raises(Interrupted, match=f"stopped after step 1 of {STEPS}"):
        guidance.run(checkpoint=file, interrupted=after(1))
    for problem in (guidance, networks.predict(Vanilla)):
        results: list[PairResult] = []
        assert len(problem.run(interrupted=lambda: False)) == len(PAIRS)
        # After the last step there is nothing to save by stopping: the results are handed over first.
        polls = STEPS if problem is guidance else 1
        with pytest.raises(Interrupted, match="stopped after 1 of 1"):
            problem.run(interrupted=after(polls), callbacks=[Results(results)])
        assert len(results) == len(PAIRS)
    assert not list(tmp_path.iterdir())


class Results(PairCallback):
    """Keeps what is handed over."""

    def __init__(self, kept: list[PairResult]) -> None:
        self.kept = kept

    def on_pairs_end(self, trainer: L.Trainer, pl_module: Any, results: Sequence[PairResult]) -> None:
        self.kept += results


def photo(seed: int) -> Tensor:
    """Noise with the spectrum of a photograph, amplitudes of 1 / frequency^1.5, and a camera's grain; 512 x 512.

    As PNG it takes 445 kB; a portrait of that size, cut from matplotlib's sample data, 410 kB.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.fft.fftfreq(512)[:, None], torch.fft.rfftfreq(512)[None]
    frequencies = (rows.square() + columns.square()).sqrt().clamp_min(1 / 512)
    image = torch.fft.irfft2(torch.fft.rfft2(torch.randn(3, 512, 512, generator=generator)) / frequencies**1.5)
    grain = torch.randn(3, 512, 512, generator=generator) / 255
    return eight_bit(0.5 + 0.2 * (image - image.mean()) / image.std() + grain)


class Photos(PairCallback):
    """Puts photographs in the place of what a random decoder made, before the checkpoint is written."""

    order = 90

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        trajectory = next(callback for callback in trainer.callbacks if isinstance(callback, Trajectory))
        trajectory.first_images = photo(0)[None]
        maps = [SpectralResidual()(photo(seed)[None]) for seed in (1, 2)]
        trajectory.best[0] |= {"update": 1, "image": photo(1), "saliency_map": eight_bit(maps[0][0])}
        for objective, own in zip(pl_module.objectives, maps, strict=True):
            objective._detection = replace(objective._detection, maps=own)
        self.kept.append(pl_module)


def test_size_and_content_of_a_checkpoint(networks: Networks, tmp_path: Path) -> None:
    """One pair of Stable Diffusion 1.x's size: 4 x 64 x 64 latents, 512 x 512 pixels, EDICT's two streams, SGOOL."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=4,
        ).requires_grad_(False).eval()  # fmt: skip
    small = replace(networks, models=replace(networks.models, vae=vae))
    chain = small.chain("edict", height=512, width=512, num_inference_steps=1)
    problem, file = small.optimise(updates=3, chain=chain, salient=True), tmp_path / "it.ckpt"
    modules: list[Any] = []
    assert problem.run(PAIRS[:1], callbacks=[Photos(modules)], checkpoint=file, interrupted=after(2)) == NONE
    assert modules[0].latents.shape == (2, 1, 4, 64, 64)
    size = file.stat().st_size
    assert 1_000_000 < size < 2_000_000, f"{size / 1e6:.2f} MB"
    content = torch.load(file, weights_only=True)  # plain values and tensors
    assert sorted(content) == ["batch", "origin", "seconds"] and content["seconds"] > 0
    batch = content["batch"]
    assert batch["latents"].equal(modules[0].latents.detach()) and batch["update"] == 2
    assert unpack_image(batch["callbacks"]["Trajectory"]["best"][0]["image"]).equal(photo(1))
    networks_own = {name for net in (vae, small.models.unet, small.clip) for name, _ in net.named_parameters()}
    keys = set(all_keys(content))
    # More than 50 keys were Lightning's: a batch's own checkpoint has none of its loops and versions.
    assert len(keys) > 30 and not keys & networks_own


def all_keys(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key)
            yield from all_keys(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from all_keys(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_survive_a_checkpoint_to_the_bit(dtype: torch.dtype, channels: int) -> None:
    levels = torch.arange(256, dtype=dtype).view(1, 16, 16).expand(channels, -1, -1) / 255
    image = levels.flip(0).contiguous()
    assert eight_bit(image).equal(image)  # what is rounded stays
    again = unpack_image(pack_image(image))
    assert again.dtype == dtype and again.equal(image)
    assert eight_bit(image + 0.4 / 255).equal(image) and not eight_bit(image + 0.6 / 255).equal(image)
    broken = image.clone()
    broken[0, 0, 0] = torch.nan
    torch.testing.assert_close(unpack_image(pack_image(eight_bit(broken))), broken, rtol=0, atol=0, equal_nan=True)
    assert eight_bit(torch.tensor([0.3], dtype=torch.bfloat16)).dtype == torch.float32


def test_default_callbacks_end_with_what_is_kept() -> None:
    assert isinstance(default_callbacks()[-1], Trajectory)
