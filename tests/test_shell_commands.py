"""Commands in the README, docs, comments and help can be typed as they stand, in zsh too: brackets are quoted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from sgool.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in ("docs", "experiments", "slurm", "configs", "benchmarks", "sgool")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".md", ".yaml", ".sbatch", ".sh")
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES, ROOT / "Makefile"]
#: KEY=[...] or KEY={...} without a quote before it.
BARE = re.compile(r"(?<![\w'\"=.@/+~-])[+~]{0,2}[a-z][\w.@/]*=[\[{]")


def commands(page: Path) -> Iterator[str]:
    """The parts of a page that somebody may type into a shell: code that is not Python's or YAML's, and comments."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        yield from re.findall(r"#.*", text)
        return
    if page.suffix != ".md":
        yield text
        return
    for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, flags=re.DOTALL):
        if kind in ("", "bash", "sh", "console", "zsh"):
            yield block
    yield from re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_brackets_are_quoted(page: Path) -> None:
    assert [line for text in commands(page) for line in text.splitlines() if BARE.search(line)] == []


@pytest.mark.parametrize("command", sorted(get_command(app).commands))  # type: ignore[attr-defined]
def test_brackets_in_the_help_are_quoted(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"]).stdout
    assert text and BARE.search(text) is None


def test_the_search_finds_what_it_should() -> None:
    for bare in ("sgool fit data.seeds=[0,1]", "+models.judges.x={type: hps}", "`methods=[a]`", "-m methods=[a],[b]"):
        assert BARE.search(bare)
    for quoted in ("'data.seeds=[0,1]'", "models.guide='{model: x}'", '"methods=[a]"', "'+a.b={c: d}'"):
        assert BARE.search(quoted) is None
