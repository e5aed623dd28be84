"""Which method repairs most images at equal cost? Runs every method, and controls, with the same budget.

python -m experiments.which_method.run [NAME ...] [--calls 100 | --seconds 1] [--model student] [--set hard]
    [--pairs 128] [--seeds 0 1] [--out runs/which_method] [--precision 32-true]

Each name is a run folder of its own, and one that was interrupted goes on. ``experiments.which_method.tables`` makes
the tables, ``experiments.which_method.tune`` has how the settings were chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.controls import CONTROLS
from sgool import fit
from sgool.config.paths import home_path

COMMON = (
    "logger=none",
    "trainer.threads=1",
    "trainer.precision=bf16-mixed",
    "trainer.pairs_per_fit=16",
    # Tiny networks: nothing is recomputed in backward, which would only cost calls.
    "engine=direct",
)
MODELS: dict[str, tuple[str, ...]] = {
    "student": ("models=emoji_world_turbo", "sampler.num_inference_steps=1"),
    "student4": ("models=emoji_world_turbo",),
    "base": ("models=emoji_world",),
}
#: The objective of `sgool`: phrases, matched with salient regions.
PHRASES = ("saliency=transalnet_emoji", "match=phrases")
#: Name -> the overrides that make it: vanilla, rivals, `sgool`, then what `sgool` is without one of its parts.
METHODS: dict[str, tuple[str, ...]] = {
    "vanilla": ("methods=[vanilla]",),
    "best_of_n": ("methods=[best_of_n]",),
    "best_of_n, same objective": ("methods=[best_of_n]", "method.best_of_n.use_saliency=true", *PHRASES),
    "zero_order, same objective": (
        "methods=[zero_order]",
        "method.zero_order.use_saliency=true",
        *PHRASES,
    ),
    "evolution, same objective": ("methods=[evolution]", "method.evolution.use_saliency=true", *PHRASES),
    "fk_steering, same objective": ("methods=[fk_steering]", "method.fk_steering.use_saliency=true", *PHRASES),
    "clip_guidance": ("methods=[clip_guidance]",),
    "doodl": ("methods=[doodl]",),
    "reno": ("methods=[reno]",),
    "sgool": ("methods=[sgool]", *PHRASES),
    "sgool, no search": (
        "methods=[sgool]",
        *PHRASES,
        "method.sgool.optimization.candidates=1",
        "method.sgool.optimization.search_share=null",
        "method.sgool.optimization.max_updates=null",
    ),
    "sgool, all updates that fit": ("methods=[sgool]", *PHRASES, "method.sgool.optimization.max_updates=null"),
    "sgool, raw gradients": (
        "methods=[sgool]",
        *PHRASES,
        "method.sgool.optimization.whiten={gradient: false, latents: false}",
        "method.sgool.optimization.gradient_rms=0.012",
        "method.sgool.optimization.grad_clip_value=0.036",
    ),
    "sgool, true masks": ("methods=[sgool]", "saliency=true_masks", "match=phrases"),
    "sgool, wrong places": ("methods=[sgool]", "saliency=wrong_places", "match=phrases"),
    "sgool, phrases without regions": ("methods=[sgool]", *PHRASES, "saliency.max_regions=0"),
    "sgool, regions without phrases": ("methods=[sgool]", "saliency=transalnet_emoji", "match=prompt"),
}

#: They act between denoising steps, of which the student with one step has none.
BETWEEN_STEPS = ("fk_steering, same objective", "clip_guidance")
#: It differs from `sgool` only where the budget pays for more than 25 updates.
AT_LARGE_BUDGETS = ("sgool, all updates that fit",)


def folder_of(out: Path, model: str, prompts: str, budget: str, name: str) -> Path:
    """Returns the run folder of a method."""
    return (
        out
        / f"{model}-{prompts}-{budget.partition('.')[2].replace('=', '-')}"
        / name.replace(",", "").replace(" ", "_")
    )


def run(
    names: Sequence[str],
    out: Path,
    budget: str = "budget.calls=100",
    model: str = "student",
    prompts: str = "hard",
    pairs: int = 128,
    seeds: Sequence[int] = (0, 1),
    more: Sequence[str] = (),
) -> None:
    """Runs methods by their names in `METHODS`; those that are complete are not run again.

    Args:
        names: Of `METHODS`.
        out: Folder of the run folders.
        budget: An override: ``budget.calls=100`` or ``budget.seconds=1``.
        model: Of `MODELS`.
        prompts: Prompt set of the embedded world.
        pairs: How many of its first prompts are run.
        seeds: Seeds of each prompt.
        more: Further overrides.
    """
    for name in names:
        data = (f"data.prompts=emoji_world/{prompts}", f"data.limit={pairs * len(seeds)}", f"data.seeds={list(seeds)}")
        where = folder_of(out, model, prompts, budget, name)
        fit(*COMMON, *MODELS[model], *METHODS[name], *data, budget, *more, f"run_dir={where}", config_dir=CONTROLS)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all: {'; '.join(METHODS)}")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--calls", type=int, default=100, help="network calls a pair, backward passes counted as well")
    kinds.add_argument("--seconds", type=float, help="seconds a pair, in place of calls")
    parser.add_argument("--model", choices=list(MODELS), default="student")
    parser.add_argument("--set", default="hard", dest="prompts")
    parser.add_argument("--pairs", type=int, default=128, help="how many of the set's first prompts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=home_path, default=Path("runs/which_method"))
    parser.add_argument("--precision", choices=("bf16-mixed", "32-true"), default="bf16-mixed")
    given = parser.parse_args(argv)
    budget = f"budget.calls={given.calls}" if given.seconds is None else f"budget.seconds={given.seconds:g}"
    left_out = (*BETWEEN_STEPS, *AT_LARGE_BUDGETS) if given.model == "student" else AT_LARGE_BUDGETS
    names = given.names or [name for name in METHODS if name not in left_out]
    more = (f"trainer.precision={given.precision}",)
    run(names, given.out, budget, given.model, given.prompts, given.pairs, given.seeds, more)


if __name__ == "__main__":
    main()
