"""Silences what a library would say at each of thousands of fits."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silences Lightning's hints and warnings; errors still show."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # Where SLURM is installed, Lightning takes every run outside of srun for a mistake.
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
