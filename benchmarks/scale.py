"""What running many pairs costs: ranks against threads, pairs side by side, Lightning, and a scan of finished pairs.

python benchmarks/scale.py [TABLE ...] [--pairs N] [--updates N] [--records N]

Tables: ranks, batches, overhead, resume. All on the embedded model and the CPU, in about ten minutes on two cores;
each table compares within one run, so that ratios do not depend on the machine's load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from sgool.loggers import Process
from sgool.methods.latent_pairs import LatentPairModule
from sgool.prompts import load_pairs
from sgool.prompts.batches import PairBatch, in_batches
from sgool.prompts.seeding import pair_generator
from sgool.results import RunFolder
from sgool.run.config import load_config, to_plain
from sgool.run.fit import run_experiment
from sgool.run.interrupt import Interrupt
from sgool.run.parts import Parts
from sgool.run.progress import Progress
from sgool.run.work import Worker
from sgool.types import PairRecord, PromptSeed

Rows = Iterator[dict[str, Any]]
PROMPTS = "emoji_world/heldout"


def ranks(arguments: argparse.Namespace) -> Rows:
    """Pairs an hour: one process with two threads, two processes with one each, and one with one."""
    kinds = {
        "1 process x 1 thread": (1, 1),
        "1 process x 2 threads": (1, 2),
        "2 ranks x 1 thread": (2, 1),
    }
    number = max(4, arguments.pairs // 4 * 4)
    base = _fit_seconds(0, 1, 1, arguments)
    for name, (processes, threads) in kinds.items():
        start = base if processes == 1 else _fit_seconds(0, processes, threads, arguments)
        seconds = _fit_seconds(number, processes, threads, arguments) - start
        yield {"": name, "start, s": start, "pairs/h after it": 3600 * number / seconds}


def _fit_seconds(pairs: int, processes: int, threads: int, arguments: argparse.Namespace) -> float:
    """Wall seconds of ``sgool fit``; with 0 pairs of one whose work is a single plain image per process."""
    with tempfile.TemporaryDirectory() as folder:
        methods = ["methods=[doodl]", f"data.limit={pairs}"]
        if not pairs:
            methods = ["methods=[vanilla]", f"data.limit={processes}"]
        command = [sys.executable, "-m", "sgool", "fit", f"data.prompts={PROMPTS}", f"run_dir={folder}", *methods]
        command += [f"trainer.devices={processes}", f"trainer.threads={threads}", "trainer.pairs_per_fit=1"]
        command += ["models.device=cpu", "logger=none", f"optimization.num_optimization_steps={arguments.updates}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        began = time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


def batches(arguments: argparse.Namespace) -> Rows:
    """CPU seconds a pair with 1, 2, 4 and 8 pairs in a fit, on one thread."""
    torch.set_num_threads(1)
    bench, first = _Bench(arguments), None
    for size in (1, 2, 4, 8):
        seconds = min(bench.run(8, size)[0] for _ in range(2))
        first = first or seconds
        yield {"pairs_per_fit": size, "s a pair": seconds / 8, "against 1": seconds / first}


def overhead(arguments: argparse.Namespace) -> Rows:
    """CPU seconds an update by `sgool fit` (queue, Lightning, callbacks, logs, run folder), and by a bare loop."""
    torch.set_num_threads(1)
    bench, number = _Bench(arguments), 2
    runs: dict[str, Callable[[], tuple[float, list[Tensor]]]] = {
        "bare loop": lambda: bench.bare(number),
        "sgool fit": lambda: bench.run(number, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    ends: dict[str, list[Tensor]] = {}
    for repeat in range(arguments.repeats):
        for name in reversed(runs) if repeat % 2 else runs:
            found, ends[name] = runs[name]()
            seconds[name].append(found / arguments.updates / number)
    assert all(map(torch.equal, ends["bare loop"], ends["sgool fit"])), "both do the same"
    least = {name: min(values) for name, values in seconds.items()}
    for name, value in least.items():
        spread = statistics.median(seconds[name]) / value - 1
        yield {"": name, "ms an update": 1000 * value, "median above": spread, "ratio": value / least["bare loop"]}


def resume(arguments: argparse.Namespace) -> Rows:
    """Seconds of a ``run_experiment`` that finds all its pairs finished."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "many.txt"
        prompts.write_text("".join(f"prompt number {index}\n" for index in range(arguments.records)))
        lines = [f"run_dir={folder}/run", f"data.prompts={prompts}", "methods=[doodl]", "models.device=cpu"]
        config = load_config(lines)
        run = RunFolder(f"{folder}/run").open(to_plain(config), device="cpu")
        for pair in load_pairs(prompts):
            run.write(_record(pair))
        for name in ("first", "again"):
            began = time.perf_counter()
            outcome = run_experiment(config)
            assert outcome.new == 0 and len(outcome.records) == arguments.records
            yield {"scan": name, "records": arguments.records, "s": time.perf_counter() - began}


