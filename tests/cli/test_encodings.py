"""Every command prints on terminals of any encoding, and writes its files in UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny_run import tiny_overrides

ROOT = Path(__file__).parents[2]


def _sgool(encoding: str, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    command = [sys.executable, "-W", "ignore", "-m", "sgool", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True)
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == code and "Traceback" not in err, out + err
    return out, err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_run_from_its_start_to_its_report(
    pipeline_folder: Path, clip_folder: Path, tmp_path: Path, encoding: str
) -> None:
    folder = tmp_path / "caf\u00e9 \u732b"
    folder.mkdir()
    prompts, run_dir = folder / "prompts.csv", folder / "run"
    prompts.write_text(f"prompt,guidance_scale\na c\u00e4t \u2192 \u732b {'and a dog ' * 30},3\n", encoding="utf-8")
    options = [line for line in tiny_overrides(pipeline_folder, clip_folder, Path("x")) if "data.prompts" not in line]
    options += [f"data.prompts='{prompts}'", f"run_dir='{run_dir}'", "methods=[vanilla,doodl]"]
    out, _ = _sgool(encoding, "fit", *options)
    assert ("1 pairs x vanilla, doodl" if encoding == "ascii" else "1 pairs \u00d7 vanilla, doodl") in out
    assert "->" in out and "over-long prompt 'a c" in out and "\\u732b" in out
    record = json.loads(next(run_dir.rglob("record.json")).read_text(encoding="utf-8"))
    assert record["prompt"].startswith("a c\u00e4t \u2192 \u732b")
    assert "a c\u00e4t \u2192 \u732b" in (run_dir / "results.csv").read_text(encoding="utf-8")
    _sgool(encoding, "status", run_dir)
    _sgool(encoding, "status", run_dir, "--json")
    _sgool(encoding, "score", run_dir)
    _sgool(encoding, "report", run_dir)
    assert "\u732b" in (run_dir / "report" / "index.html").read_text(encoding="utf-8")
    _sgool(encoding, "submit", *options, "--dry-run")
    prompts.write_text("prompt\nnew \u2192\n", encoding="utf-8")
    _sgool(encoding, "fit", *options)  # says that a record is left out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_other_commands_and_errors(pipeline_folder: Path, clip_folder: Path, tmp_path: Path, encoding: str) -> None:
    photo, run_dir = tmp_path / "\u732b.png", tmp_path / "\u2192"
    Image.new("RGB", (32, 32), "red").save(photo)
    options = [line for line in tiny_overrides(pipeline_folder, clip_folder, Path("x")) if "data.prompts" not in line]
    options += ["objective=color", "logger=none", f"run_dir='{run_dir}'"]
    out, _ = _sgool(encoding, "edit", photo, *options, "--max-error", "10")
    assert "->" in out
    _, err = _sgool(encoding, "fit", "name=\u2192", "methodz=[\u732b]", code=2)
    assert "->" in err or "\\u732b" in err
    for command in (["models"], ["doctor"], ["--help"], ["fit", "--help"], ["study", "--help"]):
        _sgool(encoding, *command)


def test_a_terminal_that_knows_all_gets_all(tmp_path: Path) -> None:
    _, err = _sgool("utf-8", "report", tmp_path / "\u2192 \u732b", code=2)
    assert "\u2192 \u732b" in err
    _, err = _sgool("utf-8", "report", "\udcff", code=2)  # a name that is no UTF-8
    assert "\\udcff is not a run folder" in err
