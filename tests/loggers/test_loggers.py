"""CSV files and W&B runs: equal to the run folder, across restarts and processes, without an account or a network."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from PIL import Image

from sgool.callbacks import Trajectory, default_callbacks
from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.loggers import Process, RunLogs, check_logger, make_up_logs
from sgool.loggers.bands import bands
from sgool.loggers.csv_logger import GrowingCsv
from sgool.loggers.wandb_file import read_transaction_log
from sgool.loggers.wandb_run import run_uid
from sgool.methods.latent_pairs import LatentPairModule
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import Objective, TextAlignment
from sgool.prompts.datamodule import PromptDataModule
from sgool.results import RunFolder
from sgool.results.claims import Claims
from sgool.results.shards import batch_name
from sgool.run.config import load_config
from sgool.run.train import train
from sgool.types import PromptSeed
from tests import logged_run
from tests.logged_run import PROMPTS, UPDATES, history, log_pair, open_logs, options, pair, record
from tests.wandb_files import WandbFile, frames, offline_files, read_table, read_wandb
from tests.wandb_server import wandb_server


@pytest.fixture(autouse=True)
def no_account(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a W&B login."""
    home = tmp_path_factory.mktemp("home")
    for name in os.environ:
        # The address of the service that this process has started is W&B's own affair.
        if name.startswith("WANDB_") and name != "WANDB_SERVICE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(home / "config"))
    monkeypatch.delenv("NETRC", raising=False)
    return home


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B without the settings and the login of other tests: it reads both once a process."""
    wandb.teardown()
    yield
    wandb.teardown()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def all_history(run_dir: Path, killed: int = 0) -> list[dict[str, Any]]:
    return [row for path in offline_files(run_dir, killed) for row in read_wandb(path).history]


# CSV


def test_csv_holds_updates_and_pairs_and_grows_over_restarts(tmp_path: Path) -> None:
    with open_logs(tmp_path, name="csv") as logs:
        log_pair(logs, tmp_path, 0)
        log_pair(logs, tmp_path, 1, updates=2)  # interrupted
    first = (tmp_path / "logs/doodl/updates.csv").read_bytes()
    with open_logs(tmp_path, name="csv") as logs:
        log_pair(logs, tmp_path, 1)  # from its checkpoint at an earlier update, or from the start
        logs.close({"judge/clip_score": 21.0})
    updates = tmp_path / "logs/doodl/updates.csv"
    assert updates.read_bytes().startswith(first)
    logged = [(row["batch"], int(row["update"]), float(row["loss"])) for row in rows_of(updates)]
    assert logged == [(pair(i).pair_id, u, history(i)[u]["loss"]) for i in (0, 1) for u in range(UPDATES)]
    pairs = rows_of(tmp_path / "logs/doodl/pairs.csv")
    assert [float(row["judge/clip_score"]) for row in pairs] == [record(i).metrics["judge/clip_score"] for i in (0, 1)]
    assert json.loads((tmp_path / "logs/doodl/summary.json").read_text()) == {"judge/clip_score": 21.0}


def test_a_pair_that_is_done_again_is_logged_again(tmp_path: Path) -> None:
    for status in ("failed", "done"):
        with open_logs(tmp_path, name="csv") as logs:
            log_pair(logs, tmp_path, 0, status=status)
    assert len(rows_of(tmp_path / "logs/doodl/updates.csv")) == 2 * UPDATES
    assert not (tmp_path / "logs/doodl/summary.json").exists()
    # The failed pair has no metrics: other columns, so another file.
    assert rows_of(tmp_path / "logs/doodl/pairs.csv")[0]["status"] == "failed"
    assert rows_of(tmp_path / "logs/doodl/pairs-2.csv")[0]["status"] == "done"


def test_half_a_row_is_cut_off(tmp_path: Path) -> None:
    table = GrowingCsv(tmp_path, "x")
    table.append({"a": 1, "b": "two, \u201cquoted\u201d\nlines"})
    whole = (tmp_path / "x.csv").read_bytes()
    for end in (b"3", b"3,f", b'3,"f'):
        (tmp_path / "x.csv").write_bytes(whole + end)
        GrowingCsv(tmp_path, "x")
        assert (tmp_path / "x.csv").read_bytes() == whole
    (tmp_path / "x.csv").write_bytes(b"a,b")  # not even the header
    GrowingCsv(tmp_path, "x").append({"a": 5, "b": 6})
    assert [row for row in GrowingCsv(tmp_path, "x").rows()] == [{"a": "5", "b": "6"}]


def test_processes_write_logs_of_their_own(tmp_path: Path) -> None:
    parts = [Process(), Process(part=2, parts=4), Process(1, 2, 2, 4), Process(rank=1, world_size=2)]
    opened = [open_logs(tmp_path, process, name="csv") for process in [*parts, Process()]]
    # The last is a second runner that was started on the folder by mistake.
    names = ["doodl", "doodl-part2of4", "doodl-part2of4-rank1of2", "doodl-rank1of2", "doodl-2"]
    assert [logs.loggers[0].name for logs in opened] == names
    for logs in opened:
        logs.close()
    with open_logs(tmp_path, name="csv") as again:
        assert again.loggers[0].name == "doodl"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose process was killed at the third update of its third pair."""
    run_dir, root = tmp_path_factory.mktemp("killed") / "run", Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"PYTHONPATH": str(root), "WANDB_CONFIG_DIR": str(run_dir.parent / "config")}
    command = [sys.executable, "-m", "tests.logged_run", str(run_dir)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (-9, "logged\n"), done.stderr
    return run_dir


def test_a_killed_process_leaves_what_it_logged(killed: Path) -> None:
    updates = killed / "logs/doodl/updates.csv"
    assert [int(row["update"]) for row in rows_of(updates)] == [0, 1, 2, 0, 1, 2, 0, 1]
    with open_logs(killed, name="csv") as logs:  # its lock has ended with it
        log_pair(logs, killed, 2)
    logged = Counter((row["batch"], row["update"]) for row in rows_of(updates))
    assert len(logged) == 3 * UPDATES and set(logged.values()) == {1}


@pytest.mark.parametrize("logger", ["csv", "wandb"])
def test_rows_of_a_process_that_was_killed_before_it_logged_them(tmp_path: Path, logger: str) -> None:
    folder = RunFolder(tmp_path)
    config = {"name": "try", "logger": options(name=logger)}
    with open_logs(tmp_path, name=logger) as logs:
        log_pair(logs, tmp_path, 0)
    for index in (1, 2, 3, 4):  # recorded, and no more
        folder.write(record(index))
    (tmp_path / "checkpoints/doodl").mkdir(parents=True)
    note = {"pairs": [pair(2).pair_id, pair(3).pair_id], "update": 0, "of": None}
    (tmp_path / "checkpoints/doodl/a.json").write_text(json.dumps(note))
    note["pairs"] = [pair(4).pair_id, pair(5).pair_id]  # one of them is not recorded: both will be done again
    (tmp_path / "checkpoints/doodl/b.json").write_text(json.dumps(note))
    held = Claims(tmp_path).take("doodl", [pair(1).pair_id])
    with held as free:  # a process that lives logs its own
        assert free
        make_up_logs(folder, config, "doodl", folder.records())
    assert logged_pairs(tmp_path, logger) == [0, 2, 3]
    for _ in range(2):
        make_up_logs(folder, config, "doodl", folder.records())
        assert logged_pairs(tmp_path, logger) == [0, 2, 3, 1]
    make_up_logs(folder, config | {"logger": {"name": "none"}}, "doodl", folder.records())
    make_up_logs(folder, config, "sgool", folder.records())
    if logger == "csv":
        rows = rows_of(tmp_path / "logs/doodl/pairs.csv")
        batch = batch_name([pair(2).pair_id, pair(3).pair_id])
        assert [row["batch"] for row in rows] == [pair(0).pair_id, batch, batch, pair(1).pair_id]
        assert [float(row["judge/clip_score"]) for row in rows] == [20 + index / 3 for index in (0, 2, 3, 1)]


def test_each_of_two_loggers_gets_what_it_lacks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with open_logs(tmp_path, name="csv") as logs:
        log_pair(logs, tmp_path, 0)
    with open_logs(tmp_path, name="wandb") as logs:
        log_pair(logs, tmp_path, 1)
    for index in (0, 1, 2):
        folder.write(record(index))
    both = {"name": "try", "logger": options(name=["csv", "wandb"])}
    for _ in range(2):
        make_up_logs(folder, both, "doodl", folder.records())
        assert sorted(logged_pairs(tmp_path, "csv")) == sorted(logged_pairs(tmp_path, "wandb")) == [0, 1, 2]


def logged_pairs(run_dir: Path, logger: str) -> list[int]:
    """The indices of the pairs that have a row, in the order of the rows."""
    if logger == "csv":
        ids = [row["pair_id"] for row in rows_of(run_dir / "logs/doodl/pairs.csv")]
    else:
        counts = [row["pair/count"] for row in all_history(run_dir) if "pair/count" in row]
        ids = (run_dir / "wandb/sgool/doodl.pairs").read_text().splitlines()
        assert counts == list(range(1, len(ids) + 1))
    return [next(index for index in range(6) if pair(index).pair_id == name) for name in ids]


def test_a_pair_tried_again_by_a_process_that_was_killed(tmp_path: Path) -> None:
    with open_logs(tmp_path, name="csv") as logs:
        log_pair(logs, tmp_path, 0, status="failed")
    RunFolder(tmp_path).write(record(0))
    make_up_logs(RunFolder(tmp_path), {"name": "try", "logger": {"name": "csv"}}, "doodl", [record(0)])
    assert rows_of(tmp_path / "logs/doodl/pairs-2.csv")[0]["status"] == "done"


def test_an_unwritable_log_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(SgoolError, match=r"Cannot write to .*logs.*logger=none"):
        open_logs(tmp_path, name="csv")


# Curves of a real fit


def test_a_fit_is_logged_as_its_histories_say_and_not_changed_by_it(
    models: StableDiffusion, clip_tower: ClipTower, tmp_path: Path
) -> None:
    pairs = [PromptSeed("a cat", seed=0), PromptSeed("a dog", seed=1)]

    def fitted(name: str) -> tuple[torch.Tensor, Trajectory, torch.Tensor]:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        objective = Objective({"text": TextAlignment(clip_tower)}, {"text": 2.0})
        module = LatentPairModule(Chain(models, num_inference_steps=2), objective, num_optimization_steps=3)
        callbacks = default_callbacks()
        with open_logs(tmp_path / name, name=name) as logs:
            logs.begin(pairs)
            trainer = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "callbacks": callbacks}
            train(module, PromptDataModule(pairs), logger=list(logs.loggers), **trainer)
        trajectory = next(c for c in callbacks if isinstance(c, Trajectory))
        return module.latents.detach(), trajectory, before == torch.get_rng_state()

    latents, trajectory, untouched = fitted("csv")
    for other in ("none", "wandb"):
        other_latents, other_trajectory, other_untouched = fitted(other)
        assert latents.equal(other_latents) and trajectory.history == other_trajectory.history
        assert untouched.equal(other_untouched)
    (path,) = (tmp_path / "csv/logs/doodl").glob("updates*.csv")
    rows = rows_of(path)
    assert [int(row["update"]) for row in rows] == [0, 1, 2]
    for update, row in enumerate(rows):
        seen = [trajectory.history[index][update] for index in range(2)]
        for name, column in (("loss", "loss"), ("selection", "selection"), ("text", "term/text")):
            assert float(row[column]) == pytest.approx(sum(s[name] for s in seen) / 2, rel=1e-12)
        assert float(row["gradient_norm"]) > 0 and float(row["latent_norm"]) > 0


