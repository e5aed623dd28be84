"""The notebooks run, and the outputs that are committed are those of their code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks.execute import cleaned, digest, executed

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: Arguments of the notebooks' calls that make them slow.
FAST = {"num_optimization_steps": 2, "candidates": 2, "budget": 30}
_MOST_BYTES = 150_000

ALL = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _forms(cell: Any) -> list[list[str]]:
    return [[output.output_type, *sorted(output.get("data", {}))] for output in cell.outputs]


def test_there_are_two_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["repair_a_prompt", "your_own_loss_detector_and_sampler"]


@ALL
def test_committed_outputs_are_those_of_the_code(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata["sgool"]["executed"] == digest(notebook), "run python notebooks/execute.py"
    assert [cell.execution_count for cell in _code(notebook)] == list(range(1, len(_code(notebook)) + 1))
    outputs = [output for cell in _code(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@ALL
def test_committed_outputs_are_small_and_name_no_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= _MOST_BYTES
    shown = json.dumps([cell.outputs for cell in _code(nbformat.read(path, as_version=4))])
    shown = re.sub(r'"image/png": "[^"]*"', "", shown)
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|usr)/|0x[0-9a-f]{6}", shown)


@ALL
def test_links_lead_to_files(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#:]+)\)", cell.source):
                assert (FOLDER / target).exists(), target


@ALL
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer updates; each cell has outputs of the committed forms."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.chdir(tmp_path)
    committed = _code(nbformat.read(path, as_version=4))
    run = _code(cleaned(executed(path, **FAST)))
    assert [_forms(cell) for cell in run] == [_forms(cell) for cell in committed]
