"""`benchmarks/real_size.py` on tiny networks, on the CPU."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "real_size.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])


def test_it_runs_on_tiny_networks() -> None:
    done = run("--device", "cpu", "--tiny", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    for name in ("sdxl_turbo, 1 step", "flux_schnell, 4 step"):
        assert name in done.stdout
    rows = re.findall(r"^(direct|checkpoint)(, blocks)? +[\d.]+ +[\d.]+$", done.stdout, re.MULTILINE)
    assert len(rows) == 8
    # bfloat16 has three digits, and the network is shallow.
    cosines = [float(text) for text in re.findall(r"cosine ([\d.]+)", done.stdout)]
    assert len(cosines) == 2 and min(cosines) > 0.99


def test_real_size_on_a_cpu_is_refused() -> None:
    done = run("flux_schnell", "--device", "cpu")
    assert done.returncode == 2 and "real size needs a GPU" in done.stderr


def test_pipelines_are_made_on_a_device_that_numpy_cannot_read() -> None:
    """As on a GPU, where the tables of schedulers have to stay on the CPU."""
    spec = spec_from_file_location("real_size", SCRIPT)
    assert spec is not None and spec.loader is not None
    sys.modules["real_size"] = script = module_from_spec(spec)
    spec.loader.exec_module(script)
    for model in script.MODELS.values():
        pipeline = script.pipeline_of(model, True, "meta")
        network = getattr(pipeline, "unet", None) or pipeline.transformer
        assert next(network.parameters()).is_meta
