"""Every command prints on terminals of any encoding, and writes its files in UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny_run import tiny_overrides

ROOT = Path(__file__).parents[2]
#: Runs several commands in one process, since each start takes seconds.
_COMMANDS = """
import json, sys
from pathlib import Path
from sgool.cli import main
for line, text, *argv in json.loads(sys.argv[1]):
    if text:
        Path(text[0]).write_text(text[1], encoding="utf-8")
    sys.argv = ["sgool", *argv]
    try:
        main()
    except SystemExit as end:
        assert end.code == line, (argv, end.code)
"""


def _sgool(encoding: str, *commands: Sequence[object]) -> tuple[str, str]:
    """Runs commands, each an exit code, a file to be written first (or None), and arguments."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    plain = json.dumps([[code, text, *map(str, arguments)] for code, text, *arguments in commands])
    command = [sys.executable, "-W", "ignore", "-c", _COMMANDS, plain]
    done = subprocess.run(command, env=environment, capture_output=True)
    # Where it takes an encoding for a mistake, as ASCII, click prints UTF-8.
    out, err = (stream.decode(encoding, errors="replace") for stream in (done.stdout, done.stderr))
    assert done.returncode == 0 and "Traceback" not in err, out + err
    return out, err


def _options(pipeline: Path, clip: Path, run_dir: Path) -> list[str]:
    found = [line for line in tiny_overrides(pipeline, clip, Path("x")) if "data.prompts" not in line]
    return [*found, f"run_dir='{run_dir}'", "optimization.num_optimization_steps=1", "logger=none"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_command(pipeline_folder: Path, clip_folder: Path, tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "caf\u00e9 \u732b"
    folder.mkdir()
    prompts, run_dir, photo = folder / "prompts.csv", folder / "run", folder / "\u732b.png"
    Image.new("RGB", (32, 32), "red").save(photo)
    prompt = f"a c\u00e4t \u2192 \u732b {'and a dog ' * 30}".strip()
    first, second = ([str(prompts), f"prompt,guidance_scale\n{text},3\n"] for text in (prompt, "new \u2192"))
    options = [*_options(pipeline_folder, clip_folder, run_dir), f"data.prompts='{prompts}'", "methods=[vanilla,doodl]"]
    edit = [*_options(pipeline_folder, clip_folder, folder / "edit"), "objective=color", "--max-error", "10"]
    out, err = _sgool(
        encoding,
        [0, first, "fit", *options],
        [0, None, "status", run_dir],
        [0, None, "status", run_dir, "--json"],
        [0, None, "score", run_dir],
        [0, None, "submit", *options, "--dry-run"],
        [0, None, "edit", photo, *edit],
        [0, None, "models"],
        [0, None, "doctor"],
        [0, None, "--help"],
        [0, None, "fit", "--help"],
        [2, None, "fit", "name=\u2192", "methodz=[\u732b]"],
        [0, second, "fit", *options],
        [0, None, "report", run_dir],
    )
    assert ("1 pair x vanilla, doodl" if encoding == "ascii" else "1 pair \u00d7 vanilla, doodl") in out
    assert "->" in out and "over-long prompt 'a c" in out and "\\u732b" in out and "columns that are not used" in out
    assert "records are of pairs" in out and "records are of pairs" in err
    records = [json.loads(path.read_text(encoding="utf-8")) for path in run_dir.rglob("record.json")]
    assert {record["prompt"] for record in records} == {prompt, "new \u2192"}
    assert "new \u2192" in (run_dir / "results.csv").read_text(encoding="utf-8")
    assert "new \u2192" in (run_dir / "report" / "index.html").read_text(encoding="utf-8")


def test_a_terminal_that_knows_all_gets_all(tmp_path: Path) -> None:
    _, err = _sgool("utf-8", [2, None, "report", tmp_path / "\u2192 \u732b"], [2, None, "report", "\udcff"])
    assert "\u2192 \u732b" in err
    assert "\\udcff is not a run folder" in err  # a name that is no UTF-8
