"""Two ranks, as real processes, make the run of one: also when a pair fails, a signal comes, or a rank dies."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sgool.results.claims import read_claims
from sgool.run.config import load_config
from sgool.run.fit import run_experiment
from tests.tiny_run import tiny_overrides

ROOT = Path(__file__).parents[2]
#: What differs between two runs of the same pair.
OF_THE_MACHINE = ("seconds", "peak_memory_mib")
#: Seconds that a command may take.
LIMIT = 200

_TERMS = '''
import os
import time
from pathlib import Path

import torch


class Brightness:
    """A term of the user's own, which may take its time, and breaks on one prompt.

    Ranks start whenever they are ready. Where MEET names a folder, each waits in its sixth call (after two updates, so
    that it has a checkpoint) until the other is as far.
    """

    input_size = None
    calls = 0

    def __init__(self, name, breaks_on=""):
        self.name, self.breaks_on = name, breaks_on

    def targets(self, pairs):
        return torch.tensor([[float(pair.prompt == self.breaks_on)] for pair in pairs])

    def __call__(self, views, targets):
        if targets.any():
            raise ValueError(f"{self.breaks_on} is too much")
        Brightness.calls += 1
        if Brightness.calls == 6 and "MEET" in os.environ:
            folder, end = Path(os.environ["MEET"]), time.monotonic() + 150
            (folder / str(os.getpid())).touch()
            while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
                time.sleep(0.05)
        time.sleep(float(os.environ.get("SECONDS_A_CALL", "0")))
        return views.mean(dim=(1, 2, 3))
'''


@dataclass(frozen=True)
class Setting:
    """A run of three pairs, by one process or two."""

    options: list[str]
    modules: Path

    def overrides(self, run_dir: Path, pairs_per_fit: int, breaks_on: str) -> list[str]:
        term = f"+objective.terms.mine={{_target_: terms_of_ranks.Brightness, weight: 0.5, breaks_on: '{breaks_on}'}}"
        return [*self.options, f"run_dir={run_dir}", f"trainer.pairs_per_fit={pairs_per_fit}", term]

    def run(self, run_dir: Path, pairs_per_fit: int, breaks_on: str = "") -> int:
        """In this process; the exit code that ``sgool fit`` would have."""
        return run_experiment(load_config(self.overrides(run_dir, pairs_per_fit, breaks_on))).exit_code

    @contextmanager
    def start(self, run_dir: Path, pairs_per_fit: int, breaks_on: str = "", seconds: float = 0) -> Iterator[Ranks]:
        """With two ranks; whatever happens, none of them outlives the block."""
        command = [sys.executable, "-m", "sgool", "fit", *self.overrides(run_dir, pairs_per_fit, breaks_on)]
        path = os.pathsep.join([str(ROOT), str(self.modules)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SECONDS_A_CALL": str(seconds)}
        if seconds:
            meeting = run_dir.with_suffix(".meet")
            meeting.mkdir()
            environment["MEET"] = str(meeting)
        output = run_dir.with_suffix(".txt")
        with output.open("w") as stream:
            process = subprocess.Popen(
                [*command, "trainer.devices=2"],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Ranks(process, run_dir, output)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class Ranks:
    """Two ranks under way."""

    process: subprocess.Popen[bytes]
    run_dir: Path
    output_path: Path

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    def wait(self) -> int:
        return self.process.wait(LIMIT)

    def until(self, ready: Callable[[], Any]) -> Any:
        """What ``ready`` returns when that is true."""
        end = time.monotonic() + LIMIT
        while not (found := ready()):
            assert time.monotonic() < end and self.process.poll() is None, self.output
            time.sleep(0.01)
        return found

    def at_work(self) -> dict[int, str]:
        """The pair of each process that works on one, once there are two."""
        found = {claim.pid: claim.pair_ids[0] for claim in read_claims(self.run_dir) if claim.alive}
        return found if len(found) == 2 else {}

    def have_met(self) -> bool:
        """Whether both are two updates far."""
        return len(list(self.run_dir.with_suffix(".meet").iterdir())) == 2

    def checkpoints(self) -> list[Path]:
        """Those of both ranks, once both have one."""
        found = sorted(self.run_dir.glob("checkpoints/doodl/*.ckpt"))
        return found if len(found) == 2 else []


@pytest.fixture(scope="module")
def setting(pipeline_folder: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "terms_of_ranks.py").write_text(_TERMS)
    (folder / "three.txt").write_text("a cat\na dog\na red car\n")
    own = ["methods=[doodl]", "logger=csv", "trainer.save_every_n_updates=1"]
    options = [*tiny_overrides(pipeline_folder, clip_folder, folder / "three.txt"), *own]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield Setting(options, folder)


def content(run_dir: Path) -> dict[str, Any]:
    """All files of all pairs, and ``results.csv``, without what is the machine's."""
    found: dict[str, Any] = {}
    for path in sorted(run_dir.glob("pairs/*/*/*")):
        name = str(path.relative_to(run_dir))
        found[name] = path.read_bytes()
        if path.name == "record.json":
            found[name] = {k: v for k, v in json.loads(found[name]).items() if k not in OF_THE_MACHINE}
    return found | {"results.csv": rows([run_dir / "results.csv"])}


