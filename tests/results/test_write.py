"""Writing a pair: what the files hold, and nothing half-written counts."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from sgool.errors import SgoolError
from sgool.results import RunFolder
from sgool.results import folder as folder_module
from tests.fake_run import blob, fake_config, fake_pairs, fake_record, random_image

PAIR = fake_pairs()[0]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").open(fake_config(), device="test device")


def write(run: RunFolder, **changes: object) -> Path:
    return run.write(
        fake_record(PAIR, **changes),
        {"initial": random_image(PAIR, "vanilla"), "final": random_image(PAIR, "sgool")},
        blob(),
        [{"step": 0, "loss": 1.5}, {"step": 1, "loss": 0.1, "salient": 0.25}],
        {"initial": np.zeros((1, 4, 2, 2)), "best": np.full((1, 4, 2, 2), 0.1)},
    )


class Crash(BaseException):
    """What kills a process; not an Exception, as a signal's is not."""


class TestWrite:
    def test_files_and_record(self, run: RunFolder) -> None:
        folder = write(run)
        assert folder == run.path / "pairs" / "sgool" / PAIR.pair_id
        names = ["final.png", "history.csv", "initial.png", "latents.safetensors", "record.json", "saliency.png"]
        assert sorted(path.name for path in folder.iterdir()) == names
        assert run.records() == [fake_record(PAIR)]
        assert run.is_done("sgool", PAIR.pair_id)
        assert not run.is_done("doodl", PAIR.pair_id)

    def test_record_has_the_contract_keys(self, run: RunFolder) -> None:
        payload = json.loads((write(run) / "record.json").read_text())
        assert list(payload) == [
            "pair_id", "method", "prompt", "category", "seed", "status", "error", "num_optimization_steps", "best_step",
            "metrics", "network_evaluations", "seconds", "peak_memory_mib", "network_backward_passes",
        ]  # fmt: skip

    def test_images_are_clamped_and_rounded(self, run: RunFolder) -> None:
        image = random_image(PAIR, "sgool")
        stored = np.asarray(Image.open(write(run) / "final.png"))
        expected = np.rint(np.clip(image.astype(np.float32), 0, 1) * 255).transpose(1, 2, 0)
        np.testing.assert_array_equal(stored, expected)

    def test_saliency_takes_the_size_of_the_image(self, run: RunFolder) -> None:
        image = np.zeros((3, 48, 64))
        folder = run.write(fake_record(PAIR), {"final": image}, blob(12, 16))
        stored = Image.open(folder / "saliency.png")
        assert (stored.mode, stored.size) == ("L", (64, 48))
        same = run.write(fake_record(PAIR), {"final": image}, blob(48, 64))
        expected = np.rint(blob(48, 64)[0].astype(np.float32) * 255)
        np.testing.assert_array_equal(np.asarray(Image.open(same / "saliency.png")), expected)

    def test_history_keeps_columns_in_order_and_gaps_empty(self, run: RunFolder) -> None:
        text = (write(run) / "history.csv").read_text()
        assert text == "step,loss,salient\n0,1.5,\n1,0.1,0.25\n"

    def test_latents_are_float32(self, run: RunFolder) -> None:
        latents = load_file(write(run) / "latents.safetensors")
        assert sorted(latents) == ["best", "initial"]
        assert latents["best"].dtype == np.float32
        np.testing.assert_array_equal(latents["best"], np.full((1, 4, 2, 2), 0.1, np.float32))

    def test_takes_tensors_of_any_dtype_with_gradient(self, run: RunFolder) -> None:
        import torch

        image = torch.full((3, 8, 8), 0.5, dtype=torch.bfloat16, requires_grad=True)
        latents = {"initial": torch.arange(16.0, dtype=torch.float64).reshape(1, 4, 2, 2).transpose(2, 3)}
        record = fake_record(PAIR, metrics={"extra": torch.tensor(0.5), "count": np.int64(3)})
        folder = run.write(record, {"final": image}, torch.ones(1, 1, 8, 8), [{"loss": torch.tensor(0.25)}], latents)
        assert np.asarray(Image.open(folder / "final.png")).tolist() == np.full((8, 8, 3), 128).tolist()
        assert (folder / "history.csv").read_text() == "loss\n0.25\n"
        np.testing.assert_array_equal(load_file(folder / "latents.safetensors")["initial"], latents["initial"].numpy())
        assert run.records()[0].metrics["extra"] == 0.5
        assert run.records()[0].metrics["count"] == 3.0

    def test_a_second_result_leaves_nothing_of_the_first(self, run: RunFolder) -> None:
        write(run)
        folder = run.write(fake_record(PAIR, status="failed", error="out of memory"))
        assert [path.name for path in folder.iterdir()] == ["record.json"]
        assert run.records()[0].error == "out of memory"

    def test_group_may_read(self, run: RunFolder) -> None:
        old = os.umask(0o027)
        try:
            folder = write(run)
        finally:
            os.umask(old)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}

    @pytest.mark.parametrize(
        ("images", "saliency_map", "message"),
        [
            ({"final": np.zeros((1, 3, 8, 8))}, None, r"must be \(3, H, W\), got \(1, 3, 8, 8\)"),
            ({"final": np.full((3, 8, 8), np.nan)}, None, "not finite"),
            ({"best": np.zeros((3, 8, 8))}, None, "initial and final, got best.png"),
            ({}, np.zeros((3, 8, 8)), r"must be \(H, W\) or \(1, H, W\), got \(3, 8, 8\)"),
        ],
    )
    def test_bad_values_cost_nothing(self, run: RunFolder, images, saliency_map, message: str) -> None:
        write(run)
        with pytest.raises(ValueError, match=message):
            run.write(fake_record(PAIR), images, saliency_map)
        assert run.is_done("sgool", PAIR.pair_id)
        assert (run.pair_folder("sgool", PAIR.pair_id) / "final.png").exists()

    @pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "a b"])
    def test_names_stay_inside_the_folder(self, run: RunFolder, name: str) -> None:
        with pytest.raises(ValueError, match="must be letters"):
            run.pair_folder("sgool", name)
        with pytest.raises(ValueError, match="must be letters"):
            run.is_done(name, PAIR.pair_id)


