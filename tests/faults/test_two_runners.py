"""Two processes on one run folder: they share the work, or the later one is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgool.results.claims import read_claims
from tests.faults.conftest import Run
from tests.faults.folders import content, leftovers
from tests.faults.server import Command, Server

Undisturbed = Callable[..., dict[str, Any]]


def wait_for_a_claim(run_dir: Path, command: Command) -> None:
    until = time.monotonic() + 60
    while not any(claim.alive for claim in read_claims(run_dir)):
        assert time.monotonic() < until, command.output
        time.sleep(0.002)


def test_they_share_the_work(server: Server, fit: Run, undisturbed: Undisturbed, tmp_path: Path) -> None:
    commands = [server.start(*fit(tmp_path, 1, ("doodl", "best_of_n"))) for _ in range(2)]
    for command in commands:
        assert command.wait() == 0, command.output
    found, expected = content(tmp_path), undisturbed(1, ("doodl", "best_of_n"))
    # Each has a log of its own, and no update stands in both.
    curves = sorted(row for name in [key for key in found if "logs/" in key] for row in found.pop(name))
    assert curves == expected.pop("logs/doodl/updates.csv")
    assert found == expected and leftovers(tmp_path) == []
    records = [line for command in commands for line in command.output.splitlines() if " s, judge/" in line]
    assert len(records) == 6


def test_another_configuration_is_refused_also_before_the_first_record(
    server: Server, fit: Run, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    first = server.start(*fit(tmp_path, 2))
    wait_for_a_claim(tmp_path, first)
    code, output = server.run(*fit(tmp_path, 2), "sampler.guidance_scale=2")
    assert code == 2 and "sampler.guidance_scale: was " in output and "--resume-with-changes" in output, output
    assert first.wait() == 0, first.output
    assert content(tmp_path) == undisturbed(2)
