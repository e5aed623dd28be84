"""Trains, exports and measures the embedded models: ``python -m experiments.emoji_world.train all``.

Stages in order: fetch, tokenizers, vae, guide, text_encoder, denoiser, reader, judge, export, evaluate, consistency,
matching, export_turbo, measure_turbo, logs, card.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sgool.config.paths import home_path
from sgool.errors import SgoolError

if TYPE_CHECKING:
    from experiments.emoji_world.stages import Setup

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parents[1] / "sgool" / "assets"
#: What `experiments.emoji_world.stages` does.
TRAINING = ("fetch", "tokenizers", "vae", "guide", "text_encoder", "denoiser", "reader", "judge")
#: What `experiments.emoji_world.turbo` does.
TURBO = ("consistency", "matching", "export_turbo", "measure_turbo")
STAGES = (*TRAINING, "export", "evaluate", *TURBO, "logs", "card")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = new_parser("emoji_world", str(__doc__), STAGES, HERE)
    result.add_argument("--init", type=home_path, help="exported models of an earlier edition to train further")
    return result


def new_parser(world: str, description: str, stages: Sequence[str], here: Path) -> argparse.ArgumentParser:
    """The command line of the experiment ``world``, in the folder ``here``, without what is special to a world."""
    result = argparse.ArgumentParser(prog=f"python -m experiments.{world}.train", description=description)
    assets = ASSETS / world
    names = (*stages, "all")
    result.add_argument("stages", nargs="+", choices=names, metavar="STAGE", help=", ".join(names))
    result.add_argument("--work", type=home_path, default=Path("runs") / world, help="checkpoints and logs")
    result.add_argument("--emoji", type=home_path, help="an unpacked emoji-datasource-google instead of a download")
    result.add_argument("--assets", type=home_path, default=assets, help="where `export` writes")
    turbo = assets.with_name(f"{world}_turbo")
    result.add_argument("--turbo", type=home_path, default=turbo, help="the student's assets")
    result.add_argument("--results", type=home_path, default=here / "results", help="where metrics and logs go")
    result.add_argument("--steps", type=positive, help="of each training stage, for trials")
    result.add_argument("--seed-offset", type=int, default=0, help="added to the seeds of training")
    result.add_argument("--threads", type=positive, default=1, help="of PyTorch; two processes beat two threads")
    result.add_argument("--number", type=positive, default=400, help="scenes per measurement of `evaluate`")
    result.add_argument("--prompts", type=positive, help="held-out prompts that are sampled (default: all)")
    return result


def positive(text: str) -> int:
    """A number of at least 1 on a command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def run_stages(wanted: Sequence[str], known: Sequence[str], work: Path, act: Callable[[str], object]) -> None:
    """Calls ``act(stage)`` for the stages in order; with "all", those whose marker lies in ``work/done`` are skipped.

    A stage that is named is run again: training ones then go on from their last checkpoint, if steps are left.
    """
    everything = "all" in wanted
    for stage in known if everything else tuple(dict.fromkeys(wanted)):
        marker = work / "done" / stage
        if everything and marker.is_file():
            logging.info("%s: done before (%s)", stage, marker)
            continue
        logging.info("%s: begins", stage)
        act(stage)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def run(arguments: argparse.Namespace) -> None:
    """Runs the stages that the command line names."""
    from experiments.emoji_world.stages import Setup

    work = arguments.work.resolve()
    setup = Setup(work, arguments.emoji, arguments.steps, arguments.seed_offset, arguments.init)
    run_stages(arguments.stages, STAGES, work, lambda stage: _function(stage, setup, arguments)())


def _function(stage: str, setup: Setup, arguments: argparse.Namespace) -> Callable[[], object]:
    """What a stage does; imports only what it needs."""
    name = "stages" if stage in TRAINING else "turbo" if stage in TURBO else stage
    module = importlib.import_module(f"experiments.emoji_world.{name}")
    actions: dict[str, Callable[[], object]] = {
        "export": lambda: module.export(setup.work, arguments.assets),
        "evaluate": lambda: module.evaluate(
            arguments.assets, setup.painter(), arguments.results, number=arguments.number, prompts=arguments.prompts
        ),
        "export_turbo": lambda: module.export(setup.work, arguments.turbo),
        "measure_turbo": lambda: module.measure(
            arguments.assets, arguments.turbo, arguments.results, arguments.prompts
        ),
        "logs": lambda: module.collect(setup.work, arguments.results / "logs"),
        "card": lambda: module.write_cards(arguments.results, arguments.assets, arguments.turbo),
    }
    return actions[stage] if stage in actions else lambda: getattr(module, stage)(setup)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one paragraph for what a user can mend."""
    return run_command(parser().parse_args(argv), run)


def run_command(arguments: argparse.Namespace, act: Callable[[argparse.Namespace], object]) -> int:
    """Sets up logging and threads and calls ``act(arguments)``; returns the exit code."""
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch").propagate = False  # it has a handler of its own
    torch.set_num_threads(arguments.threads)
    try:
        act(arguments)
    except SgoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
