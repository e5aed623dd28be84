"""The device that networks go to where nobody says one."""

from __future__ import annotations

import os

import torch


def best_device() -> torch.device:
    """Returns the accelerator that Lightning's ``accelerator="auto"`` takes, else the CPU.

    Of several processes on a machine, each gets the CUDA device of its ``LOCAL_RANK``.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
