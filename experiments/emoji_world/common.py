"""What every training stage shares: procedural batches, the Lightning trainer, resuming, small logs."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

WORK = Path("runs/emoji_world")


class Steps(Dataset):
    """Step numbers; each stage paints the batch of a step from (seed, step), so that a resumed run sees the same."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> int:
        return index


class Stage(L.LightningModule):
    """One network trained for ``max_steps`` on batches made by ``batch(rng)``, with warm-up and cosine decay."""

    def __init__(self, *, max_steps: int, lr: float, seed: int, warmup: int = 200, weight_decay: float = 0.01) -> None:
        super().__init__()
        self.max_steps, self.lr, self.seed = max_steps, lr, seed
        self.warmup, self.weight_decay = warmup, weight_decay

    def batch(self, rng: np.random.Generator) -> tuple:
        """The batch of one step."""
        raise NotImplementedError

    def loss(self, *batch: object) -> dict[str, Tensor]:
        """Named values; ``loss`` is minimised."""
        raise NotImplementedError

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Paints the batch of the current global step and returns its loss."""
        values = self.loss(*self.batch(np.random.default_rng([self.seed, self.global_step])))
        self.log_dict({k: v.detach().float() for k, v in values.items()})
        return values["loss"]

    def configure_optimizers(self) -> dict:
        """AdamW without decay on biases and norms."""
        params = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in params if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98))

        def factor(step: int) -> float:
            decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.max_steps)))
            return min(1.0, (step + 1) / self.warmup) * (0.02 + 0.98 * decay)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader:
        """Step numbers."""
        return DataLoader(Steps(self.max_steps), batch_size=1)


def fit(stage: Stage, name: str, *, precision: str = "bf16-mixed", ema: float = 0.999) -> nn.Module:
    """Trains (or goes on training) a stage; checkpoints every two minutes under ``runs/emoji_world/NAME``."""
    folder = WORK / name
    last = folder / "last.ckpt"
    checkpoint = ModelCheckpoint(
        dirpath=folder, filename="last", save_top_k=1, train_time_interval=timedelta(minutes=2), enable_version_counter=False
    )
    # One log a piece: CSVLogger deletes what it finds under the same version.
    piece = len(list(folder.glob("log*")))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_steps=stage.max_steps,
        max_epochs=-1,
        logger=CSVLogger(folder, name="", version=f"log{piece}"),
        callbacks=[checkpoint, EMAWeightAveraging(decay=ema)],
        gradient_clip_val=1.0,
        log_every_n_steps=50,
        enable_progress_bar=True,
        enable_model_summary=False,
    )
    trainer.fit(stage, ckpt_path=str(last) if last.is_file() else None)
    trainer.save_checkpoint(last)
    refresh_batch_norm(stage)
    return stage


@torch.no_grad()
def refresh_batch_norm(stage: Stage, batches: int = 24) -> None:
    """Measures the batch norms' statistics anew for the averaged weights, over batches that training did not see.

    The running statistics belong to the weights as they were under way: with averaged weights they are off enough to
    cost a third of the accuracy.
    """
    norms = [m for m in stage.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    stage.train()
    for index in range(batches):
        stage.loss(*stage.batch(np.random.default_rng([stage.seed, 10**9 + index])))
    stage.eval()


def images_to_tensor(images: list[np.ndarray]) -> Tensor:
    """uint8 images (H, W, 3) to a channels-last float tensor (B, 3, H, W) in [0, 1]."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return batch.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per image, for values in [0, 1]."""
    return -10 * torch.log10((image - target).square().flatten(1).mean(1).clamp_min(1e-12))


def scenes_batch(
    painter: object, rng: np.random.Generator, number: int, sample: Callable
) -> tuple[list, Tensor]:
    """``number`` scenes from ``sample(rng)`` and their images (B, 3, 64, 64)."""
    scenes = [sample(rng) for _ in range(number)]
    return scenes, images_to_tensor([painter.paint(scene, rng).image for scene in scenes])  # type: ignore[attr-defined]
