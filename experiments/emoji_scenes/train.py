"""Trains the models of the emoji scenes: ``python -m experiments.emoji_scenes.train all``.

Stages in order, so far: fetch, tokenizers, vae, guide, text_encoder, denoiser, reader, judge, saliency.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.emoji_world.train import positive, run_stages
from sgool.config.paths import home_path
from sgool.errors import SgoolError

STAGES = ("fetch", "tokenizers", "vae", "guide", "text_encoder", "denoiser", "reader", "judge", "saliency")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m experiments.emoji_scenes.train", description=__doc__)
    names = (*STAGES, "all")
    result.add_argument("stages", nargs="+", choices=names, metavar="STAGE", help=", ".join(names))
    result.add_argument("--work", type=home_path, default=Path("runs/emoji_scenes"), help="checkpoints and logs")
    result.add_argument("--emoji", type=home_path, help="an unpacked emoji-datasource-google instead of a download")
    result.add_argument("--steps", type=positive, help="of each training stage, for trials")
    result.add_argument("--seed-offset", type=int, default=0, help="added to the seeds of training")
    result.add_argument("--threads", type=positive, default=1, help="of PyTorch; two processes beat two threads")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one paragraph for what a user can mend."""
    import torch

    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(arguments.threads)
    from experiments.emoji_scenes import stages

    work = arguments.work.resolve()
    setup = stages.Setup(work, arguments.emoji, arguments.steps, arguments.seed_offset)
    try:
        run_stages(arguments.stages, STAGES, work, lambda stage: getattr(stages, stage)(setup))
    except SgoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
