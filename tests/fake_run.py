"""Run folders with made-up results, written through RunFolder itself. Needs no network and no torch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgool.results import RunFolder
from sgool.results.artifacts import encode_history, encode_image, encode_saliency
from sgool.results.records import encode_record
from sgool.types import PairRecord, PromptSeed

METHODS = ("vanilla", "doodl", "sgool")
PROMPTS = (("a red cat", "colours"), ("two dogs", "counting"), ("a car left of a tree", "positional"))
Painter = Callable[[PromptSeed, str], NDArray[np.float64]]


def fake_config(methods: Sequence[str] = METHODS, **changes: Any) -> dict[str, Any]:
    """A configuration in the shape of the real one."""
    config = {
        "run_dir": "runs/fake",
        "methods": list(methods),
        "data": {"prompts": "prompts.csv", "seeds": [0, 1], "limit": None},
        "models": {
            "path": "emoji_world",
            "guide": {"model": "emoji_world/guide", "pretrained": None},
            "judges": {"judge": {"model": "emoji_world/judge", "pretrained": None}},
        },
        "sampler": {"name": "ddim", "num_inference_steps": 20, "guidance_scale": 4.0},
        "optimization": {"num_optimization_steps": 25, "keep": "best"},
        "objective": {
            "terms": {"text_alignment": {"weight": 1.0, "clip": {"model": "emoji_world/guide", "pretrained": None}}}
        },
        "trainer": {"devices": 1},
    }
    return config | changes


def fake_pairs(prompts: Sequence[tuple[str, str]] = PROMPTS, seeds: Sequence[int] = (0, 1)) -> list[PromptSeed]:
    """One pair per prompt and seed."""
    return [
        PromptSeed(prompt, seed, index, category, "fake")
        for index, (prompt, category) in enumerate(prompts)
        for seed in seeds
    ]


def fake_record(pair: PromptSeed, method: str = "sgool", **changes: Any) -> PairRecord:
    """A record with plausible numbers, the same at every call; ``metrics`` in ``changes`` are added.

    Failed pairs have none but these.
    """
    optimised = method != "vanilla"
    values: dict[str, Any] = {
        "pair_id": pair.pair_id,
        "method": method,
        "prompt": pair.prompt,
        "category": pair.category,
        "seed": pair.seed,
        "status": "done",
        "error": None,
        "num_optimization_steps": 25 if optimised else 0,
        "best_step": 20 if optimised else 0,
        "network_evaluations": 1040 if optimised else 20,
        "seconds": 12.5 if optimised else 0.4,
        "peak_memory_mib": 812.25,
    }
    measured = fake_metrics(pair, method) if changes.get("status") != "failed" else {}
    metrics = measured | dict(changes.pop("metrics", {}))
    return PairRecord(**(values | {"metrics": metrics} | changes))


def fake_metrics(pair: PromptSeed, method: str) -> dict[str, float]:
    """Scores before, from the pair, and after, from the pair and the method."""
    before, after = _generator(pair.pair_id), _generator(pair.pair_id, method)
    start, guide = 22 + 4 * before.random(), 25 + 3 * before.random()
    parts = {name: float(before.random() < 0.6) for name in ("objects", "colours", "count", "relation")}
    final = dict(parts)
    gain = 0.0
    if method != "vanilla":
        gain = after.normal(1.0 if method == "sgool" else 0.3, 1.0)
        final = {name: float(after.random() < (0.9 if value else 0.35)) for name, value in parts.items()}
    metrics = {"judge/clip_score_initial": start, "judge/clip_score": start + gain}
    metrics |= {"guide/clip_score_initial": guide, "guide/clip_score": guide + (4.0 if method != "vanilla" else 0.0)}
    metrics |= {"scene_accuracy_initial": min(parts.values()), "scene_accuracy": min(final.values())}
    metrics |= {f"scene/{name}_initial": value for name, value in parts.items()}
    return metrics | {f"scene/{name}": value for name, value in final.items()}


def random_image(pair: PromptSeed, method: str) -> NDArray[np.float64]:
    """(3, 64, 64) noise, a little outside [0, 1]."""
    return _generator(pair.pair_id, method).uniform(-0.1, 1.1, (3, 64, 64))


def soft_image(seed: int) -> NDArray[np.float64]:
    """(3, 64, 64) with large shapes: compresses as a photo does, which noise does not."""
    small = np.random.default_rng(seed).uniform(0, 1, (4, 4, 3))
    large = Image.fromarray((small * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    return np.asarray(large, dtype=np.float64).transpose(2, 0, 1) / 255


def blob(height: int = 64, width: int = 64) -> NDArray[np.float64]:
    """(1, height, width) saliency map with one peak of 1."""
    rows, columns = np.mgrid[0:height, 0:width]
    distance = ((rows - 0.4 * height) / height) ** 2 + ((columns - 0.6 * width) / width) ** 2
    return (np.exp(-distance * 20) / np.exp(-distance * 20).max())[None]


def fake_history(pair: PromptSeed, method: str, updates: int = 3) -> list[dict[str, float]]:
    """A falling loss; none for vanilla."""
    start = 1.0 + _generator(pair.pair_id, method).random()
    rows = [{"update": float(k), "loss": start / (k + 1), "selection": start / (k + 1)} for k in range(updates)]
    return rows if method != "vanilla" else []


def flat(update: int) -> NDArray[np.float64]:
    """(3, 64, 64) of one grey that tells the update, up to 20."""
    return np.full((3, 64, 64), update / 20)


def make_fake_run(
    path: Path,
    *,
    methods: Sequence[str] = METHODS,
    pairs: Sequence[PromptSeed] | None = None,
    failed: Mapping[tuple[str, int], str] | None = None,
    paint: Painter = random_image,
    config: Mapping[str, Any] | None = None,
    snapshots: Sequence[int] = (),
) -> RunFolder:
    """A whole run.

    Args:
        path: The folder to make.
        methods: Each runs on each pair.
        pairs: Default: ``fake_pairs()``.
        failed: (method, position of the pair) -> error.
        paint: The final image of a pair under a method; the first one is vanilla's.
        config: Default: ``fake_config(methods)``.
        snapshots: Updates of which methods but vanilla keep an image.
    """
    folder = RunFolder(path).open(fake_config(methods) if config is None else config, device="test device")
    for method in methods:
        for position, pair in enumerate(fake_pairs() if pairs is None else pairs):
            error = (failed or {}).get((method, position))
            if error is not None:
                folder.write(fake_record(pair, method, status="failed", error=error))
                continue
            history = fake_history(pair, method)
            folder.write(
                fake_record(pair, method),
                {"initial": paint(pair, "vanilla"), "final": paint(pair, method)},
                blob() if method == "sgool" else None,
                history,
                {"initial": np.zeros((1, 4, 8, 8)), "best": np.ones((1, 4, 8, 8)), "last": np.ones((1, 4, 8, 8))},
                [(update, flat(update)) for update in snapshots if method != "vanilla"],
            )
    folder.collate()
    return folder


def make_large_run(path: Path, pairs: int, methods: Sequence[str], images: bool = True) -> RunFolder:
    """Thousands of results in seconds: all share a few images, and nothing waits for the disk."""
    folder = RunFolder(path).open(fake_config(methods), device="test device")
    words = ("red cat", "two dogs", "blue car", "old house", "green tree")
    prompts = [(f"a {words[number % 5]}, number {number}", words[number % 5]) for number in range(pairs)]
    pictures = [encode_image(soft_image(seed)) for seed in range(8)]
    saliency = encode_saliency(blob())
    for position, pair in enumerate(fake_pairs(prompts, (0,))):
        for column, method in enumerate(methods):
            place = path / "pairs" / method / pair.pair_id
            place.mkdir(parents=True)
            if images:
                (place / "initial.png").write_bytes(pictures[position % 8])
                (place / "final.png").write_bytes(pictures[(position + column) % 8])
            if images and method == "sgool":
                (place / "saliency.png").write_bytes(saliency)
            if history := fake_history(pair, method, 20):
                (place / "history.csv").write_text(encode_history(history).decode(), encoding="utf-8")
            (place / "record.json").write_text(encode_record(fake_record(pair, method)), encoding="utf-8")
    return folder


def _generator(*names: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(names).encode()))
