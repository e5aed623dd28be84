"""Seconds and memory of gradients through the denoising chain, against plain autograd and the public reference.

python benchmarks/chain.py [--quick] [--full] [--models mid,embedded] [--tables chain,switches,drift] [--json FILE]

One run prints, per network: how long latents -> denoise -> scalar -> backward takes and how much memory, with each
sampler and engine; what compilation, memory format, attention kernel and bfloat16 do to one network call; how exactly
the reversible engine inverts; and which of the targets are met. Weights are random (mid) or the embedded ones, so it
needs no download.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _drift import measure_drift, print_drift
from _measure import Seconds, alternate, child_result, peak_mib, start_child
from _networks import Network, load_network
from _rows import BASELINE, CHANNELS_LAST, DPM_SHARE, FLOOR, Row, rows, run
from _switches import switch_table


def main() -> None:
    """Prints the tables; with ``--json`` writes their numbers as well."""
    options = _options()
    if options.child:
        return _child(json.loads(options.child))
    print(_header(options), flush=True)
    results: dict[str, Any] = {"torch": torch.__version__, "device": options.device, "chain": {}, "targets": []}
    for name in options.models.split(","):
        if "chain" in options.tables:
            results["chain"][name] = _chain(name, options, results["targets"])
        if "switches" in options.tables and not (options.quick and name == "mid"):
            torch.set_num_threads(options.threads[0])
            repeats = 1 if options.quick else 3
            results.setdefault("switches", {})[name] = switch_table(
                load_network(name, options.device), options.device, repeats, options.compile
            )
    if "drift" in options.tables:
        results["drift"] = _drift(options)
    if results["targets"]:
        print("\nTargets")
        for line in results["targets"]:
            print(f"  {line}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


def _options() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="EDICT's steps; DPM-Solver++ makes two fifths (default: 5, 10)")
    parser.add_argument(
        "--threads", type=_numbers, help="for example 1,4 (default: 1 and all); all rows with the first"
    )
    parser.add_argument("--models", default="mid,embedded")
    parser.add_argument("--tables", default="chain,switches,drift")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, help="with the first number of threads (default: 2); else half")
    parser.add_argument("--json", help="a file for the numbers")
    parser.add_argument("--quick", action="store_true", help="fewer rows, steps and repeats, one thread")
    parser.add_argument("--full", action="store_true", help="EDICT with 50 steps and DPM-Solver++ with 20")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too: minutes on a CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.threads = options.threads or ([1] if options.quick or cores == 1 else [1, cores])
    if options.device != "cpu":
        options.threads = options.threads[:1]
    return options


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _header(options: argparse.Namespace) -> str:
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"torch {torch.__version__}, {options.device}, threads {options.threads}, float32, batch 1 with guidance, "
        f"load average at the start {load}\n"
        "wall, cpu: least of the repeats, rows alternating. Ratios are of CPU seconds with one thread (idle-core wall "
        "seconds), else of wall seconds.\n"
        "calls: guided calls of the network, recomputation included. MiB: peak of a fresh process above that after one "
        "network call."
    )


def _chain(name: str, options: argparse.Namespace, targets: list[str]) -> dict[str, Any]:
    network = load_network(name, options.device)
    steps = 50 if options.full else options.steps or (network.steps // 5 if options.quick else network.steps)
    table = rows(network, steps, options.quick)
    repeats = options.repeats or (1 if options.quick else 2)
    # Each is a process that imports everything again: in a quick run only what a target needs.
    weighed = [row for row in table if row.label in (BASELINE, "edict checkpoint") or not options.quick]
    memory = _memory([row for row in weighed if row.engine != "floor"], name, steps, options)
    found: dict[str, Any] = {"steps": steps, "memory_mib": memory}
    for threads in options.threads:
        torch.set_num_threads(threads)
        chosen = [row for row in table if row.everywhere or threads == options.threads[0]]
        calls: dict[str, float] = {}
        runs = {row.label: _runner(row, network, steps, calls) for row in chosen}
        if threads == options.threads[0]:
            _check_baseline(network, steps)
            times = alternate(runs, repeats, options.device)
        else:
            times = alternate(runs, (repeats + 1) // 2, options.device)
        _print_chain(network, chosen, steps, threads, calls, times, memory, options.device)
        seconds = {label: one.fair(threads, options.device) for label, one in times.items()}
        targets += _targets(f"{name}, {threads} thread(s)" if options.device == "cpu" else name, seconds, memory, steps)
        found[f"threads {threads}"] = {
            label: {"wall": one.wall, "cpu": one.cpu, "calls": calls[label]} for label, one in times.items()
        }
    return found


def _runner(row: Row, network: Network, steps: int, calls: dict[str, float]) -> Callable[[], None]:
    def go() -> None:
        calls[row.label] = run(row, network, steps)[0]

    return go


def _check_baseline(network: Network, steps: int) -> None:
    """The baseline is the same mathematics: its gradient is sgool's."""
    steps = min(steps, 2)
    ours, theirs = (run(Row("", engine=engine), network, steps)[1] for engine in ("checkpoint", "baseline"))
    difference = float((ours - theirs).norm() / theirs.norm())
    # Float32 with guidance through two steps; another formula would differ by its order of magnitude.
    if not difference < 1e-3:
        raise SystemExit(f"the baseline's gradient differs by {difference:.1e}: it is not the same chain")