class _Bench:
    """DOODL's method of a run, and the same updates in a bare loop; the networks are loaded once.

    Args:
        arguments: Of the command: ``updates``.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        lines = ["models.device=cpu", "methods=[doodl]", "optimization=doodl", "logger=csv", "trainer.threads=1"]
        lines += [f"data.prompts={PROMPTS}", "data.limit=8", "objective.crops.num=8", "trainer.precision=32-true"]
        lines += [f"optimization.num_optimization_steps={arguments.updates}"]
        self._config = to_plain(load_config(lines))
        # Without judges: they score a finished pair, which is no update.
        self._parts = Parts(self._config, judged=False)
        self._pairs = load_pairs(**self._config["data"])
        self.bare(1)  # loads and warms up

    def run(self, number: int, pairs_per_fit: int) -> tuple[float, list[Tensor]]:
        """As `sgool fit` does it; CPU seconds, and each pair's last latents (S, C, h, w)."""
        config = {**self._config, "trainer": {**self._config["trainer"], "pairs_per_fit": pairs_per_fit}}
        with tempfile.TemporaryDirectory() as path:
            folder = RunFolder(path).open(config, device="cpu")
            worker = Worker(self._parts, config, folder, Progress(), Interrupt(), Process(), {}, "", None)
            batches = in_batches(self._pairs[:number], pairs_per_fit)
            began = time.process_time()
            worker.run("doodl", batches)
            seconds = time.process_time() - began
            places = [folder.pair_folder("doodl", pair.pair_id) for pair in self._pairs[:number]]
            # optimization=doodl keeps the last latents.
            return seconds, [load_file(place / "latents.safetensors")["best"] for place in places]

    def bare(self, number: int) -> tuple[float, list[Tensor]]:
        """Update after update, one pair after the other, without Lightning and without a run folder."""
        module, _ = self._parts.method("doodl")
        assert isinstance(module, LatentPairModule)
        ends, began = [], time.process_time()
        for index, pair in enumerate(self._pairs[:number]):
            module.start(module.take_up(PairBatch([pair], index)))
            _bare(module)
            ends.append(module.latents.detach()[:, 0].clone())
        return time.process_time() - began, ends


def _bare(module: LatentPairModule) -> None:
    """DOODL's updates and the evaluation of the last latents."""
    latents = module.latents
    norm = latents.detach().square().sum(dim=(2, 3, 4), keepdim=True).sqrt()
    optimizer = module.configure_optimizers()
    for update in range(module.num_optimization_steps):
        optimizer.zero_grad()
        loss, _ = module._evaluate(update)
        loss.sum().backward()
        assert latents.grad is not None
        latents.grad.clamp_(-1e-3, 1e-3)
        optimizer.step()
        with torch.no_grad():
            for index, pair in enumerate(module.pairs):
                noise = torch.randn(latents.shape[2:], generator=pair_generator(pair.seed, "perturb", update))
                latents[:, index] += 1e-4 * noise
            latents.mul_(norm / latents.square().sum(dim=(2, 3, 4), keepdim=True).sqrt())
    module.evaluate()


def _record(pair: PromptSeed) -> PairRecord:
    return PairRecord(
        pair.pair_id, "doodl", pair.prompt, pair.category, pair.seed, "done", None, 16, 3, {"judge/clip_score": 70.0},
        396, 7.0, 900.0,
    )  # fmt: skip


TABLES: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "ranks": ranks,
    "batches": batches,
    "overhead": overhead,
    "resume": resume,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], metavar="TABLE", default=[])
    parser.add_argument("--pairs", type=int, default=8, help="in the table of ranks")
    parser.add_argument("--updates", type=int, default=8, help="of each pair")
    parser.add_argument("--repeats", type=int, default=7, help="of both ways in the table of the overhead")
    parser.add_argument("--records", type=int, default=10_000, help="in the table of the resume scan")
    arguments = parser.parse_args(argv)
    for name in arguments.tables or TABLES:
        print(f"\n{name}: {(TABLES[name].__doc__ or '').splitlines()[0]}")
        print(pd.DataFrame(TABLES[name](arguments)).to_string(index=False, float_format="{:.3g}".format), flush=True)


if __name__ == "__main__":
    main()
