"""Trainer(devices=2, strategy="pair_parallel"): two real processes over gloo share the batches of one data module."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from sgool import Objective, PromptDataModule, PromptSeed, RunWriter, TextAlignment, default_callbacks, load_clip
from sgool.errors import SgoolError
from sgool.methods import BestOfN, ClipGuidance, LatentPairModule, PairModule, Vanilla
from sgool.methods.trainer_checks import check_trainer
from sgool.models.load import load_models
from sgool.objectives import CropSettings
from tests.fits import Told, chain_of

PROMPTS = ("a red cat", "two green trees", "a panda", "an elephant", "a yellow heart")
#: Three batches, the last one smaller.
PAIRS = [PromptSeed(prompt, index, index) for index, prompt in enumerate(PROMPTS)]
UPDATES = 3
STAGES = {"optimize": "fit", "vanilla": "predict", "best_of_n": "test", "clip_guidance": "predict"}
MEANS = ("judge/clip_score", "judge/clip_score_initial", "objective", "objective_initial")


def run_all(models: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Every method over the same data module; what this process has of its metrics and updates."""
    # The same in one process and in each of two, which share the machine's cores.
    torch.set_num_threads(1)
    chain = chain_of(load_models(models / "pipeline"), num_inference_steps=2, guidance_scale=3.0)
    objective = Objective({"text": TextAlignment(load_clip(str(models / "clip")))}, crops=CropSettings(num=2))
    judges = {"judge": load_clip(str(models / "judge"))}
    methods: dict[str, PairModule] = {
        "optimize": LatentPairModule(chain, objective, num_optimization_steps=UPDATES, judges=judges),
        "vanilla": Vanilla(chain, judges=judges),
        "best_of_n": BestOfN(chain, objective, num_candidates=2, judges=judges),
        "clip_guidance": ClipGuidance(chain, objective, clip_guidance_scale=5.0, judges=judges),
    }
    found = {}
    for name, module in methods.items():
        told, own = Told(), folder / name
        callbacks = [*default_callbacks(), RunWriter(own / "run"), told]
        trainer = trainer_of(own, callbacks, **options)
        getattr(trainer, STAGES[name])(module, datamodule=PromptDataModule(PAIRS, pairs_per_fit=2))
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        found[name] = {"metrics": metrics, "updates": len(told.updates)}
    return found


def trainer_of(folder: Path, callbacks: Any, **options: Any) -> L.Trainer:
    """Lightning's defaults, but for the folder and the bars."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    logger = CSVLogger(folder, "logs")
    return L.Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, logger=logger, **quiet, **options)


def main() -> None:
    """One of two processes: Lightning starts the second one with the same command."""
    models, folder = Path(sys.argv[1]), Path(sys.argv[2])
    two: dict[str, Any] = {"devices": 2, "strategy": "pair_parallel"}
    found = run_all(models, folder, **two)
    chain = chain_of(load_models(models / "pipeline"), num_inference_steps=2)
    try:
        trainer_of(folder / "few", [], **two).predict(
            Vanilla(chain), datamodule=PromptDataModule(PAIRS[:2], pairs_per_fit=2)
        )
    except SgoolError as error:
        found["few"] = str(error)
    rank = os.environ.get("LOCAL_RANK", "0")
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def content(folder: Path) -> dict[str, Any]:
    """All files of all pairs; records without what is the machine's."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.glob("*/run/pairs/**/*") if path.is_file()):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes()
        if path.name == "record.json":
            record = json.loads(found[name])
            found[name] = {k: v for k, v in record.items() if k not in ("seconds", "peak_memory_mib")}
    return found


def logged(folder: Path) -> list[dict[str, str]]:
    """The rows of the one metrics.csv below a folder, without empty cells."""
    (file,) = folder.rglob("metrics.csv")
    with file.open(encoding="utf-8") as lines:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(lines)]


def start(*command: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def models(
    pipeline_folder: Path, clip_folder: Path, wordpiece_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("pipeline", pipeline_folder), ("clip", clip_folder), ("judge", wordpiece_folder)):
        (folder / name).symlink_to(model)
    return folder


def test_two_processes_share_the_pairs_and_have_the_means_of_one(models: Path, tmp_path: Path) -> None:
    process = start("-m", "tests.methods.test_lightning_ranks", str(models), str(tmp_path / "two"))
    threads = torch.get_num_threads()
    try:
        whole = run_all(models, tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    ranks = [json.loads((tmp_path / f"two/{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert content(tmp_path / "two") == content(tmp_path / "one")
    for name, stage in STAGES.items():
        first, second = (rank[name] for rank in ranks)
        with (tmp_path / "two" / name / "run/results.csv").open(encoding="utf-8") as file:
            assert sorted(row["pair_id"] for row in csv.DictReader(file)) == sorted(pair.pair_id for pair in PAIRS)
        # The first and the last of three batches are the first process's.
        assert first["updates"] == 2 * second["updates"]
        assert first["updates"] + second["updates"] == whole[name]["updates"]
        rows, expected = logged(tmp_path / "two" / name), logged(tmp_path / "one" / name)  # the first rank's alone
        names = MEANS[:2] if name == "vanilla" else MEANS
        assert [rows[-1][key] for key in names] == [expected[-1][key] for key in names]
        if stage != "predict":  # of which Lightning has no metrics
            for key in names:
                assert first["metrics"][key] == second["metrics"][key] == whole[name]["metrics"][key]
    curves = [row for row in logged(tmp_path / "two/optimize") if "loss" in row]
    assert [int(row["step"]) for row in curves] == list(range(2 * UPDATES))
    for rank in ranks:
        assert rank["few"].startswith("`devices`: expected at most one process a batch, got 2 for 1 batches of up to 2")


def test_another_strategy_is_refused() -> None:
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, max_epochs=1)
    message = "`strategy`: expected pair_parallel on 2 processes, got DDPStrategy: it would give all of them the same"
    for stage in ("fit", "predict", "test"):
        with pytest.raises(SgoolError, match=message):
            check_trainer(trainer, stage, torch.device("cpu"))


_DDP = """
import sys
import lightning as L
from sgool import PromptDataModule, PromptSeed, Vanilla
from tests.fits import chain_of
from sgool.models.load import load_models

data = PromptDataModule([PromptSeed(text) for text in ("a cat", "a dog")], pairs_per_fit=1)
trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
trainer.predict(Vanilla(chain_of(load_models(sys.argv[1]))), datamodule=data)
"""


@pytest.mark.slow
def test_another_strategy_does_not_hang(pipeline_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_DDP, encoding="utf-8")
    process = start(str(tmp_path / "script.py"), str(pipeline_folder))
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "`strategy`: expected pair_parallel on 2 processes, got DDPStrategy" in errors


if __name__ == "__main__":
    main()
