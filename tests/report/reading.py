"""A report as the tests read it: its HTML, and the gallery's data in it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

_VOID = ("meta", "link", "img", "input")


class Page(HTMLParser):
    """What the tests ask of the HTML. ``text`` is what stands in the page, but for scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.json = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())
        self.data: dict[str, Any] = json.loads(self.json)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and self.tags[-1][1].get("id") == "data":
            self.json += data
        elif self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(value in found.get(key.strip("_"), "").split() for key, value in attributes.items())
        ]

    def row(self, place: int = 0) -> list[dict[str, Any] | None]:
        """A pair's cells, by name."""
        names = ("file", "frames", "overlay", "aspect", "values", "initial", "answers", "first_answers", "error")
        return [cell and dict(zip(names, cell, strict=False)) for cell in self.data["rows"][place][5]]

    def images(self) -> list[Path]:
        """Every picture that the gallery names."""
        cells = [cell for row in self.data["rows"] for cell in row[5] if cell and cell[0]]
        return [self.path.parent / "images" / cell[0] for cell in cells]
