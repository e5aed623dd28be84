"""Every code block of the guide's pages and of CONTRIBUTING.md is checked, and so is every command in a sentence."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sgool import SGOOLPipeline
from sgool.errors import ConfigError
from sgool.pipeline import SGOOLPipelineOutput
from sgool.prompts import read_prompts
from tests.docs import guide, snippets
from tests.docs.test_snippets import PAGES as RUN

ALL = [guide.ROOT / "CONTRIBUTING.md", *sorted(guide.DOCS.rglob("*.md"))]
CHECKED = [page for page in ALL if page not in RUN and snippets.blocks_of(page)]
INLINE = [page for page in ALL if guide.inline_commands(page)]


def named(page: Path) -> str:
    return str(page.relative_to(guide.ROOT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, from which modules can be imported, as from that of the installed command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.parametrize("page", CHECKED, ids=named)
def test_every_block_of_a_page_is_right(page: Path, folder: Path) -> None:
    done = guide.check_page(page, folder)
    assert done.total() >= 1
    assert done["text"] == len(guide.TEXTS.get(page.name, ()))


@pytest.mark.parametrize("page", INLINE, ids=named)
def test_every_command_in_a_sentence_is_right(page: Path, folder: Path) -> None:
    guide.save_files(page, folder)
    for words in guide.inline_commands(page):
        snippets.check(words[0], words[1:])


def test_what_is_not_checked_is_counted() -> None:
    """A text block without a reason, or a reason without its block, is found here, and so is a block of no language."""
    texts = {
        page.name: sum(block.language == "text" and not block.title for block in snippets.blocks_of(page))
        for page in ALL
    }
    assert {name: number for name, number in texts.items() if number} == {
        name: len(reasons) for name, reasons in guide.TEXTS.items()
    }
    languages = {block.language for page in ALL for block in snippets.blocks_of(page)}
    assert languages == {"bash", "python", "yaml", "text"}
    firsts = {block.text.split("\n")[0] for page in ALL for block in snippets.blocks_of(page)}
    assert set(guide.UNRUN) <= firsts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import lightning as L\nL.Trainer(max_epoch=1)", "max_epoch"),
        ("import lightning as L\nL.Trainr()", "has no Trainr"),
        ("import lightning as L\nt = L.Trainer()\nt.fitt(1)", "has no fitt"),
        ("t = L.Trainer()", "L comes from nowhere"),
    ],
)
def test_what_does_not_run_is_still_looked_up(text: str, message: str) -> None:
    with pytest.raises((AssertionError, TypeError), match=message):
        guide.resolve(text, {}, "here")


def test_wrong_blocks_are_found(folder: Path) -> None:
    def check(language: str, text: str, title: str | None = None) -> list[str]:
        return list(guide.check_block(snippets.Block(language, title, text), Path("page.md"), folder, {}))

    assert check("bash", "wandb login\nmake lint\nsgool report runs/a") == ["other program", "command", "command"]
    for text, message in (
        ("sgool fit optimization.lrr=1", r"did you mean `optimization\.lr`"),
        ("sgool report runs/a --agains b", "agains"),
        ("sgool doctor --memory much", "much"),
        ("sgool fit prompts.csv", "expected KEY=VALUE"),
    ):
        with pytest.raises((AssertionError, ConfigError), match=message):
            check("bash", text)
    with pytest.raises(AssertionError, match="needs the name"):
        check("yaml", "lr: 2\n")
    with pytest.raises(AssertionError, match="expected bash, python, yaml or text, got ''"):
        check("", "sgool fit")


def test_the_pipeline_s_tables_have_every_argument_and_every_result() -> None:
    text = (guide.DOCS / "pipeline.md").read_text(encoding="utf-8")
    tables = [re.findall(r"^\| ([^|]+) \|", part, re.MULTILINE)[1:] for part in text.split("\n\n")]
    constructor, loader, call, result = (
        [name for row in rows for name in re.findall(r"`(\w+)(?:\(\))?`", row)] for rows in tables if rows
    )

    def arguments(function: Any) -> list[str]:
        return [name for name in inspect.signature(function).parameters if name != "self"]

    assert constructor == arguments(SGOOLPipeline.__init__)
    assert sorted(loader) == sorted(arguments(SGOOLPipeline.from_pretrained))
    assert call == arguments(SGOOLPipeline.__call__)
    fields = [field.name for field in dataclasses.fields(SGOOLPipelineOutput)]
    assert sorted(result) == sorted([*fields, "scores", "comparison"])


def test_the_message_about_a_prompt_file_is_the_one_shown(folder: Path) -> None:
    (text,) = (block.text for block in snippets.blocks_of(guide.DOCS / "prompts.md") if block.language == "text")
    lines = ["prompt,category", "a red cat,b", ",b", "c,b", "d,b", "e,b", "f,g,b", "h,b", "a red cat,b"]
    Path("prompts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_prompts("prompts.csv")
    assert str(raised.value).strip() == text.strip()


def test_the_components_of_the_pages_run_together(folder: Path) -> None:
    """The detector, the term, the judge, the sampler and the method of the pages, in one run from their files."""
    for name in ("chain.md", "methods.md", "metrics.md", "objectives.md", "saliency.md"):
        guide.save_files(guide.DOCS / name, folder)
    term = "+objective.terms.warmth={_target_: my_terms.Warmth, weight: 0.5, margin: 0.3}"
    chosen = [
        "sampler=mine",
        "saliency=bright",
        "judges=bright",
        "+method@method.mine=mine",
        "methods=[mine,sgool]",
        term,
    ]
    words = [*chosen, "run_dir=run", "data.prompts=emoji_world/demo", "sampler.num_inference_steps=2"]
    snippets.run(["sgool", "fit", "--config-dir", ".", *words])
    records = list(Path("run").glob("pairs/*/*/record.json"))
    assert len(records) == 2
    for record in records:
        assert all(word in record.read_text(encoding="utf-8") for word in ("light/brightness", '"done"'))
