"""Two real processes over gloo: latents of their own, fits of their own, one mean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sgool.errors import SgoolError
from sgool.methods.strategy import PairParallelStrategy
from sgool.metrics.panel import aggregate
from sgool.run.world import World, join_world

_SCRIPT = '''
"""Rank 0 makes two fits and rank 1 three, of which one breaks; then both take means over what they have."""
import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from torch import nn

from sgool.metrics.panel import aggregate
from sgool.methods.strategy import PairParallelStrategy


class Latents(L.LightningModule):
    def __init__(self, start, broken=False):
        super().__init__()
        self.latents, self.broken = nn.Parameter(torch.full((4,), float(start))), broken

    def training_step(self, batch, index):
        if self.broken:
            raise RuntimeError("this pair breaks")
        return (self.latents**2).sum() / 2

    def configure_optimizers(self):
        return torch.optim.SGD([self.latents], lr=0.5)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(range(3), batch_size=None)


def main():
    out = Path(sys.argv[1])
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    found = []
    for start, broken in ((1, False), (2, False)) if rank == 0 else ((10, False), (20, True), (30, False)):
        module = Latents(start, broken)
        trainer = L.Trainer(max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                            enable_model_summary=False, use_distributed_sampler=False, accelerator="cpu",
                            devices=2, strategy=PairParallelStrategy())
        try:
            trainer.fit(module)
        except RuntimeError as error:
            found.append(str(error))
        else:
            found.append(module.latents.tolist())
        # Loggers and checkpoints are the first rank's; everything else is as in a world of one.
        assert trainer.is_global_zero == (rank == 0) and (trainer.global_rank, trainer.world_size) == (0, 1)
    rows = [{"score": 1.0, "first": 5.0}, {"score": 2.0}] if rank == 0 else [{"score": 6.0, "second": 7.0}]
    means = aggregate(rows, across_ranks=True)
    size = torch.distributed.get_world_size()
    (out / f"{rank}.json").write_text(json.dumps({"found": found, "means": means, "size": size}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


main()
'''


def test_each_rank_is_a_world_of_its_own_until_the_means(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    subprocess.run([sys.executable, str(tmp_path / "script.py"), str(tmp_path)], check=True, timeout=200)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    # Three steps of x - x / 2: synchronised gradients or broadcast parameters would mix the starts.
    assert first["found"] == [[0.125] * 4, [0.25] * 4]
    assert second["found"] == [[1.25] * 4, "this pair breaks", [3.75] * 4]
    rows = [{"score": 1.0, "first": 5.0}, {"score": 2.0}, {"score": 6.0, "second": 7.0}]
    assert first["means"] == second["means"] == aggregate(rows) == {"first": 5.0, "score": 3.0, "second": 7.0}
    assert first["size"] == second["size"] == 2


def test_during_a_fit_nothing_is_shared() -> None:
    strategy = PairParallelStrategy(process_group=False)
    assert (strategy.global_rank, strategy.world_size, strategy.is_global_zero) == (0, 1, True)
    strategy.barrier("anything")
    tensor = torch.ones(2)
    assert strategy.broadcast(tensor) is tensor and strategy.reduce(tensor) is tensor
    assert strategy.all_gather(tensor).shape == (1, 2)
    assert strategy.reduce_boolean_decision(True) is True and strategy.reduce_boolean_decision(False) is False
    assert strategy.distributed_sampler_kwargs == {"num_replicas": 1, "rank": 0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_devices_that_are_not_there() -> None:
    with pytest.raises(SgoolError, match=r"`trainer.devices` \[0, 1\] and `trainer.num_nodes` 1 do not fit"):
        join_world("gpu", [0, 1], 1)


def test_an_own_world_needs_no_strategy() -> None:
    world = World()
    assert (world.rank, world.size, world.device, world.wait()) == (0, 1, None, [])
    world.stop()


_TWO_RUNS = """
import sys
from sgool import fit

SMALL = ["experiment=demo", "methods=[vanilla]", "models.device=cpu", "trainer.threads=1", "trainer.pairs_per_fit=1",
         "sampler.num_inference_steps=2", "trainer.devices=2", "logger=none"]
if __name__ == "__main__":
    for name, number in (("first", 2), ("second", 3)):
        outcome = fit(*SMALL, f"run_dir={sys.argv[1]}/{name}", f"data.limit={number}")
        print(name, outcome.exit_code, len(outcome.records), outcome.new, flush=True)
"""


def test_a_script_may_run_over_several_devices_twice(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_TWO_RUNS)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    # What an ancestor has begun is none of theirs.
    environment = os.environ | {"SGOOL_RUNS": "1:7", "SGOOL_RUN_OF_PARENT": "1:3"}
    ended = subprocess.run(command, check=True, timeout=280, capture_output=True, text=True, env=environment)
    # Each run's own processes end with it; those of the second pass the first one by.
    assert sorted(ended.stdout.splitlines()) == ["first 0 2 0", "first 0 2 2", "second 0 3 3"]
