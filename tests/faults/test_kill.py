"""``sgool fit`` is killed again and again; in the end its results are those of a run that nothing happened to."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgool.results.claims import read_claims
from sgool.run.status import run_status
from tests.faults.conftest import Run
from tests.faults.folders import content, damaged_records, leftovers
from tests.faults.server import At, Server

Undisturbed = Callable[..., dict[str, Any]]


def test_the_server_has_no_threads_that_a_fork_would_lose(server: Server) -> None:
    assert server.threads == 1


#: Per number of pairs per fit: twenty in all.
KILLS = 10


@pytest.mark.parametrize("pairs_per_fit", [1, 2])
def test_killed_at_random_moments(
    pairs_per_fit: int, server: Server, fit: Run, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    expected = undisturbed(pairs_per_fit)
    began = time.monotonic()
    assert server.run(*fit(tmp_path / "timed", pairs_per_fit))[0] == 0
    duration = time.monotonic() - began
    moments = random.Random(pairs_per_fit)
    killed, in_a_fit, starts, folders = 0, 0, 0, [tmp_path / "0"]
    while killed < KILLS:
        starts += 1
        command = server.start(*fit(folders[-1], pairs_per_fit))
        # Long enough for a start and some work; a run that ends nevertheless makes place for another one.
        time.sleep(moments.uniform(0.02, 0.6) * duration)
        command.kill()
        code = command.wait()
        assert code in (0, -9), command.output
        killed += code == -9
        in_a_fit += code == -9 and bool(read_claims(folders[-1]))
        assert damaged_records(folders[-1]) == []
        if code == 0:
            folders.append(tmp_path / str(starts))
        elif (folders[-1] / "config.yaml").exists():
            status = run_status(folders[-1])
            assert status.problems == () and not status.runners
    assert starts < 3 * KILLS and in_a_fit
    code, output = server.run(*fit(folders[-1], pairs_per_fit))
    assert code == 0, output
    for folder in folders:
        assert content(folder) == expected
        assert leftovers(folder) == []


#: Just before which calls to the operating system a run is killed, one after the other, in one run folder.
PLACES = [
    At("os.rename", r"config\.yaml$", "kill"),
    At("open", r"logs/\.doodl\.lock$", "kill"),
    At("open", r"doodl/updates\.csv$", "kill"),
    At("os.rename", r"checkpoints/doodl/.*\.json$", "kill"),
    At("os.rename", r"checkpoints/doodl/.*\.ckpt$", "kill", 2),
    At("os.rename", r"checkpoints/doodl/three-00000.*\.json$", "kill"),  # when the checkpoint beside it is written
    At("os.rename", r"doodl/three-00000.*/final\.png$", "kill"),
    At("os.rename", r"doodl/three-00001.*/record\.json$", "kill"),  # its mate has one
    At("open", r"doodl/pairs\.csv$", "kill"),  # of a batch that is recorded
    At("os.remove", r"checkpoints/doodl/three-00002.*\.ckpt$", "kill"),
    At("open", r"locks/best_of_n/three-00000.*\.lock$", "kill"),
    At("os.rename", r"checkpoints/best_of_n/three-00000.*\.ckpt$", "kill", 3),
    At("os.remove", r"checkpoints/best_of_n/three-00000.*\.json$", "kill"),
    At("os.remove", r"locks/best_of_n/three-00002.*\.lock$", "kill"),
    At("os.rename", r"clip_guidance/three-00002.*/latents\.safetensors$", "kill"),
    At("os.rename", r"results\.csv$", "kill"),
    At("os.rename", r"results\.csv$", "kill"),  # nothing was left to do
]


def test_killed_at_chosen_places(server: Server, fit: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    for place in PLACES:
        code, output = server.run(*fit(tmp_path), at=place)
        assert code == -9, f"{place}: {output}"
        assert damaged_records(tmp_path) == []
    code, output = server.run(*fit(tmp_path))
    assert code == 0, output
    assert content(tmp_path) == undisturbed()
    assert leftovers(tmp_path) == []


#: The same for an edit, which is a pair that starts from a photo.
PLACES_OF_AN_EDIT = [
    At("os.rename", r"config\.yaml$", "kill"),
    At("open", r"locks/doodl/photo-.*\.lock$", "kill"),
    At("os.rename", r"checkpoints/doodl/photo-.*\.ckpt$", "kill", 2),
    At("os.rename", r"doodl/photo-.*/record\.json$", "kill"),
    At("open", r"doodl/pairs\.csv$", "kill"),  # of a pair that is recorded
    At("os.rename", r"results\.csv$", "kill"),
]


def test_an_edit_killed_at_chosen_places(server: Server, options: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    photos = [line for line in options if not line.startswith("data.")]
    own = [*photos, "sampler=edict_edit", "sampler.num_inference_steps=2", "trainer.save_every_n_updates=2"]

    def edit(name: str) -> list[str]:
        return ["edit", str(tmp_path / "photo.png"), "--text", "a cat", *own, f"run_dir={tmp_path / name}"]

    code, output = server.run(*edit("undisturbed"))
    assert code == 0, output
    for place in PLACES_OF_AN_EDIT:
        code, output = server.run(*edit("killed"), at=place)
        assert code == -9, f"{place}: {output}"
        assert damaged_records(tmp_path / "killed") == []
    code, output = server.run(*edit("killed"))
    assert code == 0, output
    found, expected = content(tmp_path / "killed"), content(tmp_path / "undisturbed")
    assert found == expected and len(found["logs/doodl/updates.csv"]) == 6
    assert leftovers(tmp_path / "killed") == []