def test_bands_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3))
    histories = [[{"update": u, "loss": float(row[u])} for u in range(3)] for row in values]
    histories[0] = histories[0][:2]  # stopped early
    histories[1][0]["loss"] = float("nan")  # failed
    found = bands(histories)
    assert [(row["curve/update"], row["curve/pairs"]) for row in found] == [(0, 7), (1, 7), (2, 6)]
    expected = values[[0, 2, 3, 4, 5, 6], 0], values[:, 1], values[1:, 2]
    for row, column in zip(found, expected, strict=True):
        assert row["curve/loss/mean"] == pytest.approx(column.mean())
        assert row["curve/loss/p10"] == pytest.approx(np.quantile(column, 0.1))
        assert row["curve/loss/p90"] == pytest.approx(np.quantile(column, 0.9))


# W&B, offline


@pytest.fixture(scope="module")
def two_starts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[WandbFile]]]:
    """A run of four pairs in two starts, the second of which ends it."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_CONFIG_DIR", str(run_dir.parent / "config"))
        for pairs, summary in (((0, 1), None), ((2, 3), {"judge/clip_score": 20.5})):
            with open_logs(run_dir, images=3) as logs:
                for index in pairs:
                    log_pair(logs, run_dir, index)
                logs.close(summary)
    yield run_dir, [read_wandb(path) for path in offline_files(run_dir)]


def test_a_resumed_run_has_one_id_and_its_steps_go_on(two_starts: tuple[Path, list[WandbFile]]) -> None:
    run_dir, files = two_starts
    assert len(files) == 2 and all(file.ended for file in files)
    assert len({file.run_id for file in files}) == 1
    steps = [row["_step"] for file in files for row in file.history]
    assert steps == list(range(len(steps)))
    assert all(file.resume for file in files)  # else `wandb sync` would overwrite the first with the second
    for file in files:
        assert (file.name, file.group, file.job_type, file.tags) == ("try-doodl", "try", "doodl", ["try"])
        assert file.config["sampler"] == {"name": "ddim"} and file.config["environment"] == {"device": "cpu"}
    assert sorted(path.name for path in run_dir.iterdir()) == ["pairs", "wandb"]  # all of W&B's is in there


def test_curves_and_scores_are_those_of_the_run_folder(two_starts: tuple[Path, list[WandbFile]]) -> None:
    run_dir, files = two_starts
    logged = [row for file in files for row in file.history]
    updates = [(r["fit/batch"], r["fit/update"], r["fit/loss"], r["fit/selection"]) for r in logged if "fit/loss" in r]
    expected = []
    for index in range(4):
        rows = rows_of(run_dir / "pairs/doodl" / pair(index).pair_id / "history.csv")
        expected += [(index, int(r["update"]), float(r["loss"]), float(r["selection"])) for r in rows[:UPDATES]]
    assert updates == expected
    scores = [row for row in logged if "pair/count" in row]
    assert [row["pair/count"] for row in scores] == [1, 2, 3, 4]
    for index, row in enumerate(scores):
        stored = json.loads((run_dir / "pairs/doodl" / pair(index).pair_id / "record.json").read_text())
        metrics = stored["metrics"]
        assert row["pair/judge/clip_score"] == metrics["judge/clip_score"]
        gain = metrics["judge/clip_score"] - metrics["judge/clip_score_initial"]
        assert row["pair/judge/clip_score_gain"] == pytest.approx(gain)


def test_tables_hold_every_pair_once_with_images_up_to_the_limit(two_starts: tuple[Path, list[WandbFile]]) -> None:
    run_dir, files = two_starts
    logged = [row for file in files for row in file.history]
    pairs = [row for found in logged if "pairs.path" in found for row in read_table(run_dir, found, "pairs")]
    assert [row["prompt"] for row in pairs] == list(PROMPTS[:4])  # emoji, markup and 10,000 characters as they are
    assert [row["after"] is not None for row in pairs] == [True, True, True, False]
    assert all(row["before"] == row["saliency"] == "Image" for row in pairs[:3])
    staged = [path.read_bytes() for path in (run_dir / "wandb/data/artifacts/staging").iterdir()]
    images = [Image.open(io.BytesIO(data)) for data in staged if data.startswith(b"\x89PNG")]
    # 60 x 40 pixels, shrunk to a longest side of 32.
    assert {image.size for image in images} == {(32, 21)} and len({image.tobytes() for image in images}) == 3
    found = [row for r in logged if "histories.path" in r for row in read_table(run_dir, r, "histories")]
    expected = [(pair(i).pair_id, row["update"], row["loss"]) for i in range(4) for row in history(i)]
    assert [(row["pair_id"], row["update"], row["loss"]) for row in found] == expected


def test_aggregates_are_logged_where_they_are_given(two_starts: tuple[Path, list[WandbFile]]) -> None:
    _, (first, last) = two_starts
    assert not [key for key in first.summary if key.startswith(("mean/", "curve/"))]
    assert last.summary["mean/judge/clip_score"] == 20.5
    assert not first.rows("curve/update")
    curve = last.rows("curve/update")
    assert [row["curve/update"] for row in curve] == list(range(UPDATES + 1))
    assert curve[1]["curve/loss/mean"] == pytest.approx(sum(history(i)[1]["loss"] for i in range(4)) / 4)
    assert curve[1]["curve/pairs"] == 4  # of both starts
    # A last pair's values would say nothing about the run.
    assert "pair/judge/clip_score" not in last.summary and "fit/loss" not in last.summary
    assert last.summary["pair/count"] == 4


def test_after_a_kill_nothing_is_missing_and_nothing_twice(killed: Path) -> None:
    assert not read_wandb(offline_files(killed, killed=1)[0]).ended
    with open_logs(killed) as logs:
        log_pair(logs, killed, 2)
        logs.close({})
    rows = all_history(killed, killed=1)
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [row["pair/count"] for row in rows if "pair/count" in row] == [1, 2, 3]
    shown = [row["pair_id"] for r in rows if "pairs.path" in r for row in read_table(killed, r, "pairs")]
    assert shown == [pair(index).pair_id for index in range(3)]
    updates = Counter((row["fit/batch"], row["fit/update"]) for row in rows if "fit/loss" in row)
    assert set(updates.values()) == {1}
    assert {update for batch, update in updates if batch == 2} == {0, 1, 2}


def test_processes_have_runs_of_their_own_in_one_group(tmp_path: Path) -> None:
    opened = [open_logs(tmp_path, Process(rank=rank, world_size=2)) for rank in (0, 1)]
    mistaken = open_logs(tmp_path, Process(rank=0, world_size=2))
    for index, logs in enumerate([*opened, mistaken]):
        log_pair(logs, tmp_path, index)
    for logs, summary in ((opened[0], {"judge/clip_score": 1.0}), (opened[1], None), (mistaken, None)):
        logs.close(summary)
    files = [read_wandb(path) for path in offline_files(tmp_path)]
    assert len({file.run_id for file in files}) == 3 and {file.group for file in files} == {"try"}
    names = {file.name: [key for key in file.summary if key.startswith("mean/")] for file in files}
    assert names == {
        "try-doodl-rank0of2": ["mean/judge/clip_score"],
        "try-doodl-rank1of2": [],
        "try-doodl-rank0of2-2": [],
    }


def test_the_same_means_are_logged_once(tmp_path: Path) -> None:
    with open_logs(tmp_path) as logs:
        log_pair(logs, tmp_path, 0)
        logs.close({"judge/clip_score": 1.0})
    for means in (1.0, 2.0):  # the same command again, then with more pairs
        open_logs(tmp_path).close({"judge/clip_score": means})
    files = [read_wandb(path) for path in offline_files(tmp_path)]
    assert [len(file.rows("curve/update")) for file in files] == [UPDATES + 1, 0, UPDATES + 1]


def test_ids_belong_to_the_folder_and_move_with_it(tmp_path: Path) -> None:
    def run_id(run_dir: Path) -> str:
        with open_logs(run_dir) as logs:
            return str(logs.loggers[0].version)

    first, other = run_id(tmp_path / "a"), run_id(tmp_path / "b")
    shutil.move(tmp_path / "a", tmp_path / "c")
    assert run_id(tmp_path / "c") == first != other


def test_a_folder_gets_one_uid_whoever_comes_first(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(run_uid(tmp_path / "uid"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["uid"]
    (tmp_path / "uid").write_text("")  # as a power cut leaves it
    assert len(run_uid(tmp_path / "uid")) == 32


def test_records_of_several_blocks_and_broken_ends_are_read(tmp_path: Path) -> None:
    run_dir, config = tmp_path / "run", {"text": "\U0001f408x" * 40_000}
    with RunLogs(options(), run_dir=run_dir, name="try", method="doodl", config=config) as logs:
        for index in range(3):
            log_pair(logs, run_dir, index)
    (path,) = offline_files(run_dir)
    file = read_wandb(path)
    assert file.parts > 2 and file.config["text"] == config["text"]
    held = read_transaction_log(path)
    assert (held.pairs, held.rows, held.steps) == (3, 3, len(file.history)) and held.updates == {0: 2, 1: 2, 2: 2}
    data, cut = path.read_bytes(), tmp_path / "cut.wandb"
    known = 0
    for size in range(0, len(data), 977):
        cut.write_bytes(data[:size])
        assert read_transaction_log(cut).steps >= known  # never more than it was, never an error
        known = read_transaction_log(cut).steps
        if size > 7:
            assert read_transaction_log(cut).steps == len([1 for _ in _history_records(data[:size])])


def _history_records(data: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2 as proto

    for content, _ in frames(data):
        found = proto.Record.FromString(content)
        if found.WhichOneof("record_type") == "history":
            yield found


def test_curves_stay_within_limits(tmp_path: Path) -> None:
    place: dict[str, Any] = {"run_dir": tmp_path, "name": "try", "method": "doodl", "config": {}}
    with RunLogs(options(), **place, planned_updates=100_001) as logs:  # more than 50,000: every third is shown
        logs.begin([pair(0)])
        for update in range(7):
            logs.loggers[0].log_metrics({"loss": 1.0, "update": update}, step=100 + update)
    assert [row["fit/update"] for row in all_history(tmp_path)] == [0, 3, 6]


def test_disabled_leaves_nothing_but_its_state(tmp_path: Path) -> None:
    with open_logs(tmp_path, mode="disabled") as logs:
        log_pair(logs, tmp_path, 0)
        logs.close({"judge/clip_score": 1.0})
    assert not list((tmp_path / "wandb").glob("*run-*"))


def test_wandbs_errors_do_not_end_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs = open_logs(tmp_path)
    logs.loggers[0].experiment.finish()  # type: ignore[union-attr]
    log_pair(logs, tmp_path, 0)
    logs.close({"judge/clip_score": 1.0})
    assert caplog.text.count("W&B could not log (UsageError: ") == 1 and "the run goes on" in caplog.text
    with open_logs(tmp_path) as again:  # what could not be logged then is logged now
        assert again.loggers
    assert [row["pair/count"] for row in all_history(tmp_path) if "pair/count" in row] == [1]


def test_the_users_places_are_kept_and_ours_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "mine"))
    with open_logs(tmp_path / "run") as logs:
        log_pair(logs, tmp_path / "run", 0)
        assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "run/wandb/cache")
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "mine") and list((tmp_path / "mine").iterdir())
    assert "WANDB_CACHE_DIR" not in os.environ


# Uploading


def test_offline_starts_sync_into_one_run_without_duplicates(
    two_starts: tuple[Path, list[WandbFile]], tmp_path: Path
) -> None:
    run_dir, files = two_starts
    steps = [row["_step"] for file in files for row in file.history]
    with wandb_server() as server:
        first, second = (path.parent for path in offline_files(run_dir))
        _sync(server.address, first)  # as after the first start
        assert len(server.lines[files[0].run_id]) == len(files[0].history)
        _sync(server.address, first, second)  # the first is skipped: it is marked as synced
        _sync(server.address, first, second)
        (run_id,) = server.lines
        assert run_id == files[0].run_id
        lines = server.lines[run_id]
        assert [lines[number]["_step"] for number in sorted(lines)] == steps
        scores = [row["pair/judge/clip_score"] for row in lines.values() if "pair/count" in row]
        assert scores == [record(index).metrics["judge/clip_score"] for index in range(4)]
        assert server.summaries[run_id]["mean/judge/clip_score"] == 20.5
        assert {"pairs.table.json", "histories.table.json"} <= set(server.uploaded)
        assert any(name.startswith("media/images/") for name in server.uploaded)


def _sync(address: str, *folders: Path) -> None:
    environment = os.environ | {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
    command = [sys.executable, "-m", "wandb", "sync", *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("fresh_wandb")
def test_online_without_a_login_is_refused_at_once(no_account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SgoolError, match=r"online needs a W&B login.*`logger\.mode=offline`"):
        check_logger(options(mode="online"))
    check_logger(options())
    check_logger({"name": "csv"})
    (no_account / ".netrc").write_text("machine api.wandb.ai login user password 0123\n")
    check_logger(options(mode="online"))
    monkeypatch.setenv("NETRC", str(no_account / "other"))
    with pytest.raises(SgoolError, match="online needs a W&B login"):
        check_logger(options(mode="online"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check_logger(options(mode="online"))


@pytest.mark.usefixtures("fresh_wandb")
def test_online_without_a_network_goes_on_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgool.loggers import wandb_run

    monkeypatch.setattr(wandb_run, "_INIT_SECONDS", 2.0)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    with open_logs(tmp_path, mode="online") as logs:
        assert "W&B cannot be reached" in logs.notes[0] and "wandb sync" in logs.notes[0]
        log_pair(logs, tmp_path, 0)
    assert [row["pair/count"] for row in all_history(tmp_path) if "pair/count" in row] == [1]


@pytest.mark.usefixtures("fresh_wandb")
def test_online_logs_to_the_server_and_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        for index in range(2):
            with open_logs(tmp_path, mode="online") as logs:
                assert logs.notes[0].startswith(f"W&B: {server.address}")
                log_pair(logs, tmp_path, index)
        (lines,) = server.lines.values()
    steps = [lines[number]["_step"] for number in sorted(lines)]
    assert steps == list(range(len(steps)))
    assert [row["pair/count"] for row in lines.values() if "pair/count" in row] == [1, 2]


def test_the_made_up_run_is_whole() -> None:
    assert len(history(0)) > logged_run.UPDATES and record(0).pair_id == pair(0).pair_id


# Several loggers, and W&B's variables


def test_two_loggers_write_what_each_writes_alone(tmp_path: Path) -> None:
    with open_logs(tmp_path, name=["csv", "wandb"]) as logs:
        assert len(logs.loggers) == 2
        log_pair(logs, tmp_path, 0)
    (csv_file,) = tmp_path.glob("logs/*/pairs.csv")
    assert len(rows_of(csv_file)) == 1
    assert [row["pair/count"] for row in all_history(tmp_path) if "pair/count" in row] == [1]


def test_the_login_of_one_of_several_loggers_is_checked() -> None:
    with pytest.raises(SgoolError, match="online needs a W&B login"):
        check_logger(options(name=["csv", "wandb"], mode="online"))


@pytest.mark.parametrize(
    ("variables", "overrides", "expected"),
    [
        ({}, [], ("offline", "sgool", None, [])),
        (
            {"WANDB_MODE": "online", "WANDB_PROJECT": "mine", "WANDB_ENTITY": "us", "WANDB_TAGS": "a, b"},
            [],
            ("online", "mine", "us", ["a", "b"]),
        ),
        ({"WANDB_MODE": "dryrun", "WANDB_PROJECT": ""}, [], ("offline", "sgool", None, [])),
        (
            {"WANDB_MODE": "online", "WANDB_PROJECT": "mine", "WANDB_ENTITY": "us", "WANDB_TAGS": "a"},
            ["logger.mode=offline", "logger.project=sgool", "logger.entity=me", "logger.tags=[]"],
            ("offline", "sgool", "me", []),
        ),
    ],
)
def test_the_environment_counts_where_the_configuration_says_nothing(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], overrides: list[str], expected: tuple[Any, ...]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    logger = load_config(["logger=wandb", *overrides]).logger
    assert (logger.mode, logger.project, logger.entity, list(logger.tags)) == expected


def test_a_mode_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(SgoolError, match=r"`logger.mode`: expected .*WANDB_MODE.*got 'sometimes'"):
        load_config(["logger=wandb"])


def test_a_wrong_value_of_the_environment_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    monkeypatch.setenv("WANDB_TAGS", "x" * 65)
    with pytest.raises(SgoolError) as caught:
        load_config(["logger=wandb"])
    assert "got 'a/b', from the environment variable WANDB_PROJECT=a/b" in str(caught.value)
    assert f"from the environment variable WANDB_TAGS={'x' * 65}" in str(caught.value)
    with pytest.raises(SgoolError) as caught:
        load_config(["logger=wandb", "logger.project=c/d", "logger.tags=[]"])
    assert "got 'c/d'" in str(caught.value) and "variable" not in str(caught.value)
