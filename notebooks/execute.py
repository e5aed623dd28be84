"""Executes the notebooks and writes their outputs back, small and without what differs from run to run.

    python notebooks/execute.py [NOTEBOOK ...]

Outputs keep texts and pictures; streams to stderr (progress bars, warnings of libraries), metadata and timings go.
Pictures are PNG files with a palette.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
_SECONDS = 600


def executed(path: Path, **numbers: int) -> Any:
    """Returns a notebook with the outputs of a fresh run, in a kernel of this Python, in the current directory.

    Args:
        path: The notebook.
        numbers: Values in place of those that the notebook has for arguments of these names, for a faster run.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell ended in an error.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            for name, number in numbers.items():
                cell.source = re.sub(rf"\b{name}=\d+", f"{name}={number}", cell.source)
    client = NotebookClient(
        notebook, timeout=_SECONDS, kernel_name="python3", resources={"metadata": {"path": os.getcwd()}}
    )
    client.execute()
    return notebook


def cleaned(notebook: Any) -> Any:
    """Returns a notebook whose outputs are small and the same wherever it was run."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "sgool": {"executed": digest(notebook)},
        }
    )
    for index, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = nbformat.from_dict({}), f"cell-{index}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                _clean(output)
    return notebook


def digest(notebook: Any) -> str:
    """Returns a digest of a notebook's code, by which a test sees that its outputs are those of this code."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _clean(output: Any) -> None:
    if "metadata" in output:
        output.metadata = nbformat.from_dict({})
    data = output.get("data", {})
    if "image/png" in data:
        data["image/png"] = _small(data["image/png"])
        data.pop("text/plain", None)  # a picture's text names an address in memory


def _small(picture: str) -> str:
    """Returns a picture in base64 as a PNG of at most 256 colours."""
    image = Image.open(BytesIO(base64.b64decode(picture))).convert("RGB")
    file = BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Executes the notebooks that are named, or all."""
    paths = [Path(name).resolve() for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        nbformat.write(cleaned(executed(path)), path)
        print(path.name)


if __name__ == "__main__":
    main()
