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

#: From left to right: a part may import itself and what stands before it. Parts in one tuple do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "types"),
    ("atomic", "interrupt", "paths", "progress", "quiet", "seeding", "shards"),
    ("checkpoint",),
    ("config",),
    ("prompts",),
    ("models",),
    ("diffusion",),
    ("saliency",),
    ("objectives",),
    ("module",),
    ("callbacks",),
    ("strategy", "trainer"),
    ("methods",),
    ("metrics",),
    ("results",),
    ("report",),
    ("loggers", "session"),
    ("means", "recording", "under_way"),
    ("work",),
    ("runner",),
    ("edit", "rescore", "slurm", "status"),
    ("study",),
    ("imagesets",),
    ("console", "doctor"),
    ("cli",),
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
    assert list(_imports(tree)) == [(1, "cli"), (2, "report"), (4, "runner")]
    (function,) = _functions(ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'))
    assert function == ("f", 2)
