"""Every code block of the site's own pages runs: getting started, the tutorials, and the home page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docs import snippets

DOCS = snippets.ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "getting-started.md", *sorted((DOCS / "tutorials").glob("*.md"))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, from which modules can be imported, as from that of the installed command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in ("my_score", "my_terms"):
        if name not in before:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_block_of_a_page_runs(page: Path, folder: Path) -> None:
    ran = snippets.run_page(page, folder)
    written = sum(block.language == "bash" for block in snippets.blocks_of(page))
    assert len(ran) >= written // 2  # some blocks only list a folder


def test_a_block_that_is_wrong_is_found(folder: Path) -> None:
    """The harness itself: bash's quoting is kept, and a wrong key, option or exit code is an error."""
    assert snippets.commands_of("sgool fit 'a=[1,2]' \\\n  \"b c\" # no\n", folder) == [
        ["sgool", "fit", "a=[1,2]", "b c"]
    ]
    for wrong in (["sgool", "fit", "optimization.lrr=1", "--cfg"], ["sgool", "report", "nowhere"]):
        with pytest.raises(AssertionError, match="exit code 2"):
            snippets.run(wrong)
    with pytest.raises(AssertionError, match="nothing"):
        snippets.run(["sgool", "edit", "photo.jpg", "models=sd14", "--nothing"])
