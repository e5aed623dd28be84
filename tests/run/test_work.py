"""One process's work: sharing with others, going on after signals, and what breaks on the way. Tiny real models."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.results.claims import Claims
from sgool.run.config import load_config
from sgool.run.fit import run_experiment
from sgool.run.outcome import Outcome
from sgool.run.progress import Progress
from sgool.types import PairRecord
from tests.tiny_run import tiny_overrides

#: What differs between two runs of the same pair.
OF_THE_MACHINE = ("seconds", "peak_memory_mib")


class Notes(Progress):
    """Keeps what is told; calls a function at each update."""

    def __init__(self, at_update: Callable[[int], None] | None = None) -> None:
        self.notes: list[str] = []
        self.records: list[PairRecord] = []
        self.batches: list[list[str]] = []
        self._at_update = at_update

    def note(self, text: str) -> None:
        self.notes.append(text)

    def batch(self, method: str, pairs: Sequence[Any]) -> None:
        self.batches.append([pair.prompt for pair in pairs])

    def update(self, update: int, total: int, *_: Any, **__: Any) -> None:
        if self._at_update is not None:
            self._at_update(update)

    def done(self, records: Sequence[PairRecord]) -> None:
        self.records += records


@pytest.fixture(scope="module")
def options(pipeline_folder: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    prompts = tmp_path_factory.mktemp("prompts") / "four.txt"
    prompts.write_text("a cat\na dog\na red car\ntwo trees\n")
    own = ["methods=[doodl]", "logger=none", "trainer.pairs_per_fit=2"]
    return [*tiny_overrides(pipeline_folder, clip_folder, prompts), *own]


def run(options: list[str], run_dir: Path, *more: str, notes: Notes | None = None) -> Outcome:
    return run_experiment(load_config([*options, f"run_dir={run_dir}", *more]), notes)


def content(run_dir: Path) -> dict[str, Any]:
    """All files of all pairs; records without what is the machine's."""
    found: dict[str, Any] = {}
    for path in sorted(run_dir.glob("pairs/**/*")):
        if path.is_file():
            name = str(path.relative_to(run_dir))
            found[name] = path.read_bytes()
            if path.name == "record.json":
                found[name] = {k: v for k, v in json.loads(found[name]).items() if k not in OF_THE_MACHINE}
    return found


