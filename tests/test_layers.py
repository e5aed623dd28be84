"""The shape of the package: imports go one way, files and functions stay small, importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sgool"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 300
MOST_FUNCTION_LINES = 40

#: The most entries at the top of the package, beside those of `NO_ROOMS`.
MOST_ENTRIES = 18
NO_ROOMS = ("__init__.py", "__main__.py", "assets", "configs", "py.typed", "__pycache__")
#: The most rooms that may stand on each other.
MOST_FLOORS = 10

#: From bottom to top: a room may import itself and what lies below it. Rooms in one tuple do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "types"),
    ("config",),
    ("models", "prompts", "results"),
    ("diffusion", "report", "saliency"),
    ("loggers", "objectives", "study"),
    ("callbacks", "metrics"),
    ("methods",),
    ("run",),
    ("cli", "pipeline"),
    ("__main__",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def _part(file: Path) -> str:
    relative = file.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and part of everything that is imported from sgool, in functions and for type checking too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "sgool":
            names = [f"sgool.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "sgool" and rest:
                yield node.lineno, rest.partition(".")[0]


def _functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function, its docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, lines


def test_the_package_has_few_rooms_on_few_floors() -> None:
    entries = {entry.name for entry in PACKAGE.iterdir()} - {*NO_ROOMS}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
    below: dict[str, set[str]] = {}
    for file in FILES:
        targets = {target for _, target in _imports(ast.parse(file.read_text(encoding="utf-8")))}
        below.setdefault(_part(file), set()).update(targets & RANK.keys() - {_part(file)})
    del below["__init__"]

    def floors(room: str) -> int:
        """Rooms on the longest way of imports down from this one, itself included."""
        return 1 + max(map(floors, below[room]), default=0)

    assert below.keys() == RANK.keys()  # else a name above has no room
    assert max(map(floors, below)) == len(LAYERS) <= MOST_FLOORS


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_never_point_back(file: Path) -> None:
    part = _part(file)
    if part == "__init__":
        return  # the package's own exports, imported on first use
    assert part in RANK, f"add {part} to LAYERS, where it belongs"
    wrong = []
    for line, target in _imports(ast.parse(file.read_text(encoding="utf-8"))):
        backwards = RANK.get(target, -1) >= RANK[part] and target != part
        if backwards and target != "__version__":
            wrong.append(f"{file.name}:{line} imports sgool.{target}")
    assert wrong == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_are_small(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    long = [f"{name}: {lines} lines" for name, lines in _functions(ast.parse(text)) if lines > MOST_FUNCTION_LINES]
    assert long == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_are_absolute_and_unfinished_work_is_not_left_in_comments(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    relative = [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]
    assert relative == []
    assert [mark for mark in ("TO" + "DO", "FIX" + "ME", "XX" + "X") if mark in text] == []


@pytest.mark.parametrize(
    "module", ["sgool", "sgool.cli", "sgool.config", "sgool.errors", "sgool.types", "sgool.prompts"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    heavy = {"torch", "lightning", "diffusers", "transformers", "open_clip", "torchmetrics", "pandas", "wandb", "numpy"}
    setup = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})"
    code = f"{setup}; import {module}; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.returncode) == ("[]", 0), result.stderr


def test_the_check_itself_sees_backward_imports() -> None:
    tree = ast.parse("from sgool import cli\nimport sgool.report.page\ndef f():\n    from sgool.run.fit import fit\n")
    assert list(_imports(tree)) == [(1, "cli"), (2, "report"), (4, "run")]
    (function,) = _functions(ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'))
    assert function == ("f", 2)
