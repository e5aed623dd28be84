"""Trains, exports and measures the models of the emoji scenes: ``python -m experiments.emoji_scenes.train all``.

Stages in order: fetch, tokenizers, vae, guide, text_encoder, denoiser, reader, judge, saliency, export, evaluate,
consistency, matching, export_turbo, measure_turbo, logs, card.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.emoji_world.train import new_parser, run_command, run_stages

if TYPE_CHECKING:
    from experiments.emoji_scenes.stages import Setup

HERE = Path(__file__).resolve().parent
#: What `experiments.emoji_scenes.stages` does.
BASE = ("fetch", "tokenizers", "vae", "guide", "text_encoder", "denoiser", "reader", "judge", "saliency")
STUDENT = ("consistency", "matching")
STAGES = (*BASE, "export", "evaluate", *STUDENT, "export_turbo", "measure_turbo", "logs", "card")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return new_parser("emoji_scenes", str(__doc__), STAGES, HERE)


def run(arguments: argparse.Namespace) -> None:
    """Runs the stages that the command line names."""
    from experiments.emoji_scenes.stages import Setup

    work = arguments.work.resolve()
    setup = Setup(work, arguments.emoji, arguments.steps, arguments.seed_offset)
    run_stages(arguments.stages, STAGES, work, lambda stage: function(stage, setup, arguments)())


def function(stage: str, setup: Setup, arguments: argparse.Namespace) -> Callable[[], object]:
    """What a stage does; imports only what it needs."""
    if stage in (*BASE, *STUDENT):
        from experiments.emoji_scenes import stages

        return lambda: getattr(stages, stage)(setup)
    return _after_training(stage, setup, arguments)


def _after_training(stage: str, setup: Setup, arguments: argparse.Namespace) -> Callable[[], object]:
    from experiments.emoji_scenes import card, evaluate, export, logs
    from experiments.emoji_world.logs import collect

    assets, turbo, results, prompts = (getattr(arguments, name) for name in ("assets", "turbo", "results", "prompts"))
    actions: dict[str, Callable[[], object]] = {
        "export": lambda: export.export(setup.work, assets),
        "evaluate": lambda: evaluate.evaluate(
            assets, setup.painter(), results, number=arguments.number, prompts=prompts
        ),
        "export_turbo": lambda: export.export_turbo(setup.work, turbo),
        "measure_turbo": lambda: evaluate.measure_turbo(assets, turbo, results, prompts),
        "logs": lambda: collect(setup.work, results / "logs", logs.FOLDERS),
        "card": lambda: card.write_cards(results, assets, turbo),
    }
    return actions[stage]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one paragraph for what a user can mend."""
    return run_command(parser().parse_args(argv), run)


if __name__ == "__main__":
    sys.exit(main())
