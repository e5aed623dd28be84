"""Trainer(devices=2): two real processes over gloo share the batches of one data module."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = '''
"""What a user writes: `python script.py FOLDER WHAT DEVICES STRATEGY`; Lightning starts the second process."""
import json
import os
import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger

from sgool import (BestOfN, Chain, ClipGuidance, LatentPairModule, Objective, PromptDataModule, PromptSeed, RunWriter,
                   TextAlignment, Vanilla, default_callbacks, load_clip)
from sgool.objectives import CropSettings
from tests.fits import Told


def main():
    folder, what, devices, strategy, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
    models = folder.parent / "models"
    prompts = ["a red cat", "two green trees", "a panda", "an elephant", "a yellow heart"]
    pairs = [PromptSeed(prompt, index, index) for index, prompt in enumerate(prompts[: int(number)])]
    chain = Chain.from_pretrained(models / "pipeline", num_inference_steps=2, guidance_scale=3)
    objective = Objective({"text": TextAlignment(load_clip(str(models / "clip")))}, crops=CropSettings(num=2))
    judges = {"judge": load_clip(str(models / "judge"))}
    module = {
        "fit": lambda: LatentPairModule(chain, objective, num_optimization_steps=3, judges=judges),
        "vanilla": lambda: Vanilla(chain, judges=judges),
        "best_of_n": lambda: BestOfN(chain, objective, num_candidates=2, judges=judges),
        "clip_guidance": lambda: ClipGuidance(chain, objective, clip_guidance_scale=5.0, judges=judges),
    }[what.removesuffix("-test")]()
    told = Told()
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", devices=devices, strategy=strategy, logger=CSVLogger(folder),
        callbacks=[*default_callbacks(), RunWriter(folder / "run"), told], default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
    )
    data = PromptDataModule(pairs, pairs_per_fit=2)
    stage = "fit" if what == "fit" else "test" if what.endswith("-test") else "predict"
    getattr(trainer, stage)(module, datamodule=data)
    rank = os.environ.get("LOCAL_RANK", "0")
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (folder / f"{rank}.json").write_text(json.dumps({"metrics": values, "updates": len(told.updates)}))


main()
'''

MEANS = ("judge/clip_score", "judge/clip_score_initial", "objective", "objective_initial")


@pytest.fixture(scope="module")
def place(
    pipeline_folder: Path, clip_folder: Path, wordpiece_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the script and the models."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "script.py").write_text(_SCRIPT, encoding="utf-8")
    (folder / "models").mkdir()
    for name, model in (("pipeline", pipeline_folder), ("clip", clip_folder), ("judge", wordpiece_folder)):
        (folder / "models" / name).symlink_to(model)
    return folder


def start(place: Path, name: str, what: str, devices: int, strategy: str, pairs: int = 5) -> subprocess.Popen[str]:
    folder = place / name
    folder.mkdir()
    # Two processes and their parent on the machine's cores: one thread each, and the same one as in one process.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(place / "script.py"), str(folder), what, str(devices), strategy, str(pairs)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def done(place: Path, name: str, *arguments: Any) -> Path:
    process = start(place, name, *arguments)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    return place / name


def content(folder: Path) -> dict[str, Any]:
    """All files of all pairs; records without what is the machine's."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.glob("run/pairs/**/*") if path.is_file()):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes()
        if path.name == "record.json":
            record = json.loads(found[name])
            found[name] = {k: v for k, v in record.items() if k not in ("seconds", "peak_memory_mib")}
    return found


def logged(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.rglob("metrics.csv")
    with file.open(encoding="utf-8") as lines:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(lines)]


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "0.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("what", ["fit", "vanilla", "best_of_n-test", "clip_guidance"])
def test_two_processes_share_the_pairs_and_have_the_means_of_one(place: Path, what: str) -> None:
    one = done(place, f"one-{what}", what, 1, "auto")
    two = done(place, f"two-{what}", what, 2, "pair_parallel")
    assert content(two) == content(one)
    with (two / "run/results.csv").open(encoding="utf-8") as file:
        assert len({row["pair_id"] for row in csv.DictReader(file)}) == 5
    first, second = (json.loads((two / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    whole = results_of(one)
    # Three batches: the first and the last one are the first process's.
    assert first["updates"] == 2 * second["updates"] and first["updates"] + second["updates"] == whole["updates"]
    # Loggers are the first rank's.
    rows, expected = logged(two), logged(one)
    names = [name for name in MEANS if name in expected[-1]]
    assert len(names) == (2 if what == "vanilla" else 4)
    assert {name: rows[-1][name] for name in names} == {name: expected[-1][name] for name in names}
    if what != "vanilla" and what != "clip_guidance":  # Lightning has no metrics of predictions
        for name in names:
            assert first["metrics"][name] == second["metrics"][name] == whole["metrics"][name]
    if what == "fit":
        curves = [row for row in rows if "loss" in row]
        assert [row["batch"] for row in curves] == [
            row["batch"] for row in expected if row.get("batch") in ("0.0", "1.0")
        ]
        assert len(curves) == first["updates"] == 6


def test_more_processes_than_batches_is_refused(place: Path) -> None:
    process = start(place, "few", "fit", 2, "pair_parallel", 2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "`devices`: expected at most one process a batch, got 2 for 1 batches of up to 2 pairs" in errors


def test_another_strategy_is_refused(place: Path) -> None:
    process = start(place, "ddp", "fit", 2, "ddp")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "`strategy`: expected pair_parallel on 2 processes, got DDPStrategy: it would give all of them" in errors
    assert not list((place / "ddp").rglob("record.json"))