@pytest.fixture(scope="module")
def undisturbed(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    assert run(options, run_dir).exit_code == 0
    return content(run_dir)


@pytest.mark.parametrize("order", [("1/2", "2/2"), ("2/2", "1/2"), ("2/3", "3/3", "1/3")])
def test_parts_in_any_order_make_the_same_run(
    order: tuple[str, ...], options: list[str], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    for part in order:
        outcome = run(options, tmp_path, f"trainer.shard={part}")
        assert outcome.exit_code == 0
    assert content(tmp_path) == undisturbed
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_update_and_then_the_rest(
    number: int, options: list[str], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    starts = 0
    while True:
        starts += 1
        seen = iter(range(100))

        def at_update(update: int, seen: Any = seen, stop_at: int = starts % 3) -> None:
            if next(seen) == stop_at:
                os.kill(os.getpid(), number)

        outcome = run(options, tmp_path, "trainer.save_every_n_updates=null", notes=Notes(at_update))
        if outcome.exit_code == 0:
            break
        assert outcome.exit_code == 75 and outcome.interrupted == signal.Signals(number).name
        assert outcome.missing == 4 - len(outcome.records)
        assert list((tmp_path / "checkpoints/doodl").glob("*.ckpt")) or outcome.records
        assert starts < 20
    assert starts > 3
    assert content(tmp_path) == undisturbed
    assert not list((tmp_path / "checkpoints").rglob("*.*")) and not list(tmp_path.glob("locks/*/*.lock"))


def test_a_batch_of_which_some_are_recorded_goes_on_as_that_batch(
    options: list[str], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    assert run(options, tmp_path, "data.limit=2").exit_code == 0
    # As if the process had died between the records of one batch.
    first, second = sorted((tmp_path / "pairs/doodl").iterdir())
    (second / "record.json").unlink()
    (tmp_path / "checkpoints/doodl").mkdir(parents=True, exist_ok=True)
    (tmp_path / "checkpoints/doodl/x.json").write_text(json.dumps([first.name, second.name]))
    notes = Notes()
    before = (first / "record.json").read_bytes()
    assert run(options, tmp_path, "data.limit=2", notes=notes).exit_code == 0
    assert notes.batches == [["a cat", "a dog"]] and [record.pair_id for record in notes.records] == [second.name]
    assert (first / "record.json").read_bytes() == before
    assert content(tmp_path) == {name: value for name, value in undisturbed.items() if name in content(tmp_path)}


def test_two_runners_share_a_folder_and_the_later_one_waits(
    options: list[str], undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgool.run.work._PATIENCE", 0.05)
    ids = [f"four-{index:05d}" for index in range(4)]
    names = sorted({Path(name).parts[2] for name in undisturbed})
    assert [name.startswith(prefix) for name, prefix in zip(names, ids, strict=True)] == [True] * 4
    held, go = threading.Event(), threading.Event()

    def other() -> None:
        with Claims(tmp_path).take("doodl", names[:1]) as free:
            assert free
            held.set()
            go.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(10)

    class Until(Notes):
        def note(self, text: str) -> None:
            super().note(text)
            go.set()  # the other one ends without a record: it was killed

    notes = Until()
    assert run(options, tmp_path, notes=notes).exit_code == 0
    thread.join()
    assert notes.batches == [["a red car", "two trees"], ["a cat", "a dog"]]
    assert notes.notes == [f"another runner works on 2 pairs of this one in {tmp_path}: waiting"]
    assert content(tmp_path) == undisturbed


def _failing(monkeypatch: pytest.MonkeyPatch, when: Callable[[int, Sequence[str]], Exception | None]) -> None:
    """Makes each fit raise what ``when`` says, given its number and its prompts."""
    from sgool.methods.latent_pairs import LatentPairModule

    original, number = LatentPairModule.training_step, iter(range(1000))

    def broken(self: LatentPairModule, batch: Any, index: int) -> Tensor:
        if batch.update == 1 and (error := when(next(number), [pair.prompt for pair in self.pairs])):
            raise error
        return original(self, batch, index)

    monkeypatch.setattr(LatentPairModule, "training_step", broken)


def test_out_of_memory_halves_the_batch_and_says_so(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, lambda number, prompts: torch.OutOfMemoryError("CUDA") if len(prompts) > 1 else None)
    notes = Notes()
    assert run(options, tmp_path, "trainer.pairs_per_fit=4", notes=notes).exit_code == 0
    assert notes.notes == [
        "out of memory with 4 pairs in a fit: from now on 2",
        "out of memory with 2 pairs in a fit: from now on 1",
    ]
    assert [len(batch) for batch in notes.batches] == [4, 2, 1, 1, 1, 1]


def test_out_of_memory_with_one_pair_stops_with_advice(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried"
    )
    _failing(monkeypatch, lambda number, prompts: cpu)
    with pytest.raises(SgoolError, match=r"out of memory with a single pair. Use engine=checkpoint"):
        run(options, tmp_path, "trainer.pairs_per_fit=1")


def test_a_pair_that_breaks_takes_no_mate_along(
    options: list[str], undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _failing(patch, lambda number, prompts: ValueError("no dogs") if "a dog" in prompts else None)
        notes = Notes()
        outcome = run(options, tmp_path, notes=notes)
    assert outcome.exit_code == 1 and [record.prompt for record in outcome.failed] == ["a dog"]
    assert outcome.failed[0].error == "ValueError: no dogs"
    assert notes.notes == ["a fit of 2 pairs ended in ValueError: no dogs; now one by one"]
    assert [len(batch) for batch in notes.batches] == [2, 1, 1, 2]
    assert run(options, tmp_path).exit_code == 0  # tried again
    assert content(tmp_path).keys() == undisturbed.keys()


def test_what_always_breaks_stops_the_run(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, lambda number, prompts: KeyError("oops"))
    with pytest.raises(SgoolError, match=r"3 prompts in a row ended in an error, the last one in KeyError: 'oops'"):
        run(options, tmp_path, "trainer.pairs_per_fit=1")
    assert len(list(tmp_path.glob("pairs/doodl/*/record.json"))) == 3
    with pytest.raises(KeyError, match="oops"):
        run(options, tmp_path / "debug", "debug=true")


def test_failures_of_before_keep_nobody_waiting(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [*options, "trainer.pairs_per_fit=1"]
    with monkeypatch.context() as patch:
        _failing(patch, lambda number, prompts: KeyError("oops"))
        with pytest.raises(SgoolError, match="3 prompts in a row"):
            run(alone, tmp_path)
    with monkeypatch.context() as patch:
        _failing(patch, lambda number, prompts: None if prompts == ["two trees"] else KeyError("oops"))
        notes = Notes()
        outcome = run(alone, tmp_path, notes=notes)
    # The one that was never tried comes first, and its success shows that the others' trouble is their own.
    assert notes.batches == [["two trees"], ["a cat"], ["a dog"], ["a red car"]]
    assert [record.status for record in outcome.records] == ["failed"] * 3 + ["done"]


def test_a_method_that_ever_ended_well_is_not_stopped_by_the_pairs_that_broke_before(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else those that are tried again at each start would keep all methods after it from ever beginning."""
    assert run(options, tmp_path, "data.indices=[3]").exit_code == 0
    _failing(monkeypatch, lambda number, prompts: KeyError("oops") if prompts != ["two trees"] else None)
    for _ in range(2):
        outcome = run(options, tmp_path, "methods=[doodl,vanilla]")
        assert [record.status for record in outcome.records] == ["failed"] * 3 + ["done"] * 5
    # Of a method that has none, it is still no pair's own trouble, and what broke in others does not count for it.
    with pytest.raises(SgoolError, match="3 prompts in a row ended in an error"):
        run(options, tmp_path, "methods=[doodl,reno]")
    assert len(list(tmp_path.glob("pairs/reno/*/record.json"))) == 3


def test_anew_means_without_old_checkpoints(options: list[str], undisturbed: dict[str, Any], tmp_path: Path) -> None:
    stop = Notes(lambda update: os.kill(os.getpid(), signal.SIGTERM) if update == 2 else None)
    assert run(options, tmp_path, notes=stop).exit_code == 75
    told: list[int] = []
    assert run(options, tmp_path, "resume=false", notes=Notes(told.append)).exit_code == 0
    assert told == [1, 2, 3, 4] * 2
    assert content(tmp_path) == undisturbed


def test_changed_settings_need_a_word(options: list[str], tmp_path: Path) -> None:
    config = load_config([*options, f"run_dir={tmp_path}", "data.limit=1", "methods=[vanilla]"])
    assert run_experiment(config).exit_code == 0
    changed = ["data.limit=2", "methods=[vanilla]", "sampler.guidance_scale=2"]
    other = load_config([*options, f"run_dir={tmp_path}", *changed])
    with pytest.raises(SgoolError, match=r"(?s)sampler.guidance_scale: was .*, is 2.*--resume-with-changes"):
        run_experiment(other)
    outcome = run_experiment(other, accept_changes=True)
    assert outcome.exit_code == 0 and outcome.new == 1
    assert "guidance_scale: 2" in (tmp_path / "config.yaml").read_text()
    (earlier,) = tmp_path.glob("config-*.yaml")
    assert "guidance_scale: 2" not in earlier.read_text()


def test_a_signal_while_waiting_for_others(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    monkeypatch.setattr("sgool.run.work._PATIENCE", 0.05)
    names = sorted({Path(name).parts[2] for name in undisturbed})

    class Impatient(Notes):
        def note(self, text: str) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with Claims(tmp_path).take("doodl", names) as free:
        assert free
        began = time.monotonic()
        outcome = run(options, tmp_path, notes=Impatient())
    assert outcome.exit_code == 75 and outcome.missing == 4
    assert time.monotonic() - began < 250  # it ended: what it waited for never does


def test_what_breaks_while_results_are_handed_over_is_no_fault_of_a_pair(options: list[str], tmp_path: Path) -> None:
    class Deaf(Notes):
        def done(self, records: Sequence[PairRecord]) -> None:
            raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        run(options, tmp_path, "data.limit=1", notes=Deaf())
    (record,) = tmp_path.glob("pairs/doodl/*/record.json")
    assert json.loads(record.read_text())["status"] == "done" and (record.parent / "final.png").is_file()
    assert run(options, tmp_path, "data.limit=1").exit_code == 0


def test_the_seconds_of_a_failed_pair_are_its_own(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, lambda number, prompts: KeyError("oops") if prompts == ["two trees"] else None)

    class Slow(Notes):
        def done(self, records: Sequence[PairRecord]) -> None:
            super().done(records)
            time.sleep(1)

    outcome = run(options, tmp_path, "trainer.pairs_per_fit=1", notes=Slow())
    assert [record.prompt for record in outcome.failed] == ["two trees"]
    assert outcome.failed[0].seconds < 3  # three seconds were slept between the pairs before it


def test_a_kill_between_a_record_and_its_log_row_loses_no_row(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sgool.run.work import Worker

    def killed(*_: Any) -> None:
        raise SgoolError("as if killed: claims are given back, notes of the batch stay")

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_end_logs", killed)
        with pytest.raises(SgoolError, match="as if killed"):
            run(options, tmp_path, "logger=csv", "data.limit=2")
    assert len(list(tmp_path.glob("pairs/doodl/*/record.json"))) == 2
    for _ in range(2):
        assert run(options, tmp_path, "logger=csv", "data.limit=2").exit_code == 0
        with (tmp_path / "logs/doodl/pairs.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        names = sorted(path.name for path in (tmp_path / "pairs/doodl").iterdir())
        assert sorted(row["pair_id"] for row in rows) == names
        with (tmp_path / "logs/doodl/updates.csv").open(encoding="utf-8", newline="") as stream:
            batches = {row["batch"] for row in csv.DictReader(stream)}
        assert {row["batch"] for row in rows} == batches  # the rows say of which batch they are


class NeedsColumn:
    """A term that some pairs have nothing for."""

    input_size = None
    name = "needs"

    def targets(self, pairs: Sequence[Any]) -> Tensor:
        for pair in pairs:
            if pair.prompt.startswith("a "):
                raise SgoolError(f"{pair.prompt!r} begins with an article")
            if pair.prompt == "red":
                raise KeyError("no SgoolError: fails that pair alone")
        return torch.zeros(len(pairs), 1)

    def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
        return views.mean(dim=(1, 2, 3))


def test_all_pairs_are_bound_before_the_first_network_call(options: list[str], tmp_path: Path) -> None:
    own = f"+objective.terms.needs={{_target_: {__name__}.NeedsColumn, weight: 1}}"
    notes = Notes()
    with pytest.raises(ConfigError) as caught:
        run(options, tmp_path, "methods=[vanilla,doodl,best_of_n]", own, "data.seeds=2", notes=notes)
    assert caught.value.problems == tuple(
        f"{name!r} begins with an article" for name in ("a cat", "a dog", "a red car")
    )
    assert notes.batches == [] and not list(tmp_path.glob("pairs/*"))
    # A method without an objective has nothing to do with it.
    assert run(options, tmp_path, "methods=[vanilla]", own).exit_code == 0


def test_a_column_that_grad_cam_asks_for_is_missing(options: list[str], tmp_path: Path) -> None:
    wanted = ["saliency=grad_cam", "saliency.detector.query='{noun}'", "methods=[vanilla,sgool]"]
    with pytest.raises(ConfigError) as caught:
        run(options, tmp_path, *wanted)
    assert len(caught.value.problems) == 4 and not list(tmp_path.glob("pairs/*"))
    assert all("{noun} is no column of the prompt" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("key", ["models.dtype", "models.vae_dtype"])
def test_two_half_precisions_are_refused(options: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"`trainer\.precision`: expected 32-true with {key}=float16, got bf16"):
        load_config([*options, f"{key}=float16", "trainer.precision=bf16-mixed"])
