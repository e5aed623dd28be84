"""The public names are typed: the README's examples have no errors under mypy and pyright."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the README's Python, a file for each block, and a call that has the wrong type."""
    folder = tmp_path_factory.mktemp("examples")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        (folder / f"readme_{number}.py").write_text(block, encoding="utf-8")
    wrong = (
        "from sgool import SGOOLPipeline\n\nSGOOLPipeline.from_pretrained('emoji_world')('a cat', candidates='many')\n"
    )
    (folder / "wrong.py").write_text(wrong, encoding="utf-8")
    return folder


def _check(command: list[str], pattern: str) -> dict[str, int]:
    """Returns how many errors a type checker finds in each file."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    files = re.findall(pattern, done.stdout, flags=re.MULTILINE)
    assert files, done.stdout + done.stderr  # the wrong call has one at least
    return {name: files.count(name) for name in sorted(set(files))}


def test_the_examples_have_no_errors_under_mypy(examples: Path) -> None:
    # From the checkout and by its settings, so that what `make lint` has read is not read again.
    command = [sys.executable, "-m", "mypy", *map(str, sorted(examples.glob("*.py")))]
    assert _check(command, r"([\w.]+):\d+: error: ") == {"wrong.py": 1}


def test_the_examples_have_no_errors_under_pyright(examples: Path) -> None:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(examples)]
    assert _check(command, r"/([\w.]+):\d+:\d+ - error: ") == {"wrong.py": 1}
