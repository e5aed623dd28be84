"""Several devices: each works on pairs of its own, and nothing is synchronised between them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning_utilities.core.rank_zero import rank_zero_only as utils_rank_zero_only

from sgool.errors import SgoolError
from sgool.methods.quiet import quiet_lightning

#: PID:NUMBER, set in processes that a run has started: which of their parent's runs over several devices they are for.
_RUN_OF_PARENT = "SGOOL_RUN_OF_PARENT"
#: PID:NUMBER, how many such runs a process has begun. Processes inherit both from any ancestor, so each names its own.
_RUNS = "SGOOL_RUNS"
_LAUNCHED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class PairParallelStrategy(DDPStrategy):
    """Lightning's launcher, cluster environments and process group, and none of its synchronisation.

    DistributedDataParallel would give every rank rank 0's latents and average the gradients; both are wrong for
    problems that have nothing to do with each other. So the module is not wrapped, and during a fit each rank is a
    world of its own: rank 0 of 1, whose barriers, broadcasts and reductions end at once. Ranks may then make different
    numbers of fits, and one whose pair fails keeps nobody waiting.

    ``Trainer(strategy=PairParallelStrategy(), devices=8)``

    Args:
        process_group: Open a process group, so that metrics can be reduced over the ranks after the fits. Every rank
            then waits for all others to join. `sgool fit` does without: its ranks meet in the run folder.
        process_group_backend: gloo, on GPUs too, since only metrics on the CPU would travel.
    """

    strategy_name = "pair_parallel"

    def __init__(self, process_group: bool = True, process_group_backend: str = "gloo", **kwargs: Any) -> None:
        super().__init__(process_group_backend=process_group_backend, **kwargs)
        self._opens_group = process_group

    @property
    def pair_rank(self) -> int:
        """This process's rank among those that share the pairs."""
        assert self.cluster_environment is not None
        return self.cluster_environment.global_rank()

    @property
    def num_pair_ranks(self) -> int:
        """Processes that share the pairs."""
        return self.num_nodes * self.num_processes

    @property
    def global_rank(self) -> int:
        """0: of a fit's own world."""
        return 0

    @property
    def world_size(self) -> int:
        """1: of a fit's own world."""
        return 1

    @property
    def is_global_zero(self) -> bool:
        """True: each process writes its own logs and checkpoints."""
        return True

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """The whole data: it is the fit's updates."""
        return {"num_replicas": 1, "rank": 0}

    def setup_distributed(self) -> None:
        """Finds out which rank this is, and joins the process group, once in a process."""
        self.set_world_ranks()
        environment = self.cluster_environment
        assert environment is not None
        if not self._opens_group or torch.distributed.is_initialized():
            return
        os.environ.setdefault("MASTER_ADDR", environment.main_address)
        os.environ.setdefault("MASTER_PORT", str(environment.main_port))
        torch.distributed.init_process_group(
            self.process_group_backend, rank=self.pair_rank, world_size=self.num_pair_ranks
        )

    def set_world_ranks(self) -> None:
        """Tells the cluster environment the true ranks, and everything that asks for rank zero that this is it."""
        if self.cluster_environment is not None:
            self.cluster_environment.set_global_rank(self.node_rank * self.num_processes + self.local_rank)
            self.cluster_environment.set_world_size(self.num_pair_ranks)
        rank_zero_only.rank = utils_rank_zero_only.rank = 0  # type: ignore[attr-defined]

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def configure_ddp(self) -> None:
        """Leaves the module as it is."""

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Waits for nobody."""

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """The object."""
        return obj

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """The tensor."""
        return tensor

    def all_gather(self, tensor: torch.Tensor, group: Any = None, sync_grads: bool = False) -> torch.Tensor:
        """The tensor, of one rank."""
        return tensor[None]

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """The decision."""
        return decision


class _Launcher(_SubprocessScriptLauncher):
    """Lightning's, without the observer that kills all processes when one of them ends in another way than 0."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Starts the other processes of this node, unless somebody did, and calls the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        return function(*args, **kwargs)


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
        """``trainer`` with a strategy, which serves one trainer only."""
        return {**self.trainer, "strategy": PairParallelStrategy(process_group=False)}

    def forward(self, number: int) -> None:
        """Passes a signal on to the processes that this one started."""
        for child in self.children:
            child.send_signal(number)

    def wait(self) -> list[int]:
        """Waits for these processes; their exit codes, in the order of their local ranks from 1 on."""
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
    """Lightning's name of a device's kind."""
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
        assert isinstance(launcher, _Launcher)
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
