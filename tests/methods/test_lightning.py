"""The main job as Lightning's users know it: a module, a data module, callbacks, loggers and the Trainer's switches."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelSummary,
    RichProgressBar,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from sgool import Chain, Objective, PromptDataModule, RunWriter
from sgool.callbacks import EarlyStop, PairCallback, Perturb, ScheduleLearningRate, default_callbacks
from sgool.errors import ConfigError, SgoolError
from sgool.methods import BestOfN, ClipGuidance, LatentPairModule, PairModule, Vanilla
from sgool.methods.budget import Budget
from sgool.metrics import ClipScore, JudgePanel
from sgool.models.clip import ClipTower
from sgool.models.load import load_models
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, SaliencySettings, TextAlignment
from sgool.results import RunFolder
from sgool.saliency import SpectralResidual
from sgool.types import PromptSeed
from tests.fits import Results, Told, assert_same, chain_of, quiet_trainer, run

PROMPTS = ("a red cat", "two green trees", "a panda", "an elephant", "a yellow heart")
PAIRS = tuple(
    PromptSeed(prompt, seed, index) for index, (prompt, seed) in enumerate(zip(PROMPTS, range(5), strict=True))
)
#: Three batches, the last one smaller.
PER_FIT, UPDATES = 2, 3
BATCHES = [PAIRS[:2], PAIRS[2:4], PAIRS[4:]]
WHOLE = len(BATCHES) * UPDATES


@dataclass(frozen=True)
class Parts:
    """Makes modules and callbacks of one problem; nothing of one fit is known to the next."""

    models: StableDiffusion
    clip: ClipTower
    judge: ClipTower
    sampler: str = "ddim"

    @property
    def chain(self) -> Chain:
        return chain_of(self.models, self.sampler, num_inference_steps=2, guidance_scale=3.0)

    @property
    def objective(self) -> Objective:
        saliency = SaliencySettings(SpectralResidual(), every_n_steps=2)
        return Objective({"text": TextAlignment(self.clip)}, crops=CropSettings(num=2), saliency=saliency)

    def module(self, **options: Any) -> LatentPairModule:
        # Steps so large that the best image is neither always the first nor always the last one.
        own = {"num_optimization_steps": UPDATES, "lr": 3000.0, "judges": {"judge": self.judge}, **options}
        return LatentPairModule(self.chain, self.objective, **own)

    def callbacks(self) -> list[L.Callback]:
        return default_callbacks(grad_clip_value=None, perturb_std=1e-2, snapshot_every=2, norm_regularizer=0.01)

    def methods(self) -> list[PairModule]:
        """Those without training."""
        judges = {"judge": self.judge}
        guided = ClipGuidance(self.chain, self.objective, clip_guidance_scale=5.0, judges=judges)
        return [
            Vanilla(self.chain, judges=judges),
            BestOfN(self.chain, self.objective, num_candidates=3, judges=judges),
            guided,
        ]


@pytest.fixture(scope="module")
def parts(models: StableDiffusion, clip_tower: ClipTower, wordpiece_tower: ClipTower) -> Parts:
    return Parts(models, clip_tower, wordpiece_tower)


def data(pairs: Sequence[PromptSeed] = PAIRS) -> PromptDataModule:
    return PromptDataModule(pairs, pairs_per_fit=PER_FIT)


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of all metrics.csv below a folder, without empty cells."""
    found = []
    for path in sorted(folder.rglob("metrics.csv")):
        with path.open(encoding="utf-8") as file:
            found += [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    return found


def content(run_dir: Path) -> dict[str, Any]:
    """All files of all pairs; records without what is the machine's."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run_dir.glob("pairs/**/*") if path.is_file()):
        name = str(path.relative_to(run_dir))
        found[name] = path.read_bytes()
        if path.name == "record.json":
            record = json.loads(found[name])
            found[name] = {k: v for k, v in record.items() if k not in ("seconds", "peak_memory_mib")}
    return found


def records_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Pair id -> record."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in run_dir.rglob("record.json")]
    assert len({record["pair_id"] for record in records}) == len(records)
    return {record["pair_id"]: record for record in records}


def mean_of(run_dir: Path, name: str) -> float:
    values = [record["metrics"][name] for record in records_of(run_dir).values()]
    return sum(values) / len(values)


#: What is logged at the end, as means over all pairs.
MEANS = ("judge/clip_score", "judge/clip_score_initial", "objective", "objective_initial")


def check_means(logged: dict[str, Any], run_dir: Path, names: Sequence[str] = MEANS) -> None:
    for name in names:
        # Sums of float32 scores in float64 are exact; records and metrics may round the mean itself once.
        assert float(logged[name]) == pytest.approx(mean_of(run_dir, name), rel=1e-7), name


# A fit over a prompt data set


@pytest.mark.parametrize("sampler", ["ddim", "edict"])
def test_a_fit_over_all_batches_is_a_fit_of_each(
    models: StableDiffusion, clip_tower: ClipTower, wordpiece_tower: ClipTower, sampler: str
) -> None:
    parts, together, told = Parts(models, clip_tower, wordpiece_tower, sampler), Results(), Told()
    trainer = quiet_trainer([*parts.callbacks(), together, told])
    trainer.fit(parts.module(), datamodule=data())
    assert trainer.global_step == WHOLE
    assert told.updates == [(update + 1, UPDATES) for _ in BATCHES for update in range(UPDATES)]
    assert [[result.pair for result in batch] for batch in together.batches] == [list(batch) for batch in BATCHES]
    for batch, found in zip(BATCHES, together.batches, strict=True):
        alone = Results()
        quiet_trainer([*parts.callbacks(), alone]).fit(parts.module(pairs=batch))
        assert_same(found, alone.all)
    assert {result.best_step for result in together.all} - {0, UPDATES}  # the problem is none whose end is known
    assert all(result.saliency_map is not None and len(result.snapshots) == 2 for result in together.all)


def test_each_update_is_a_row_and_judges_means_are_those_of_the_records(parts: Parts, tmp_path: Path) -> None:
    callbacks = [*parts.callbacks(), RunWriter(tmp_path / "run")]
    # Lightning's defaults, which would log every 50 steps, but for the folder of its checkpoint.
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=callbacks, logger=CSVLogger(tmp_path), default_root_dir=tmp_path
    )
    trainer.fit(parts.module(), datamodule=data())
    rows = rows_of(tmp_path)
    updates = [row for row in rows if "loss" in row]
    assert [int(row["step"]) for row in updates] == list(range(WHOLE))
    places = [(float(row["batch"]), float(row["update"])) for row in updates]
    assert places == [(batch, update) for batch in range(len(BATCHES)) for update in range(UPDATES)]
    assert all(row.keys() >= {"selection", "term/text", "latent_norm", "gradient_norm"} for row in updates)
    (last,) = (row for row in rows if "objective" in row)
    check_means(last, tmp_path / "run")
    check_means(trainer.callback_metrics, tmp_path / "run")
    assert trainer.callback_metrics["loss"] == pytest.approx(float(updates[-1]["loss"]), rel=1e-6)
    histories = {}
    for pair in PAIRS:
        with (tmp_path / "run/pairs/sgool" / pair.pair_id / "history.csv").open(encoding="utf-8") as file:
            histories[pair] = list(csv.DictReader(file))
    for row in updates:
        pairs, update = BATCHES[int(float(row["batch"]))], int(float(row["update"]))
        for name, column in (("loss", "loss"), ("term/text", "text"), ("latent_norm", "latent_norm")):
            values = [float(histories[pair][update][column]) for pair in pairs]
            assert float(row[name]) == pytest.approx(sum(values) / len(values), rel=1e-6)
    assert (tmp_path / "run/results.csv").is_file() and len(records_of(tmp_path / "run")) == len(PAIRS)


def test_an_interval_of_the_user_stays(parts: Parts, tmp_path: Path) -> None:
    run(parts.module(), PAIRS[:1], logger=CSVLogger(tmp_path), log_every_n_steps=2)
    assert [int(row["step"]) for row in rows_of(tmp_path) if "loss" in row] == [1]


# Switches of the Trainer


@pytest.mark.parametrize(
    ("switches", "steps", "batches"),
    [
        ({"fast_dev_run": True}, 1, 0),
        ({"fast_dev_run": UPDATES + 1}, UPDATES + 1, 1),
        ({"limit_train_batches": UPDATES + 1}, UPDATES + 1, 1),
        ({"limit_train_batches": 2 * UPDATES}, 2 * UPDATES, 2),
        ({"limit_train_batches": 0.5}, WHOLE // 2, 1),
        ({"max_steps": 2 * UPDATES + 1}, 2 * UPDATES + 1, 2),
        ({"max_steps": UPDATES}, UPDATES, 1),
        ({"max_steps": 10 * WHOLE}, WHOLE, 3),
        ({"min_steps": 10 * WHOLE}, WHOLE, 3),
        ({"min_epochs": 3}, WHOLE, 3),
        ({"min_steps": UPDATES, "max_steps": UPDATES + 1}, UPDATES + 1, 1),
        ({"limit_train_batches": 10 * WHOLE}, WHOLE, 3),
        ({"max_time": timedelta(0)}, 0, 0),
        ({"max_time": {"days": 1}}, WHOLE, 3),
    ],
    ids=str,
)
def test_switches_that_end_a_fit(parts: Parts, switches: dict[str, Any], steps: int, batches: int) -> None:
    kept, expected = Results(), Results()
    trainer = quiet_trainer([*parts.callbacks(), kept], **switches)
    trainer.fit(parts.module(), datamodule=data())
    assert trainer.global_step == steps and len(kept.batches) == batches
    quiet_trainer([*parts.callbacks(), expected], limit_train_batches=batches * UPDATES).fit(
        parts.module(), datamodule=data()
    )
    assert_same(kept.all, expected.all)
    # Means over the pairs that are done; there are none where no batch is.
    assert ("objective" in trainer.callback_metrics) == bool(batches)


def test_a_limit_on_batches_of_prediction(parts: Parts) -> None:
    for switches, count in (({"fast_dev_run": True}, 1), ({"limit_predict_batches": 2}, 2)):
        found = quiet_trainer(**switches).predict(parts.methods()[0], datamodule=data())
        assert [len(results) for results in found or []] == [2] * count


def test_bars_and_summaries(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    bars = {"enable_progress_bar": True, "enable_model_summary": True}
    trainer = quiet_trainer([*parts.callbacks(), RichProgressBar(), ModelSummary()], **bars)
    trainer.fit(parts.module(), datamodule=data())
    shown = capsys.readouterr().out
    assert "loss" in shown and "selection" in shown
    trainer = quiet_trainer([*parts.callbacks(), Timer()], **bars)  # Lightning's own bar
    trainer.fit(parts.module(), datamodule=data())
    for module in parts.methods():
        quiet_trainer([RichProgressBar()], **bars).predict(module, datamodule=data())


def test_the_summary_has_the_number_of_latents(parts: Parts) -> None:
    class Summary(ModelSummary):
        @staticmethod
        def summarize(summary_data: Any, total_parameters: int, trainable_parameters: int, *_: Any, **__: Any) -> None:
            found.append((total_parameters, trainable_parameters))

    found: list[tuple[int, int]] = []
    number = PER_FIT * 4 * 8 * 8
    quiet_trainer([Summary()], fast_dev_run=True).fit(parts.module(), datamodule=data())
    quiet_trainer([Summary()], fast_dev_run=True).fit(parts.module(pairs=PAIRS[:3]))
    assert found == [(number, number), (3 * 4 * 8 * 8, 3 * 4 * 8 * 8)]


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"max_epochs": 2}, "`max_epochs`: expected 1, got 2: a second epoch would optimise the same pairs again"),
        ({"max_epochs": None}, "`max_epochs`: expected 1, got 1000"),
        (
            {"max_epochs": None, "max_steps": 10},
            r"`max_epochs`: expected 1, got -1 \(Lightning's default beside max_steps: epochs without end\): a second",
        ),
        ({"max_epochs": -1, "accumulate_grad_batches": 2}, "got -1 .*; `accumulate_grad_batches`: expected 1, got 2"),
        ({"max_epochs": 0}, "`max_epochs`: expected 1, got 0: nothing would be optimised"),
        ({"accumulate_grad_batches": 2}, "`accumulate_grad_batches`: expected 1, got 2: every update is a step of"),
        ({"gradient_clip_val": 0.5}, r"`gradient_clip_val`: expected None, got 0\.5: .*default_callbacks\(grad_clip_v"),
        (
            {"plugins": MixedPrecision("16-mixed", "cpu")},
            "`trainer.precision`: expected 32-true, 64-true or bf16-mixed, got 16-mixed: its",
        ),
        ({"precision": "bf16-true"}, "got bf16-true: the latents would be rounded to half precision"),
        ({"max_epochs": 3, "gradient_clip_val": 1}, "`max_epochs`: .*; `gradient_clip_val`: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",  # processes have to agree on the names
)
def test_switches_that_are_refused(parts: Parts, switches: dict[str, Any], message: str) -> None:
    told = Told()
    with pytest.raises(SgoolError, match=message):
        quiet_trainer([told], **switches).fit(parts.module(), datamodule=data())
    assert told.updates == []


def test_pairs_come_from_one_place(parts: Parts) -> None:
    with pytest.raises(SgoolError, match="made with 5 pairs of its own, and the Trainer got a data module as well, in"):
        quiet_trainer().fit(parts.module(pairs=PAIRS), datamodule=data())
    with pytest.raises(SgoolError, match="Vanilla was made with 1 pairs of its own, and the Trainer got a data module"):
        quiet_trainer().predict(Vanilla(parts.chain, pairs=PAIRS[:1]), datamodule=data())
    with pytest.raises(SgoolError, match="LatentPairModule has no pairs: expected datamodule=PromptDataModule"):
        quiet_trainer().fit(parts.module())
    for module in parts.methods():
        for stage in ("predict", "test"):
            with pytest.raises(SgoolError, match=f"{type(module).__name__} has no pairs: expected datamodule=Prompt"):
                getattr(quiet_trainer(), stage)(module)


def test_a_plain_data_loader_is_refused(parts: Parts) -> None:
    message = "expected batches of a PromptDataModule, got a DataLoader: it does not say which update"
    for loader in (DataLoader(range(4)), DataLoader(PAIRS, batch_size=2)):  # type: ignore[arg-type]
        with pytest.raises(SgoolError, match=message):
            quiet_trainer().fit(parts.module(), loader)
        with pytest.raises(SgoolError, match=message):
            quiet_trainer().fit(parts.module(pairs=PAIRS), loader)
        with pytest.raises(SgoolError, match=message):
            quiet_trainer().predict(parts.methods()[0], loader)


def test_a_trained_method_does_not_predict(parts: Parts) -> None:
    for stage in ("predict", "test"):
        with pytest.raises(
            SgoolError, match=r"LatentPairModule is trained: expected Trainer\.fit, got predict or test"
        ):
            getattr(quiet_trainer(), stage)(parts.module(), datamodule=data())


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_callbacks_does_not_matter(parts: Parts, seed: int) -> None:
    class Foreign(L.Callback):
        """Of another library; it stays where it is."""

    kept, expected, foreign = Results(), Results(), Foreign()
    shuffled: list[Any] = [*parts.callbacks(), kept, Timer(), foreign]
    random.Random(seed).shuffle(shuffled)
    place, trainer = shuffled.index(foreign), quiet_trainer(shuffled)
    trainer.fit(parts.module(), datamodule=data(PAIRS[:3]))
    assert trainer.callbacks[place] is foreign  # type: ignore[attr-defined]
    orders = [one.order for one in trainer.callbacks if isinstance(one, PairCallback)]  # type: ignore[attr-defined]
    assert orders == sorted(orders)
    quiet_trainer([*parts.callbacks(), expected]).fit(parts.module(), datamodule=data(PAIRS[:3]))
    assert_same(kept.all, expected.all)


# Lightning's checkpoints


class Killed(Exception):
    pass


class KillAfter(L.Callback):
    """Ends the process's fit after an update, when everything that belongs to that update is done."""

    def __init__(self, update: int) -> None:
        self._update = update

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._update:
            raise Killed

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        raise Killed


def checkpointed(parts: Parts, folder: Path, *callbacks: L.Callback, **more: Any) -> L.Trainer:
    """A Trainer that saves each update, logs at once, and writes a run folder."""
    saved = ModelCheckpoint(folder / "saved", every_n_train_steps=1, save_last=True, save_top_k=-1)
    logger = CSVLogger(folder / "logs", flush_logs_every_n_steps=1)
    own = [*parts.callbacks(), RunWriter(folder / "run"), saved, *callbacks]
    return quiet_trainer(own, logger=logger, enable_checkpointing=True, **more)


@dataclass(frozen=True)
class Undisturbed:
    parts: Parts
    content: dict[str, Any]
    rows: list[dict[str, str]]
    metrics: dict[str, Tensor]
    folder: Path


@pytest.fixture(scope="module")
def undisturbed(
    models: StableDiffusion, clip_tower: ClipTower, wordpiece_tower: ClipTower, tmp_path_factory: Any
) -> Undisturbed:
    """EDICT's two streams, salient regions that last for two updates."""
    parts, folder = Parts(models, clip_tower, wordpiece_tower, "edict"), tmp_path_factory.mktemp("undisturbed")
    trainer = checkpointed(parts, folder)
    trainer.fit(parts.module(), datamodule=data())
    return Undisturbed(parts, content(folder / "run"), rows_of(folder), dict(trainer.callback_metrics), folder)


@pytest.mark.parametrize("update", range(1, WHOLE + 1))
def test_killed_after_any_update_a_fit_goes_on_to_the_same_bits(
    undisturbed: Undisturbed, tmp_path: Path, update: int
) -> None:
    parts = undisturbed.parts
    with pytest.raises(Killed):
        checkpointed(parts, tmp_path, KillAfter(update)).fit(parts.module(), datamodule=data())
    assert len(records_of(tmp_path / "run")) == sum(map(len, BATCHES[: update // UPDATES]))
    where = "last" if update % 2 else tmp_path / "saved" / f"epoch=0-step={update}.ckpt"
    told, kept = Told(), Results()
    trainer = checkpointed(parts, tmp_path, told, kept)
    trainer.fit(parts.module(), datamodule=data(), ckpt_path=where)
    assert len(told.updates) == WHOLE - update and trainer.global_step == WHOLE
    assert [result.pair for result in kept.all] == [pair for batch in BATCHES[update // UPDATES :] for pair in batch]
    assert content(tmp_path / "run") == undisturbed.content
    expected = {name: undisturbed.metrics[name] for name in MEANS}
    assert {name: trainer.callback_metrics[name] for name in MEANS} == expected
    rows = rows_of(tmp_path)
    assert [row for row in rows if "loss" in row] == [row for row in undisturbed.rows if "loss" in row]
    # The means of the end, once: none that are means of a part.
    ends = [{name: float(row[name]) for name in MEANS} for row in rows if "objective" in row]
    assert ends == [{name: float(row[name]) for name in MEANS} for row in undisturbed.rows if "objective" in row]


def test_a_stop_between_two_updates_and_on(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Without a crash: `limit_train_batches`, as `max_time` and a signal, ends the epoch in the middle of a batch."""
    parts = undisturbed.parts
    first = checkpointed(parts, tmp_path, limit_train_batches=UPDATES + 1)
    first.fit(parts.module(), datamodule=data())
    assert len(records_of(tmp_path / "run")) == PER_FIT
    trainer = checkpointed(parts, tmp_path)
    trainer.fit(parts.module(), datamodule=data(), ckpt_path=tmp_path / f"saved/epoch=0-step={UPDATES + 1}.ckpt")
    assert content(tmp_path / "run") == undisturbed.content
    assert {name: trainer.callback_metrics[name] for name in MEANS} == {
        name: undisturbed.metrics[name] for name in MEANS
    }


def test_a_checkpoint_of_a_module_with_pairs_of_its_own(parts: Parts, tmp_path: Path) -> None:
    kept, expected = Results(), Results()
    with pytest.raises(Killed):
        checkpointed(parts, tmp_path, KillAfter(2)).fit(parts.module(pairs=PAIRS[:3]))
    trainer = checkpointed(parts, tmp_path, kept)
    trainer.fit(parts.module(pairs=PAIRS[:3]), ckpt_path=tmp_path / "saved/last.ckpt")
    quiet_trainer([*parts.callbacks(), expected]).fit(parts.module(pairs=PAIRS[:3]))
    assert_same(kept.all, expected.all)


def test_seconds_before_a_checkpoint_count(undisturbed: Undisturbed) -> None:
    parts, kept = undisturbed.parts, Results()
    saved = undisturbed.folder / "saved/epoch=0-step=2.ckpt"
    content = torch.load(saved, weights_only=True)
    content["pairs"]["seconds"] += 1000
    torch.save(content, undisturbed.folder / "later.ckpt")
    trainer = quiet_trainer([*parts.callbacks(), kept], limit_train_batches=UPDATES)
    trainer.fit(parts.module(), datamodule=data(), ckpt_path=undisturbed.folder / "later.ckpt")
    assert [500 < result.seconds < 600 for result in kept.all] == [True] * PER_FIT


@pytest.mark.parametrize("update", [1, UPDATES, UPDATES + 1, WHOLE])
@pytest.mark.parametrize(
    "other",
    [PAIRS[::-1], PAIRS[:4], (*PAIRS[:4], PromptSeed("a house", 4, 4))],
    ids=["another order", "fewer", "another prompt"],
)
def test_a_checkpoint_of_another_data_set_is_refused(
    undisturbed: Undisturbed, update: int, other: tuple[PromptSeed, ...]
) -> None:
    told, saved = Told(), undisturbed.folder / f"saved/epoch=0-step={update}.ckpt"
    with pytest.raises(SgoolError, match=r"`ckpt_path`: the checkpoint is of .*start without a checkpoint"):
        quiet_trainer([told]).fit(undisturbed.parts.module(), datamodule=data(other), ckpt_path=saved)
    assert told.updates == []


def test_a_checkpoint_of_other_batches_or_updates_is_refused(undisturbed: Undisturbed) -> None:
    told, saved = Told(), undisturbed.folder / f"saved/epoch=0-step={UPDATES + 2}.ckpt"
    with pytest.raises(SgoolError, match=r"`ckpt_path`: the checkpoint is of .*start without a checkpoint"):
        quiet_trainer([told]).fit(
            undisturbed.parts.module(), datamodule=PromptDataModule(PAIRS, pairs_per_fit=3), ckpt_path=saved
        )
    with pytest.raises(SgoolError, match=r"3 updates each, and this fit is of 5 pairs .* 4 updates each; use the same"):
        quiet_trainer([told]).fit(
            undisturbed.parts.module(num_optimization_steps=UPDATES + 1), datamodule=data(), ckpt_path=saved
        )
    assert told.updates == []


def test_a_checkpoint_from_the_middle_of_an_update_is_refused(parts: Parts, tmp_path: Path) -> None:
    """Lightning may save where an exception comes: the latents have moved then, and their update is not done."""

    class Breaks(L.Callback):
        def on_before_zero_grad(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            if trainer.global_step == 1:
                trainer.save_checkpoint(file)  # as ModelCheckpoint(save_on_exception=True) does from Lightning 2.6 on
                raise Killed

    file = tmp_path / "broken.ckpt"
    with pytest.raises(Killed):
        quiet_trainer([*parts.callbacks(), Breaks()]).fit(parts.module(), datamodule=data())
    with pytest.raises(SgoolError, match="`ckpt_path`: the checkpoint was written in the middle of an update"):
        quiet_trainer(parts.callbacks()).fit(parts.module(), datamodule=data(), ckpt_path=file)


# Methods without training


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("number", range(3), ids=["vanilla", "best_of_n", "clip_guidance"])
def test_prediction_over_the_same_data(parts: Parts, tmp_path: Path, number: int, inference_mode: bool) -> None:
    kept = Results()
    trainer = quiet_trainer(
        [kept, RunWriter(tmp_path / "run")], logger=CSVLogger(tmp_path), inference_mode=inference_mode
    )
    module = parts.methods()[number]
    found = trainer.predict(module, datamodule=data())
    assert found is not None and len(found) == len(BATCHES) * module.num_rounds
    # A batch's results come with its last round, before that there are none.
    assert [bool(results) for results in found] == [
        done + 1 == module.num_rounds for _ in BATCHES for done in range(module.num_rounds)
    ]
    assert_same([result for results in found for result in results], kept.all)
    assert [result.pair for result in kept.all] == list(PAIRS)
    assert {path.name for path in (tmp_path / "run/pairs").iterdir()} == {module.method}
    assert set(records_of(tmp_path / "run")) == {pair.pair_id for pair in PAIRS}
    names = MEANS[:2] if module.method == "vanilla" else MEANS
    (row,) = rows_of(tmp_path)
    check_means(row, tmp_path / "run", names)
    # Nothing that a caller gets is bound to inference mode.
    assert not any(result.final_latents.is_inference() or result.final_image.is_inference() for result in kept.all)
    # One batch at a time and a batch of its own: the same bits.
    for batch, results in zip(BATCHES, kept.batches, strict=True):
        assert_same(run(parts.methods()[number], batch), results)


@pytest.mark.parametrize("number", range(3), ids=["vanilla", "best_of_n", "clip_guidance"])
def test_a_test_is_a_prediction_with_a_table(parts: Parts, tmp_path: Path, number: int) -> None:
    kept, module = Results(), parts.methods()[number]
    trainer = quiet_trainer([kept, RunWriter(tmp_path / "run")], logger=CSVLogger(tmp_path))
    (table,) = trainer.test(module, datamodule=data(), verbose=False)
    names = MEANS[:2] if module.method == "vanilla" else MEANS
    assert set(table) >= set(names)
    check_means(table, tmp_path / "run", names)
    check_means(rows_of(tmp_path)[-1], tmp_path / "run", names)
    assert_same(kept.all, run(parts.methods()[number], PAIRS, pairs_per_fit=PER_FIT))
    # Another data set after it begins its means anew.
    (again,) = trainer.test(module, datamodule=data(PAIRS[:2]), verbose=False)
    ids = {pair.pair_id for pair in PAIRS[:2]}
    scores = [r["metrics"][names[0]] for r in records_of(tmp_path / "run").values() if r["pair_id"] in ids]
    assert again[names[0]] == pytest.approx(sum(scores) / 2, rel=1e-7)


def test_two_predictions_have_means_of_their_own(parts: Parts, tmp_path: Path) -> None:
    module = parts.methods()[0]
    for number, pairs in enumerate((PAIRS, PAIRS[:2])):
        folder = tmp_path / str(number)
        trainer = quiet_trainer([RunWriter(folder / "run")], logger=CSVLogger(folder))
        trainer.predict(module, datamodule=data(pairs))
        check_means(rows_of(folder)[-1], folder / "run", MEANS[:2])


def test_methods_share_a_folder_and_each_keeps_its_settings(parts: Parts, tmp_path: Path) -> None:
    quiet_trainer([RunWriter(tmp_path)]).predict(parts.methods()[0], datamodule=data(PAIRS[:1]))
    for _ in range(2):
        quiet_trainer([*parts.callbacks(), RunWriter(tmp_path)]).fit(parts.module(), datamodule=data(PAIRS[:1]))
    config = RunFolder(tmp_path).config()
    steps = [config["method"][name]["optimization"]["num_optimization_steps"] for name in config["methods"]]
    assert steps == [0, UPDATES]
    config["method"][config["methods"][1]]["optimization"]["num_optimization_steps"] = 99
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"num_optimization_steps: was 99, is [^$]*accept_changes=True"):
        quiet_trainer([*parts.callbacks(), RunWriter(tmp_path)]).fit(parts.module(), datamodule=data(PAIRS[:1]))
    accepting = RunWriter(tmp_path, accept_changes=True)
    quiet_trainer([*parts.callbacks(), accepting]).fit(parts.module(), datamodule=data(PAIRS[:1]))
    with pytest.raises(ConfigError, match=r"other_settings: was"):
        quiet_trainer([*parts.callbacks(), RunWriter(tmp_path)]).fit(parts.module(lr=1.0), datamodule=data(PAIRS[:1]))


class Cut(TextAlignment):
    """Without a gradient."""

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        return super().__call__(views, targets).detach()


def test_an_objective_without_a_gradient_is_refused(parts: Parts) -> None:
    module = LatentPairModule(parts.chain, Objective({"text": Cut(parts.judge)}))
    with pytest.raises(SgoolError, match=r"`method.doodl`: expected an objective with a gradient, got text without"):
        quiet_trainer(default_callbacks()).fit(module, datamodule=data(PAIRS[:1]))


def test_a_trainer_fits_once(parts: Parts) -> None:
    trainer = quiet_trainer(parts.callbacks())
    trainer.fit(parts.module(), datamodule=data(PAIRS[:1]))
    with pytest.raises(SgoolError, match="this Trainer has made its fit"):
        trainer.fit(parts.module(), datamodule=data(PAIRS[:1]))


@pytest.mark.parametrize("callback", [ScheduleLearningRate("cosine"), Perturb(0.1, "linear")])
def test_a_schedule_needs_a_number_of_updates(parts: Parts, callback: L.Callback) -> None:
    with pytest.raises(SgoolError, match=r"_schedule`: expected constant where `budget.seconds` is set, got (cos|lin)"):
        quiet_trainer([callback]).fit(parts.module(budget=Budget(seconds=9)), datamodule=data(PAIRS[:1]))


class FirstIsUnknown(TextAlignment):
    """No number for the first image that it sees."""

    seen = 0

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        self.seen += 1
        return super().__call__(views, targets) * (torch.nan if self.seen == 1 else 1)


def test_a_first_score_that_is_no_number_leaves_the_mean_of_the_others(parts: Parts, tmp_path: Path) -> None:
    goal = Objective({"text": FirstIsUnknown(parts.judge)})
    logger = CSVLogger(tmp_path)
    quiet_trainer(logger=logger).predict(BestOfN(parts.chain, goal, num_candidates=2), datamodule=data(PAIRS[:4]))
    row = rows_of(tmp_path)[-1]
    assert math.isfinite(float(row["objective"])) and math.isfinite(float(row["objective_initial"]))


def test_a_single_metric_is_a_judge(parts: Parts) -> None:
    one, several = (JudgePanel({"mine": judge}) for judge in (ClipScore(parts.judge), [ClipScore(parts.judge)]))
    assert one.metrics.keys() == several.metrics.keys()


def test_the_callbacks_of_updates_are_nothing_to_a_method_without_updates(parts: Parts) -> None:
    """One Trainer may have them for all methods."""
    for module in parts.methods():
        expected = run(module, PAIRS[:2])
        early_stop = EarlyStop(TextAlignment(parts.judge), 1)
        assert_same(run(module, PAIRS[:2], [*parts.callbacks(), early_stop]), expected)


def test_pairs_of_a_methods_own(parts: Parts) -> None:
    chain = parts.chain
    (found,) = quiet_trainer().predict(Vanilla(chain, pairs=PAIRS[:2]))  # type: ignore[misc]
    assert_same(found, run(Vanilla(chain), PAIRS[:2]))  # type: ignore[arg-type]


def test_judges_see_the_same_under_every_precision(parts: Parts) -> None:
    """A prediction works under the Trainer's autocast; a record's scores are those of its images all the same."""
    panel = JudgePanel({"judge": parts.judge})
    for module in parts.methods():
        kept = Results()
        quiet_trainer([kept], precision="bf16-mixed").predict(module, datamodule=data(PAIRS[:2]))
        first, final = (
            torch.stack([getattr(result, name) for result in kept.all]) for name in ("initial_image", "final_image")
        )
        expected = panel.judge(first, final, [result.pair for result in kept.all])
        for result, row in zip(kept.all, expected, strict=True):
            assert {name: result.metrics[name] for name in row} == row


def test_a_fit_that_ends_in_the_middle_of_a_batch_says_so(parts: Parts) -> None:
    with pytest.warns(UserWarning, match=rf"the fit ended after update 1 of {UPDATES} of \d pairs"):
        quiet_trainer(parts.callbacks(), limit_train_batches=UPDATES + 1).fit(parts.module(), datamodule=data())


def test_what_is_recorded_is_collated_where_an_exception_ends_the_trainer(parts: Parts, tmp_path: Path) -> None:
    class Broken(PairCallback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int) -> None:
            if batch.index == 1:
                raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        quiet_trainer([*parts.callbacks(), RunWriter(tmp_path), Broken()]).fit(parts.module(), datamodule=data())
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + PER_FIT


def test_two_callbacks_of_one_class_keep_their_own_state(parts: Parts) -> None:
    class Counter(PairCallback):
        def __init__(self, count: int) -> None:
            self.count = count

        def batch_state(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_batch_state(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    counters = [Counter(1), Counter(2)]
    trainer, module = quiet_trainer(counters, limit_train_batches=1), parts.module()
    trainer.fit(module, datamodule=data())
    state = module.batch_state()
    counters[0].count = counters[1].count = 0
    module.load_batch_state(state)
    assert [counter.count for counter in counters] == [1, 2]


def test_what_must_not_be_trained_is_refused(parts: Parts) -> None:
    class Forgetful(LatentPairModule):
        makes_updates = False

    with pytest.raises(SgoolError, match=r"Forgetful makes no updates: expected Trainer\.predict or test, got fit"):
        quiet_trainer().fit(Forgetful(parts.chain, parts.objective), datamodule=data())
    with pytest.raises(SgoolError, match="expected no GradientAccumulationScheduler, which would mix the updates"):
        quiet_trainer([GradientAccumulationScheduler({0: 2})]).fit(parts.module(), datamodule=data())


def test_networks_in_float16_do_not_go_with_bfloat16(parts: Parts, pipeline_folder: Path) -> None:
    half = chain_of(load_models(pipeline_folder, dtype=torch.float16), num_inference_steps=2, guidance_scale=3.0)
    with pytest.raises(SgoolError, match=r"`trainer\.precision`: expected 32-true with networks in float16, got bf"):
        quiet_trainer(precision="bf16-mixed").predict(Vanilla(half), datamodule=data())


def test_pairs_that_cannot_be_bound_are_refused_before_the_first_network_call(parts: Parts) -> None:
    class OnlyCats:
        input_size, name = None, "cats"

        def targets(self, pairs: Sequence[PromptSeed]) -> Tensor:
            for pair in pairs:
                if pair.prompt != "a cat":
                    raise SgoolError(f"{pair.prompt} is no cat")
            return torch.zeros(len(pairs), 1)

        def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
            return views.mean(dim=(1, 2, 3))

    pairs, told = [PromptSeed(name) for name in ("a cat", "a dog", "a cow", "a cat")], Told()
    for module in (
        LatentPairModule(parts.chain, Objective({"cats": OnlyCats()})),
        BestOfN(parts.chain, Objective({"cats": OnlyCats()}), num_candidates=2),
    ):
        trainer = quiet_trainer([told])
        with pytest.raises(SgoolError, match=r"a dog is no cat\n- a cow is no cat"):
            (trainer.fit if module.makes_updates else trainer.predict)(module, datamodule=data(pairs))
    assert told.updates == []
    # A term that stops pairs is bound as well.
    with pytest.raises(SgoolError, match=r"a dog is no cat\n- a cow is no cat"):
        quiet_trainer([EarlyStop(OnlyCats(), 3), told]).fit(parts.module(), datamodule=data(pairs))
