"""What every training stage shares: procedural batches, the Lightning trainer, resuming, small logs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

CHECKPOINT = "last.ckpt"
REFRESHED = "refreshed.pt"


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
        self.step = 0  #: The step whose batch is made; Lightning's global_step is 0 without a trainer.

    def batch(self, rng: np.random.Generator) -> tuple:
        """The batch of one step."""
        raise NotImplementedError

    def loss(self, *batch: object) -> dict[str, Tensor]:
        """Named values; ``loss`` is minimised."""
        raise NotImplementedError

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Paints the batch of the current global step and returns its loss."""
        self.step = self.global_step
        values = self.loss(*self.batch(np.random.default_rng([self.seed, self.step])))
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


class Snapshots(Callback):
    """Saves a checkpoint after each of the given steps: {step: file}.

    Within training, because Lightning's averaging overwrites the raw weights when training ends: a checkpoint saved
    after that could not be trained further as if nothing had happened.
    """

    def __init__(self, files: Mapping[int, Path]) -> None:
        self._files = dict(files)

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        """Saves, if this step is one of them."""
        file = self._files.get(trainer.global_step)
        if file is not None:
            trainer.save_checkpoint(file)


def fit(
    stage: Stage,
    folder: Path,
    *,
    precision: str = "bf16-mixed",
    ema: float = 0.999,
    snapshots: Mapping[int, str] | None = None,
) -> Stage:
    """Trains a stage, or goes on from ``folder/last.ckpt``, which is written every two minutes and at the end.

    Args:
        stage: What to train; a checkpoint with ``stage.max_steps`` steps or more is not trained further.
        folder: Of its checkpoints and logs.
        precision: Lightning's name.
        ema: Decay of the averaged weights.
        snapshots: Step -> name of a further checkpoint to keep in ``folder``.

    Returns:
        The stage with averaged weights and refreshed batch norms, in evaluation mode; ``folder/refreshed.pt`` has its
        state dict.
    """
    last = folder / CHECKPOINT
    if not last.is_file() or load_checkpoint(last)["global_step"] < stage.max_steps:
        (folder / REFRESHED).unlink(missing_ok=True)  # of fewer steps
        files = {step: folder / name for step, name in (snapshots or {}).items()}
        trainer = _trainer(stage.max_steps, folder, precision, ema, {**files, stage.max_steps: last})
        # The backward pass of fused attention is slow on CPU: it took a third of the time of small networks.
        with sdpa_kernel(SDPBackend.MATH):
            trainer.fit(stage, ckpt_path=str(last) if last.is_file() else None, weights_only=False)
    # From the file and not from the trainer: the averaged weights also if there was nothing left to train.
    stage.load_state_dict(load_checkpoint(last)["state_dict"])
    refresh_batch_norm(stage)
    save_atomically(stage.state_dict(), folder / REFRESHED)
    return stage.eval()


def _trainer(max_steps: int, folder: Path, precision: str, ema: float, files: Mapping[int, Path]) -> L.Trainer:
    # Here, so that all but training works with Lightning 2.5, which sgool allows.
    from lightning.pytorch.callbacks import EMAWeightAveraging

    checkpoint = ModelCheckpoint(
        dirpath=folder,
        filename=Path(CHECKPOINT).stem,
        save_top_k=1,
        train_time_interval=timedelta(minutes=2),
        enable_version_counter=False,
    )
    # One log a piece: CSVLogger deletes what it finds under the same version.
    piece = len(list(folder.glob("log*")))
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_steps=max_steps,
        max_epochs=-1,
        logger=CSVLogger(folder, name="", version=f"log{piece}"),
        callbacks=[checkpoint, EMAWeightAveraging(decay=ema), Snapshots(files)],
        gradient_clip_val=1.0,
        log_every_n_steps=min(50, max_steps),
        enable_progress_bar=True,
        enable_model_summary=False,
    )


def load_checkpoint(file: Path) -> dict:
    """A Lightning checkpoint that this machine wrote (pickled: load no others)."""
    return torch.load(file, map_location="cpu", weights_only=False)


def trained_state(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Averaged weights of a stage's network (``prefix`` "clip.", "unet.", ...), batch norms refreshed where stored.

    Raises:
        FileNotFoundError: Neither refreshed.pt nor last.ckpt is there.
    """
    refreshed = folder / REFRESHED
    if refreshed.is_file():
        state = torch.load(refreshed, map_location="cpu", weights_only=True)
    else:
        state = load_checkpoint(folder / CHECKPOINT)["state_dict"]
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def save_atomically(value: object, file: Path) -> None:
    """`torch.save` that leaves no half-written file behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".tmp")
    torch.save(value, temporary)
    os.replace(temporary, file)


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
    stage.step = stage.max_steps
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
    painter: Any, rng: np.random.Generator, number: int, sample: Callable[[np.random.Generator], Any]
) -> tuple[list, Tensor]:
    """``number`` scenes from ``sample(rng)`` and their images (B, 3, H, W) by ``painter.paint(scene, rng)``."""
    scenes = [sample(rng) for _ in range(number)]
    return scenes, images_to_tensor([painter.paint(scene, rng).image for scene in scenes])
