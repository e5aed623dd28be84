"""The panel's means in Lightning's log, and over two real processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from sgool.metrics import JudgePanel, LatentNorm, Psnr, Ssim
from sgool.metrics.panel import aggregate
from sgool.metrics.reader import Detection, SceneReading
from sgool.types import PromptSeed


class Judged(L.LightningModule):
    """Judges two random pairs a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1))
        self.panel = JudgePanel({"v1.5": [Psnr(), Ssim()]})
        self.rows: list[dict[str, float]] = []

    def _judge(self, seed: int) -> None:
        first, final = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        self.rows += self.panel.judge(first, final, [PromptSeed("a", 0)] * 2)

    def training_step(self, batch: int, index: int) -> torch.Tensor:
        self._judge(int(batch))
        return self.latents.sum()

    def test_step(self, batch: int, index: int) -> None:
        self._judge(int(batch))

    def _log(self) -> None:
        for name, metric in self.panel.named_metrics().items():
            self.log(name, metric)

    on_train_epoch_end = on_test_epoch_end = _log

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.latents], lr=0.0)


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, **(quiet | options))


def loader(*seeds: int) -> Any:
    return torch.utils.data.DataLoader(list(seeds), batch_size=None)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have", "ignore:The 'test_dataloader' does not have")
@pytest.mark.parametrize("how", ["fit", "test"])
def test_the_means_stand_in_lightning_s_log(how: str, tmp_path: Path) -> None:
    module = Judged()
    fit = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    getattr(fit, how)(module, loader(1, 2, 3))
    means = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert set(means) == {"v1.5/psnr", "v1.5/ssim"}
    assert len(module.rows) == 6 and means == pytest.approx(aggregate(module.rows), rel=1e-15)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have")
def test_a_checkpoint_resumes_the_means(tmp_path: Path) -> None:
    """As a run that is stopped between two batches."""
    began, resumed = Judged(), Judged()
    began._judge(1)
    fit = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    fit.strategy.connect(began)
    fit.save_checkpoint(tmp_path / "began.ckpt")
    go_on = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    go_on.fit(resumed, loader(2), ckpt_path=tmp_path / "began.ckpt")
    means = {name: float(value) for name, value in go_on.callback_metrics.items()}
    assert means == pytest.approx(aggregate(began.rows + resumed.rows), rel=1e-15)


class AlwaysACat:
    def read(self, images: torch.Tensor) -> list[SceneReading]:
        return [SceneReading((Detection("cat", "natural", 32, 32, 0.9),), "white") for _ in images]


def judged(indices: Sequence[int]) -> JudgePanel:
    """A panel that has judged some of six pairs, one by one; the last three have no scene."""
    reader: Any = AlwaysACat()
    panel = JudgePanel({"j": [Psnr(), Ssim(), LatentNorm()]}, reader)
    for index in indices:
        generator = torch.Generator().manual_seed(index)
        first, final = torch.rand(2, 1, 3, 32, 32, generator=generator)
        scene = {"objects": [{"noun": "cat" if index else "dog"}]} if index < 3 else {}
        kept, began = torch.randn(2, 1, 4, 4, 4, generator=generator)
        panel.judge(first, final, [PromptSeed("a", index, metadata={"scene": scene})], [(began, kept)])
    return panel


def means_of(panel: JudgePanel) -> dict[str, str]:
    return {name: metric.compute().item().hex() for name, metric in panel.named_metrics().items()}


_SCRIPT = """
import json, sys
from pathlib import Path
import torch
from tests.metrics.test_logging import judged, means_of

out, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
panel = judged([[0, 1, 2, 5], [3, 4]][rank])
means = means_of(panel)
own = int(panel.named_metrics()["j/psnr"].number)
with_an_idle_rank = means_of(judged([[0, 1, 2, 3, 4, 5], []][rank]))
(out / f"{rank}.json").write_text(json.dumps([means, with_an_idle_rank, own]))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_have_the_means_of_one_to_the_last_bit(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([*command, rank], env=environment, cwd=root) for rank in ("0", "1")]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    alone = means_of(judged(range(6)))
    assert alone["scene_accuracy"] == (2 / 3).hex() and alone["scene/colours"] == "nan"
    # Afterwards each rank has its own sums again.
    for rank, number in enumerate((4, 2)):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [alone, alone, number]
