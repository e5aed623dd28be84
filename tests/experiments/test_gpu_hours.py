"""The estimate of GPU hours: counts against formulas, and the table that the experiments' README shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments import gpu_hours
from experiments.gpu_hours import METHODS, count

FOLDER = Path(gpu_hours.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_script_s_table() -> None:
    assert "\n".join(gpu_hours.table()) in README


def test_every_experiment_is_in_the_index() -> None:
    index = README.split("## Estimated GPU hours")[0]
    folders = {path.parent.name for path in FOLDER.glob("*/README.md")}
    assert "vocabulary" in folders
    assert folders - set(re.findall(r"\]\((\w+)/README\.md\)", index)) == set()


def test_a_vision_transformer_s_count() -> None:
    """ViT-B-32: 49 patches and a class token of width 768, 12 layers, an embedding of 512 numbers."""
    tokens, width = 50, 768
    layer = (
        12 * width**2 * tokens + 2 * tokens**2 * width
    )  # multiplications: four projections, two of the MLP; attention
    patches = 49 * 3 * 32**2 * width
    assert count("ViT-B-32", 0, 1)[0] == 2 * (12 * layer + patches + width * 512)


def test_the_unet_s_count() -> None:
    both, both_back = count("unet", 32, 2)
    one, one_back = count("unet", 32, 1)
    assert (both, both_back) == (2 * one, 2 * one_back)
    # Of a layer with frozen weights backward costs what forward does; of attention's products it costs twice that, and
    # of the text's projections nothing.
    assert 1 < one_back / one < 1.2


def test_calls_and_operations_of_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward 1, backward 10 for a network call of one prompt; 100 and 1000 for an image; no CLIPs, then one."""
    costs = {"unet": (1, 10), "decoder": (100, 1000), "clip": (10_000, 100_000)}
    monkeypatch.setattr(gpu_hours, "count", lambda part, side, batch: tuple(batch * cost for cost in costs[part]))
    assert METHODS["vanilla"].flops(512, ()) == 100 * 2 + 2 * 100
    updates = 50 * (100 * (2 + 2 + 20) + 2 * (100 + 1000))
    assert METHODS["doodl"].flops(512, ()) == updates + METHODS["vanilla"].flops(512, ())
    views = 50 * 2 * 16 * 110_000 + 2 * 10_000
    assert METHODS["doodl"].flops(512, ("clip",)) == METHODS["doodl"].flops(512, ()) + views
    assert METHODS["clip_guidance"].flops(512, ()) == 50 * (2 + 20) + 50 * 2 + 50 * 1100 + 2 * 100
    edit = 2 * (100 + 2 * 100) + 25 * (100 * (1 + 1 + 10) + 2 * 1100)
    assert METHODS["doodl, 25 updates"].flops(512, ()) == edit
    assert METHODS["best_of_n"].network_calls == METHODS["doodl"].network_calls == 10_100
