"""Whether two run folders hold the same results, to the last bit: final and first latents, images and histories.

A run folder of an earlier release and one made by this code, with the same command:

    sgool fit run_dir=runs/old data.prompts=emoji_world/heldout data.limit=8 trainer.pairs_per_fit=4 trainer.threads=1 \
      'methods=[vanilla,doodl,sgool,reno,best_of_n,clip_guidance]' models.device=cpu
    python benchmarks/same_results.py runs/old runs/new

Without arguments it makes a small run twice, once as a whole and once in two parts, the second part first, and compares
those. Bits depend on the processor and on torch's release: both runs have to be made on one machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageChops
from safetensors.torch import load_file

from sgool.config.paths import home_path

#: What differs between two runs of the same pair.
_OF_THE_MACHINE = ("seconds", "peak_memory_mib")


def main() -> None:
    """Prints one row a method; exits with 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=home_path, metavar="RUN", help="two run folders; none: two small runs")
    runs = parser.parse_args().runs
    if len(runs) not in (0, 2):
        parser.error(f"expected two run folders, or none, got {len(runs)}")
    with tempfile.TemporaryDirectory() as folder:
        old, new = runs or _two_runs(Path(folder))
        different = compare(old, new)
    raise SystemExit(1 if different else 0)


def compare(old: Path, new: Path) -> int:
    """Prints the table; returns how many values differ."""
    methods = sorted(path.name for path in (old / "pairs").iterdir())
    missing = [name for name in methods if not (new / "pairs" / name).is_dir()]
    print("| method | pairs | equal final latents | equal final images | equal histories | equal records |")
    print("|---|---|---|---|---|---|")
    different = len(missing)
    for method in methods:
        pairs = sorted(path.name for path in (old / "pairs" / method).iterdir())
        rows = [_equal(old / "pairs" / method / pair, new / "pairs" / method / pair) for pair in pairs]
        counts = [sum(column) for column in zip(*rows, strict=True)]
        different += sum(len(pairs) - count for count in counts)
        print(f"| {method} | {len(pairs)} | {' | '.join(map(str, counts))} |")
    return different


def _equal(old: Path, new: Path) -> tuple[bool, bool, bool, bool]:
    """Whether latents, images, histories and records of one pair are equal."""
    if not (new / "record.json").is_file():
        return False, False, False, False
    before, after = (load_file(path / "latents.safetensors") for path in (old, new))
    latents = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    images = all(_same_image(old / name, new / name) for name in ("initial.png", "final.png", "saliency.png"))
    histories = [
        (path / "history.csv").read_bytes() if (path / "history.csv").is_file() else b"" for path in (old, new)
    ]
    records = [json.loads((path / "record.json").read_text(encoding="utf-8")) for path in (old, new)]
    kept = [{key: value for key, value in record.items() if key not in _OF_THE_MACHINE} for record in records]
    return latents, images, histories[0] == histories[1], kept[0] == kept[1]


def _same_image(old: Path, new: Path) -> bool:
    if not (old.is_file() and new.is_file()):
        return old.is_file() == new.is_file()
    with Image.open(old) as before, Image.open(new) as after:
        return before.size == after.size and ImageChops.difference(before, after).getbbox() is None


def _two_runs(folder: Path) -> tuple[Path, Path]:
    """The same pairs and methods as a whole, and in two parts."""
    from sgool import fit

    own = ["data.limit=4", "trainer.pairs_per_fit=2", "trainer.threads=1", "models.device=cpu", "logger=none"]
    small = ["sampler.num_inference_steps=4", "optimization.num_optimization_steps=3"]
    methods = "methods=[vanilla,doodl,sgool,reno,best_of_n,clip_guidance]"
    for name, parts in (("whole", ("1/1",)), ("parts", ("2/2", "1/2"))):
        for part in parts:
            fit(*own, *small, methods, f"trainer.shard={part}", f"run_dir='{folder / name}'")
    return folder / "whole", folder / "parts"


if __name__ == "__main__":
    main()
