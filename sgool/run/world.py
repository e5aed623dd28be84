"""The processes that share a run's pairs: who starts them, and what one of them knows of the others."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from sgool.errors import SgoolError
from sgool.methods.strategy import PairLauncher, PairParallelStrategy
from sgool.run.quiet import quiet_lightning

#: PID:NUMBER, set in processes that a run has started: which of their parent's runs over several devices they are for.
_RUN_OF_PARENT = "SGOOL_RUN_OF_PARENT"
#: PID:NUMBER, how many such runs a process has begun. Processes inherit both from any ancestor, so each names its own.
_RUNS = "SGOOL_RUNS"
_LAUNCHED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class World:
    """The processes that share a run's pairs, seen from one of them.

    Attributes:
        rank: Of this process.
        size: How many there are.
        device: That of this process, or None where the configuration decides.
        trainer: Keyword arguments of ``lightning.Trainer`` that put a fit into this world.
        children: Processes that this one started.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    trainer: Mapping[str, Any] = field(default_factory=dict)
    children: list[Any] = field(default_factory=list)

    def trainer_options(self) -> dict[str, Any]:
        """Returns ``trainer`` with a new strategy: one serves a single Trainer."""
        return {**self.trainer, "strategy": PairParallelStrategy(process_group=False)}

    def forward(self, number: int) -> None:
        """Passes a signal on to the processes that this one started."""
        for child in self.children:
            child.send_signal(number)

    def wait(self) -> list[int]:
        """Waits for these processes and returns their exit codes, in the order of their local ranks from 1 on."""
        codes = [child.wait() for child in self.children]
        if self.children:
            for name in _LAUNCHED:  # else a later run of this process would take itself for one of several
                os.environ.pop(name, None)
        return codes

    def stop(self) -> None:
        """Asks these processes to end, and waits until they have saved what is under way."""
        self.forward(signal.SIGTERM)
        self.wait()


def accelerator_of(device: torch.device) -> str:
    """Returns Lightning's name of a device's kind."""
    return {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[device.type]


def is_launched() -> bool:
    """Whether a run in another process has started this one."""
    return _number(_RUN_OF_PARENT, os.getppid()) > 0


def join_world(accelerator: str, devices: int | list[int], num_nodes: int) -> World | None:
    """Starts the processes of this node, where no cluster or torchrun has.

    Each of them runs the whole command (or script) again and comes to this call. Nobody waits for anybody.

    Args:
        accelerator: Lightning's name: cpu, gpu or mps.
        devices: Their number on each node, or a list of device numbers.
        num_nodes: Nodes.

    Returns:
        None in a process that was started for a later run of its script than this one.

    Raises:
        SgoolError: There are fewer devices, or the cluster has started another number of processes.
    """
    number = _number(_RUNS, os.getpid()) + 1
    os.environ[_RUNS] = f"{os.getpid()}:{number}"
    if is_launched():
        if number < _number(_RUN_OF_PARENT, os.getppid()):
            return None
        _end_with_parent()
    options: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes}
    strategy = PairParallelStrategy(process_group=False)
    # Of this trainer nothing is used but its way from options to devices, cluster environment and launcher.
    try:
        with quiet_lightning():
            L.Trainer(strategy=strategy, logger=False, enable_checkpointing=False, **options)
        launcher = strategy.launcher
        assert isinstance(launcher, PairLauncher)
        with _named_children(number):
            launcher.launch(strategy.setup_environment)
    except (MisconfigurationException, ValueError) as error:
        raise SgoolError(
            f"`trainer.devices` {devices} and `trainer.num_nodes` {num_nodes} do not fit this machine or job: {error}"
        ) from error
    return World(strategy.pair_rank, strategy.num_pair_ranks, strategy.root_device, options, launcher.procs)


@contextmanager
def _named_children(number: int) -> Iterator[None]:
    """Processes started in the block know which run of this process they are for."""
    if is_launched():
        yield
        return
    os.environ[_RUN_OF_PARENT] = f"{os.getpid()}:{number}"
    try:
        yield
    finally:
        del os.environ[_RUN_OF_PARENT]


def _number(name: str, pid: int) -> int:
    """The number in PID:NUMBER if it is of this process, else 0."""
    whose, _, number = os.environ.get(name, "").partition(":")
    return int(number) if whose == str(pid) else 0


def _end_with_parent() -> None:
    """On Linux: a process that lost its parent stops as if it were asked to, instead of keeping its GPU."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
