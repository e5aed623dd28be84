"""The documentation site: it builds without a warning and without a network, and everything in it can be reached."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections import deque
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml

import sgool
from tests.docs.building import ROOT, build_site

#: Elements that a browser loads by itself, with the attribute that says from where.
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "srcset"}


class Page(HTMLParser):
    """A page's links, the files that it loads, the ids that one can link to, and its text outside of code."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.text: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {value for key in ("id", "name") if (value := values.get(key))}
        if tag == "a" and (href := values.get("href")):
            self.links.append(href)
        if values.get("rel") not in ("canonical", "prev", "next") and (url := values.get(LOADED.get(tag, ""))):
            self.loads.append(url)
        if tag in ("code", "pre", "script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    return build_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def hook(name: str) -> ModuleType:
    """One of the files in docs/ by which mkdocs makes pages."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def local(page: Path, link: str) -> tuple[Path, str] | None:
    """The file and the anchor that a link of a page leads to; None for links to other sites."""
    address, anchor = urldefrag(link)
    if urlsplit(address).scheme or address.startswith("//"):
        return None
    path = unquote(urlsplit(address).path)
    return (Path(os.path.normpath(page.parent / path)) if path else page), unquote(anchor)


def test_no_internal_link_is_broken(site: Path, pages: dict[Path, Page]) -> None:
    broken, checked = [], 0
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in page.links + page.loads:
            if link.startswith("data:") or (target := local(path, link)) is None:
                continue
            checked += 1
            file, anchor = target
            if not file.is_file() or (anchor and file in pages and anchor not in pages[file].ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    assert checked > 5000


def test_every_page_can_be_reached_from_the_home_page(site: Path, pages: dict[Path, Page]) -> None:
    home = site / "index.html"
    seen, left = {home}, deque([home])
    while left:
        path = left.popleft()
        for link in pages[path].links:
            target = local(path, link)
            if target and target[0] in pages and target[0] not in seen:
                seen.add(target[0])
                left.append(target[0])
    assert sorted(str(path.relative_to(site)) for path in pages.keys() - seen) == ["404.html"]


def test_every_page_of_docs_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load("nav:\n" + text.partition("\nnav:\n")[2].partition("\n\n")[0])["nav"]
    named = set(re.findall(r"[\w./-]+\.md", json.dumps(nav)))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(written) > 25
    assert written - named == set()


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    loads = {load for page in pages.values() for load in page.loads}
    assert [load for load in loads if urlsplit(load).scheme in ("http", "https") or load.startswith("//")] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles and not [css for css in styles if re.search(r"url\(['\"]?(https?:)?//|@import", css)]


def test_markdown_leaves_no_marks_in_the_text(site: Path, pages: dict[Path, Page]) -> None:
    """Lists without a blank line before them, tables and links that one dialect reads and the other does not."""
    marks = re.compile(r"\]\([\w./#-]+\)|\*\*\w|\n\| *-|\n- \w|^#+ \w|\{[:#] ?[\w.]+ ?\}")
    found = [
        f"{path.relative_to(site)}: {text.strip()[:80]}"
        for path, page in pages.items()
        for text in page.text
        if marks.search(text)
    ]
    assert found == []


def leaves(node: object, key: str = "") -> set[str]:
    """The dotted keys of a YAML file's values."""
    if not isinstance(node, dict) or not node:
        return {key}
    return set().union(*(leaves(value, f"{key}.{name}" if key else str(name)) for name, value in node.items()))


def test_every_configuration_key_is_there_with_its_meaning(site: Path, pages: dict[Path, Page]) -> None:
    from sgool.run.config import load_config, to_plain

    configuration = leaves(to_plain(load_config(["data.prompts=emoji_world/demo"])))
    documented = set().union(*(page.ids for path, page in pages.items() if path.parent.name == "config"))
    lacking = []
    for key in sorted(configuration):
        generic = re.sub(r"^(objective\.terms|models\.judges|method)\.\w+", r"\1.NAME", key)
        # A detector or another mapping may stand in one line of YAML, whose key explains it.
        parents = {generic.rsplit(".", count)[0] for count in range(generic.count(".") + 1)}
        if not parents & documented:
            lacking.append(key)
    assert lacking == []
    for key in ("optimization.lr", "sampler.gamma", "saliency.w_salient", "budget.calls", "objective.terms.NAME.clip"):
        assert key in documented


def test_a_key_without_a_comment_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = hook("make_config_reference")

    key = reference.Key("sampler.new", "1", "")
    choice = reference.Choice("sampler", "mine", "Mine.", (key,), "new: 1\n")
    monkeypatch.setattr(reference, "read_all", lambda: (choice,))
    with pytest.raises(ValueError, match=r"no file has a comment for sampler\.new"):
        reference.pages()


def test_comments_and_defaults_are_those_of_the_files(site: Path) -> None:
    reference = hook("make_config_reference")

    page = reference.pages()["sampler"].replace("\\", "")
    entry = page.partition("`sampler.mixing_coeff`")[2].partition("\n`sampler.")[0]
    assert "Mixing weight p in (0.5, 1]; 1 does not mix. Only in `edict`, `edict_edit`." in entry
    # The second half is the rule that checks it.
    assert "Default: `0.93`. May be: a number above 0.5 and at most 1." in entry
    entry = page.partition("`sampler.num_inference_steps`")[2].partition("\n`sampler.")[0]
    assert "Default: `models.preset.num_inference_steps`, else `12`." in entry


@pytest.mark.parametrize("name", [name for name in sgool.__all__ if not name.startswith("__")])
def test_every_public_name_has_its_place_in_the_reference(name: str, pages: dict[Path, Page]) -> None:
    homes = hook("make_reference")._homes()

    ids = set().union(*(page.ids for path, page in pages.items() if path.parent.name == "reference"))
    assert f"sgool.{name}" in ids or f"{homes[name]}.{name}" in ids


def test_what_an_object_does_when_it_is_called_is_there(pages: dict[Path, Page]) -> None:
    (page,) = (page for path, page in pages.items() if path.parts[-2:] == ("reference", "pipeline.html"))
    assert "sgool.pipeline.SGOOLPipeline.__call__" in page.ids
    assert not [name for name in page.ids if "._" in name.replace("__call__", "call")]


def test_the_search_s_index_has_prose_keys_and_names(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    texts = " ".join(f"{entry['title']} {entry['text']}" for entry in index["docs"])
    for words in ("optimization.grad_clip_value", "LatentPairModule", "sgool submit", "paired difference"):
        assert words in texts
    assert (site / "search" / "search_index.js").is_file()  # the one that a page from disk can read
