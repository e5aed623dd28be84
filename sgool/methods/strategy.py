"""Several devices: each works on pairs of its own, and nothing is synchronised between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy, StrategyRegistry
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning_utilities.core.rank_zero import rank_zero_only as utils_rank_zero_only


class PairParallelStrategy(DDPStrategy):
    """Lightning's launcher, cluster environments and process group, and none of its synchronisation.

    DistributedDataParallel would give every rank rank 0's latents and average the gradients; both are wrong for
    problems that have nothing to do with each other. So the module is not wrapped, and during a fit each rank is a
    world of its own: rank 0 of 1, whose barriers, broadcasts and reductions end at once. Ranks may then make different
    numbers of updates, and one whose pair fails keeps nobody waiting.

    ``Trainer(strategy="pair_parallel", devices=8)``: `sgool.PromptDataModule` shares its batches among the ranks.

    Args:
        process_group: Open a process group, so that torchmetrics reduces the judges' means over the ranks at the end
            of the epoch. Every rank waits there for all others. Loggers and Lightning's checkpoints are those of the
            first rank. Without it each rank is a run of its own, with its own loggers; `sgool fit` does so, since its
            ranks meet in the run folder.
        process_group_backend: gloo, on GPUs too, since only metrics on the CPU travel.

    Examples:
        >>> import lightning as L
        >>> from sgool import PairParallelStrategy
        >>> trainer = L.Trainer(strategy=PairParallelStrategy(), accelerator="cpu", devices=2, logger=False)
        >>> trainer.strategy.num_pair_ranks  # each has pairs of its own
        2
    """

    strategy_name = "pair_parallel"

    def __init__(self, process_group: bool = True, process_group_backend: str = "gloo", **kwargs: Any) -> None:
        super().__init__(process_group_backend=process_group_backend, **kwargs)
        self._opens_group = process_group

    @property
    def pair_rank(self) -> int:
        """Rank of this process among those that share the pairs."""
        assert self.cluster_environment is not None
        return self.cluster_environment.global_rank()

    @property
    def num_pair_ranks(self) -> int:
        """Number of processes that share the pairs."""
        return self.num_nodes * self.num_processes

    @property
    def global_rank(self) -> int:
        """Always 0, since each rank is a world of its own during a fit."""
        return 0

    @property
    def world_size(self) -> int:
        """Always 1, since each rank is a world of its own during a fit."""
        return 1

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes logs and checkpoints: with a process group the first rank alone does."""
        return not self._opens_group or self.pair_rank == 0

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Tells samplers to serve the whole data; `sgool.PromptDataModule` shares it by `pair_rank`."""
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
        """Tells the cluster environment the true ranks, and those who ask for rank zero whether this is it."""
        if self.cluster_environment is not None:
            self.cluster_environment.set_global_rank(self.node_rank * self.num_processes + self.local_rank)
            self.cluster_environment.set_world_size(self.num_pair_ranks)
        rank = self.pair_rank if self._opens_group else 0
        rank_zero_only.rank = utils_rank_zero_only.rank = rank  # type: ignore[attr-defined]

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = PairLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup(self, trainer: Trainer) -> None:
        """As on one device: DDP would wrap the module, and give it the first rank's values before a prediction."""
        Strategy.setup(self, trainer)

    def _setup_model(self, model: torch.nn.Module) -> Any:
        return model

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Does not wait for other ranks."""

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Returns the object unchanged; nothing is sent."""
        return obj

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Returns the tensor unchanged; nothing is reduced."""
        return tensor

    def all_gather(self, tensor: torch.Tensor, group: Any = None, sync_grads: bool = False) -> torch.Tensor:
        """Returns the tensor of this rank alone, with a first dimension of 1."""
        return tensor[None]

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Returns this rank's own decision."""
        return decision


class PairLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of processes, without the observer that kills all of them when one ends badly."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Starts the other processes of this node, unless somebody did, and calls the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        return function(*args, **kwargs)


# By its name it can be asked for as any of Lightning's own.
StrategyRegistry.register(
    PairParallelStrategy.strategy_name,
    PairParallelStrategy,
    description="Each process works on prompt-seed pairs of its own; nothing is synchronised.",
    override=True,
)
