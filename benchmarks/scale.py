"""What running many pairs costs: ranks against threads, pairs side by side, Lightning, and a scan of finished pairs.

python benchmarks/scale.py [TABLE ...] [--pairs N] [--updates N] [--records N]

Tables: ranks, batches, lightning, resume. All on the embedded model and the CPU, in about ten minutes on two cores;
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
from sgool.methods.trainer import fit_module

from sgool import LatentPairModule, Objective, TextAlignment, default_callbacks, load_clip, load_models
from sgool.callbacks import FitCheckpoint
from sgool.diffusion import build_sampler
from sgool.loggers import RunLogs
from sgool.objectives import CropSettings
from sgool.prompts import load_pairs
from sgool.prompts.seeding import pair_generator
from sgool.results import RunFolder
from sgool.run.fit import run_experiment
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
    pairs = load_pairs(PROMPTS, limit=8)
    first = None
    for size in (1, 2, 4, 8):
        seconds = min(
            _cpu(lambda size=size: [_lightning(_module(pairs[i : i + size], arguments)) for i in range(0, 8, size)])
            for _ in range(2)
        )
        first = first or seconds
        yield {"pairs_per_fit": size, "s a pair": seconds / 8, "against 1": seconds / first}


def lightning(arguments: argparse.Namespace) -> Rows:
    """CPU seconds an update by a run's fit (Lightning, callbacks, logs, checkpoints), and by a bare loop."""
    torch.set_num_threads(1)
    pairs = load_pairs(PROMPTS, limit=1)
    runs: dict[str, Callable[[LatentPairModule], None]] = {"bare loop": _bare, "Lightning": _lightning}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    ends = {}
    for repeat in range(7):
        for name in reversed(runs) if repeat % 2 else runs:
            module = _module(pairs, arguments)
            seconds[name].append(_cpu(lambda run=runs[name], module=module: run(module)) / arguments.updates)
            ends[name] = module.latents.detach().clone()
    assert torch.equal(ends["bare loop"], ends["Lightning"]), "both do the same"
    least = {name: min(values) for name, values in seconds.items()}
    for name, value in least.items():
        spread = statistics.median(seconds[name]) / value - 1
        yield {"": name, "ms an update": 1000 * value, "median above": spread, "ratio": value / least["bare loop"]}


def resume(arguments: argparse.Namespace) -> Rows:
    """Seconds of a ``run_experiment`` that finds all its pairs finished."""
    from sgool.run.config import load_config, to_plain

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


def _module(pairs: Sequence[PromptSeed], arguments: argparse.Namespace) -> LatentPairModule:
    models, clip = _networks()
    objective = Objective({"text": TextAlignment(clip)}, {"text": 1.0}, CropSettings(num=8))
    return LatentPairModule(
        models,
        pairs,
        objective,
        sampler=build_sampler("ddim"),
        num_inference_steps=12,
        guidance_scale=4,
        num_optimization_steps=arguments.updates,
        momentum=0.9,
    )


def _networks(cache: list[Any] = []) -> Any:  # noqa: B006  # loaded once
    if not cache:
        cache.extend([load_models("emoji_world"), load_clip("emoji_world/guide")])
    return cache


def _lightning(module: LatentPairModule) -> None:
    """As a run does it: all callbacks, histories, checkpoints and CSV logs."""
    with tempfile.TemporaryDirectory() as folder:
        process = {"run_dir": Path(folder), "name": "bench", "method": "doodl", "config": {}}
        with RunLogs({"name": "csv"}, **process) as logs:
            logs.begin(module.pairs)
            options = {"accelerator": "cpu", "devices": 1, "extra_callbacks": logs.callbacks()}
            fit_module(
                module,
                default_callbacks(tie=False),
                options=options,
                logger=logs.loggers,
                on_update=lambda *_: None,
                checkpoint=FitCheckpoint(Path(folder) / "fit.ckpt", {}, every=10),
            )


def _bare(module: LatentPairModule) -> None:
    """DOODL's updates and the evaluation of the last latents, without Lightning."""
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


def _cpu(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _record(pair: PromptSeed) -> PairRecord:
    return PairRecord(
        pair.pair_id, "doodl", pair.prompt, pair.category, pair.seed, "done", None, 16, 3, {"judge/clip_score": 70.0},
        396, 7.0, 900.0,
    )  # fmt: skip


TABLES: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "ranks": ranks,
    "batches": batches,
    "lightning": lightning,
    "resume": resume,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], metavar="TABLE", default=[])
    parser.add_argument("--pairs", type=int, default=8, help="in the table of ranks")
    parser.add_argument("--updates", type=int, default=8, help="of each pair")
    parser.add_argument("--records", type=int, default=10_000, help="in the table of the resume scan")
    arguments = parser.parse_args(argv)
    for name in arguments.tables or TABLES:
        print(f"\n{name}: {(TABLES[name].__doc__ or '').splitlines()[0]}")
        print(pd.DataFrame(TABLES[name](arguments)).to_string(index=False, float_format="{:.3g}".format), flush=True)


if __name__ == "__main__":
    main()