class TestAtomicity:
    @pytest.mark.parametrize("last", ["initial.png", "final.png", "saliency.png", "history.csv", "latents.safetensors"])
    @pytest.mark.parametrize("before", [False, True], ids=["first time", "over an earlier result"])
    def test_a_crash_before_the_record_means_not_done(
        self, run: RunFolder, monkeypatch: pytest.MonkeyPatch, last: str, before: bool
    ) -> None:
        if before:
            write(run)
        real = folder_module.atomic_write

        def crash_after(path: Path, data: bytes) -> None:
            real(path, data)
            if path.name == last:
                raise Crash

        monkeypatch.setattr(folder_module, "atomic_write", crash_after)
        with pytest.raises(Crash):
            write(run)
        assert not run.is_done("sgool", PAIR.pair_id)
        assert run.records() == []
        assert run.scan().unfinished == (f"sgool/{PAIR.pair_id}",)
        monkeypatch.undo()
        write(run)
        assert run.records() == [fake_record(PAIR)]

    def test_a_killed_process_leaves_no_record(self, run: RunFolder) -> None:
        script = (
            "import os, sys\n"
            "from sgool.results import RunFolder\n"
            "from sgool.results import folder\n"
            "from tests.fake_run import fake_pairs, fake_record, random_image\n"
            "real = folder.atomic_write\n"
            "def kill(path, data):\n"
            "    if path.name == 'record.json':\n"
            "        os._exit(9)\n"
            "    real(path, data)\n"
            "folder.atomic_write = kill\n"
            "pair = fake_pairs()[0]\n"
            "RunFolder(sys.argv[1]).write(fake_record(pair), {'final': random_image(pair, 'sgool')})\n"
        )
        done = subprocess.run([sys.executable, "-c", script, str(run.path)], cwd=Path(__file__).parents[2])
        assert done.returncode == 9
        assert (run.pair_folder("sgool", PAIR.pair_id) / "final.png").exists()
        assert not run.is_done("sgool", PAIR.pair_id)

    def test_disk_full_keeps_other_pairs_and_says_so(self, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        write(run)
        other = fake_pairs()[1]

        def full(source: object, target: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(SgoolError, match=r"No space left on device\. Finished pairs are kept"):
            run.write(fake_record(other), {"final": random_image(other, "sgool")})
        assert run.is_done("sgool", PAIR.pair_id)
        assert not run.is_done("sgool", other.pair_id)
        assert list(run.pair_folder("sgool", other.pair_id).iterdir()) == []

    def test_leftovers_of_a_killed_write_go_with_the_next(self, run: RunFolder) -> None:
        folder = write(run)
        (folder / ".final.png.123-abc.tmp").write_bytes(b"half")
        write(run)
        assert not list(folder.glob(".*"))