def rows(paths: list[Path]) -> list[dict[str, str]]:
    """Of CSV files, in an order that does not depend on the files."""
    found = []
    for path in paths:
        with path.open(newline="") as stream:
            found += [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in csv.DictReader(stream)]
    return sorted(found, key=str)


def curves(run_dir: Path) -> list[dict[str, str]]:
    return rows(sorted(run_dir.glob("logs/*/updates*.csv")))


def means(run_dir: Path) -> dict[str, float]:
    """The aggregates, which one process of a run logs."""
    (path,) = run_dir.glob("logs/*/summary.json")
    found: dict[str, float] = json.loads(path.read_text())
    return found


def test_uneven_shards_and_a_pair_that_fails_on_one_rank(setting: Setting, tmp_path: Path) -> None:
    """Rank 0 has two pairs, rank 1 the one that breaks."""
    assert setting.run(tmp_path / "one", 1, "a dog") == 1
    with setting.start(tmp_path / "two", 1, "a dog") as ranks:
        assert ranks.wait() == 1, ranks.output
    assert content(tmp_path / "two") == content(tmp_path / "one")
    failed = [row for row in content(tmp_path / "two")["results.csv"] if row["status"] == "failed"]
    assert [row["error"] for row in failed] == ["ValueError: a dog is too much"]
    assert curves(tmp_path / "two") == curves(tmp_path / "one")
    # Sums of the same numbers in the same order: the rank of the failed pair has none.
    assert means(tmp_path / "two") == means(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two/logs").iterdir() if path.is_dir()) == [
        "doodl",  # the means, by whoever ended last
        "doodl-rank0of2",
        "doodl-rank1of2",
    ]


def test_a_signal_in_the_middle_and_the_rest_in_one_process(setting: Setting, tmp_path: Path) -> None:
    """Rank 0's batch of two falls apart, since a pair of it breaks; rank 1 has the third pair."""
    assert setting.run(tmp_path / "one", 2, "a dog") == 1
    with setting.start(tmp_path / "two", 2, "a dog", seconds=0.3) as ranks:
        ranks.until(ranks.have_met)
        names = [path.stem[:11] for path in ranks.until(ranks.checkpoints)]
        ranks.process.send_signal(signal.SIGTERM)
        assert ranks.wait() == 75, ranks.output
        assert not read_claims(tmp_path / "two")
    assert names == ["three-00000", "three-00002"]
    assert len(ranks.checkpoints()) == 2 and not list((tmp_path / "two").glob("pairs/doodl/*/record.json"))
    assert setting.run(tmp_path / "two", 2, "a dog") == 1
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert curves(tmp_path / "two") == curves(tmp_path / "one")
    assert means(tmp_path / "two") == means(tmp_path / "one")
    assert not ranks.checkpoints()


def test_a_rank_that_is_killed_leaves_its_share_and_no_other(setting: Setting, tmp_path: Path) -> None:
    assert setting.run(tmp_path / "one", 1) == 0
    with setting.start(tmp_path / "two", 1, seconds=0.1) as ranks:
        ranks.until(ranks.have_met)
        at_work = ranks.until(ranks.at_work)
        (victim,) = at_work.keys() - {ranks.process.pid}
        os.kill(victim, signal.SIGKILL)
        assert ranks.wait() == 1, ranks.output
    said = ranks.output
    assert "the process of local rank 1 ended with exit code -9; its pairs are left" in said, said
    assert "1 result is missing: the same command makes it" in said and "Traceback" not in said, said
    done = sorted(path.parent.name[:11] for path in (tmp_path / "two").glob("pairs/doodl/*/record.json"))
    assert done == ["three-00000", "three-00002"] and at_work[victim].startswith("three-00001")
    assert setting.run(tmp_path / "two", 1) == 0
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert means(tmp_path / "two") == means(tmp_path / "one")
