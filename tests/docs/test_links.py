"""Links of Markdown files and notebooks work where the repository is browsed, as on GitHub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.building import ROOT

FOLDERS = ("docs", "experiments", "slurm", "sgool", "benchmarks", "notebooks", "tests", ".github")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for folder in FOLDERS for kind in ("*.md", "*.ipynb") for path in (ROOT / folder).rglob(kind)),
]
_BLOCK = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)")


def text_of(page: Path) -> str:
    """The Markdown of a page, without its blocks of code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return _BLOCK.sub("", text)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings: a second one of the same words ends in -1."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", text_of(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    numbered = [name if name not in found[:i] else f"{name}-{found[:i].count(name)}" for i, name in enumerate(found)]
    return set(numbered) | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text_of(page)))


def broken(page: Path) -> Iterator[str]:
    for link in _LINK.findall(re.sub(r"`[^`\n]+`", "", text_of(page))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if file.startswith("/") or not target.exists() or not target.is_relative_to(ROOT.resolve()):
            yield f"{link}: there is no such file"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield f"{link}: the page has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_has_a_head(page: Path) -> None:
    """A blank line within a table leaves rows that nothing renders as such."""
    lines = ["", *text_of(page).splitlines(), ""]
    starts = [
        number for number, line in enumerate(lines) if line.startswith("|") and not lines[number - 1].startswith("|")
    ]
    assert [lines[number] for number in starts if not re.match(r"\|[ :|-]+$", lines[number + 1])] == []


def test_the_search_finds_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`, twice\n\n## Same\n\n## Same\n\n"
        "[1](#a-title-twice) [2](#same-1) [3](page.md#same) [4](.) [5](https://example.org/nothing)\n"
        "`[6](nothing.md)`\n\n```\n[7](nothing.md)\n```\n\n[8](nothing.md) [9](#same-2) [10](../elsewhere.md)\n",
        encoding="utf-8",
    )
    assert [line.partition(":")[0] for line in broken(page)] == ["nothing.md", "#same-2", "../elsewhere.md"]
    assert len(PAGES) > 45