def _memory(table: list[Row], name: str, steps: int, options: argparse.Namespace) -> dict[str, float]:
    """Peak of each row, in fresh processes; two at a time on a CPU."""
    at_once = 2 if options.device == "cpu" else 1
    found: dict[str, float] = {}
    for begin in range(0, len(table), at_once):
        batch = table[begin : begin + at_once]
        common = {"model": name, "steps": steps, "device": options.device}
        children = [start_child({"row": vars(row), **common}, weigh=True) for row in batch]
        found |= {row.label: child_result(child) for row, child in zip(batch, children, strict=True)}
    return found


def _drift(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The table of drift; no timing, so on a CPU the samplers share the cores."""
    steps = 5 if options.quick else 50
    groups = [["edict"]] if options.quick else [["edict"], ["belm", "bdia"]]
    children = [start_child({"drift": group, "steps": steps, "device": options.device}) for group in groups]
    table = [row for child in children for row in child_result(child)]
    print_drift(table, steps)
    return table


def _child(arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    device, steps = arguments["device"], arguments["steps"]
    network = load_network(arguments.get("model", "embedded"), device)
    if "drift" in arguments:
        rows_of_all = [measure_drift(network, sampler, steps) for sampler in arguments["drift"]]
        return print(json.dumps([row for group in rows_of_all for row in group]))
    row = Row(**arguments["row"])
    # One call first: the libraries' own pages are no matter of the engine.
    with torch.no_grad():
        chain = network.chain(1)
        chain.network(network.latents(1)[0], chain.schedule.steps[0])
    print(json.dumps(peak_mib(lambda: run(row, network, steps), device)))


def _print_chain(
    network: Network,
    table: list[Row],
    steps: int,
    threads: int,
    calls: dict[str, float],
    times: dict[str, Seconds],
    memory: dict[str, float],
    device: str,
) -> None:
    fair = {label: one.fair(threads, device) for label, one in times.items()}
    print(
        f"\n{network.name}: {network.million_weights:.1f} M weights, latents 4x{network.size}x{network.size}, "
        f"EDICT {steps} steps, {network.attention} attention (baseline: fused), {threads} thread(s)"
    )
    print(f"{'':34s} steps calls    wall     cpu    MiB   /direct  /baseline  faster  over floor")
    for row in table:
        time, mine = times[row.label], row.steps(steps)
        direct = f"{fair[row.label] / fair[label]:8.2f}" if (label := f"{row.sampler} direct") in fair else " " * 8
        over = _over_floor(row, network, steps, calls, fair)
        print(
            f"{row.label:34s} {mine:5d} {calls[row.label]:5g} {time.wall:7.2f} {time.cpu:7.2f} "
            f"{_or_dash(memory.get(row.label)):>6s}  {direct} {fair[row.label] / fair[BASELINE]:10.2f} "
            f"{fair[BASELINE] / fair[row.label]:6.2f}x {over:>11s}"
        )


def _or_dash(mib: float | None) -> str:
    return "-" if mib is None else f"{mib:.0f}"


def _over_floor(row: Row, network: Network, steps: int, calls: dict[str, float], fair: dict[str, float]) -> str:
    """How much longer than the bare network, for rows that recompute every call with the network's own attention."""
    if row.engine not in ("checkpoint", "reversible") or row.options or row.attention or row.channels_last:
        return ""
    own = network.chain(row.steps(steps), sampler=row.sampler).sampling_calls
    floor = fair[FLOOR] * 2 * own / calls[FLOOR]
    return f"{fair[row.label] / floor - 1:+.1%}"


def _targets(where: str, seconds: dict[str, float], memory: dict[str, float], steps: int) -> list[str]:
    base = seconds[BASELINE]
    exact = ("edict checkpoint", "edict reversible")
    best = min(exact, key=lambda label: seconds[label])
    over = seconds[best] / seconds[FLOOR] - 1
    # Seconds of a chain are linear in its calls, but for a few milliseconds.
    dpm_steps = Row("", share=DPM_SHARE).steps(steps)
    long, short = base * 50 / steps, seconds["dpm_solver checkpoint"] * 20 / dpm_steps
    how = "measured" if steps == 50 else f"extrapolated from {steps} and {dpm_steps}"
    share = min(memory[label] for label in exact if label in memory) / memory[BASELINE]
    lines = [
        (f"{best} at least 1.5x faster than the baseline", f"{base / seconds[best]:.2f}x", base / seconds[best] >= 1.5),
        (
            f"{CHANNELS_LAST} at least 1.5x",
            f"{base / seconds[CHANNELS_LAST]:.2f}x",
            base >= 1.5 * seconds[CHANNELS_LAST],
        ),
        ("edict's memory at most 0.5x of the baseline's", f"{share:.2f}x", share <= 0.5),
        (
            "ddim checkpoint at least 2.8x",
            f"{base / seconds['ddim checkpoint']:.2f}x",
            base >= 2.8 * seconds["ddim checkpoint"],
        ),
        (
            "dpm_solver 20 steps against the baseline's 50 at least 7x",
            f"{long / short:.2f}x ({long:.0f} s to {short:.0f} s, {how})",
            long >= 7 * short,
        ),
        ("at most 10% over the bare network", f"{over:+.1%}", over <= 0.1),
    ]
    return [f"{where}: {what}: {value}: {'met' if met else 'missed'}" for what, value, met in lines]


if __name__ == "__main__":
    main()
