"""A small run of three methods, undisturbed, and a server that starts commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.folders import content, leftovers
from tests.faults.server import Server
from tests.tiny_run import tiny_overrides

#: Mounts, capabilities and /proc are Linux's.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]

METHODS = ("doodl", "best_of_n", "clip_guidance")


@pytest.fixture(scope="session")
def options(pipeline_folder: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run of three pairs, without its folder and its methods."""
    prompts = tmp_path_factory.mktemp("prompts") / "three.txt"
    prompts.write_text("a cat\na dog\na red car\n")
    # Six updates: checkpoints are written every two, and none after the last.
    own = ["logger=csv", "optimization.num_optimization_steps=6"]
    return [*tiny_overrides(pipeline_folder, clip_folder, prompts), *own]


@pytest.fixture(scope="session")
def server(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with Server(folder, [*options, "methods=[vanilla]", f"run_dir={folder / 'warm_up'}"]) as server:
        yield server


Run = Callable[..., list[str]]


@pytest.fixture(scope="session")
def fit(options: list[str]) -> Run:
    """The arguments of ``sgool`` for a run: its folder, pairs per fit, methods, and more overrides."""

    def arguments(run_dir: Path, pairs_per_fit: int = 2, methods: tuple[str, ...] = METHODS, *more: str) -> list[str]:
        own = [f"run_dir={run_dir}", f"trainer.pairs_per_fit={pairs_per_fit}", f"methods=[{','.join(methods)}]"]
        return ["fit", *options, "trainer.save_every_n_updates=2", *own, *more]

    return arguments


@pytest.fixture(scope="session")
def undisturbed(server: Server, fit: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The content of a run that nothing happened to, and under ``run_dir`` where it lies; made once."""
    made: dict[Any, dict[str, Any]] = {}

    def of(pairs_per_fit: int = 2, methods: tuple[str, ...] = METHODS) -> dict[str, Any]:
        key = (pairs_per_fit, methods)
        if key not in made:
            run_dir = tmp_path_factory.mktemp("undisturbed")
            code, output = server.run(*fit(run_dir, pairs_per_fit, methods))
            assert code == 0, output
            assert leftovers(run_dir) == []
            made[key] = content(run_dir)
            assert len(made[key]["results.csv"]) == 3 * len(methods)
        return dict(made[key])

    return of
