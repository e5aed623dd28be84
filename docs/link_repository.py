"""A mkdocs hook: links in pages that lead out of docs/ work in the site as they work on GitHub.

What such a link leads to becomes part of the site: a Markdown file a page, a picture or a table a file, any other text
a page that shows it, and a folder its README or a list of its files. No text stands there twice in the repository.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: Pages that have another place in the site than in the repository.
PLACES = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "configs": "reference/config/index.md",
    "sgool": "reference/index.md",
    "sgool/cli": "reference/commands.md",
    "sgool/config": "reference/config-room.md",
}
#: Pages of the navigation to which no page may lead by itself.
ALWAYS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md", "slurm/README.md")
#: Files that browsers show or that readers save; all others are shown in a page.
STATIC = (".png", ".webp", ".svg", ".jpg", ".csv")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sbatch": "bash", ".sh": "bash"}
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link to outside docs/, and what those pages link to."""
    pages = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    left = [(page, target) for page in pages for target in targets(page)]
    left += [(ROOT, ROOT / name) for name in ALWAYS]
    left += [(ROOT, path) for path in sorted((ROOT / "experiments").glob("*/README.md"))]
    while left:
        _, target = left.pop()
        place = place_of(target)
        if place is None or files.get_file_from_path(place) is not None:
            continue
        source = target / "README.md" if target.is_dir() and (target / "README.md").is_file() else target
        if source.suffix == ".md":
            files.append(File.generated(config, place, abs_src_path=str(source)))
            left += [(source, further) for further in targets(source)]
        elif source.suffix in STATIC:
            files.append(File.generated(config, place, abs_src_path=str(source)))
        else:
            files.append(File.generated(config, place, content=_shown(source)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turns links that lead out of docs/ into links to pages of the site."""
    source = page.file.abs_src_path
    if source is None:  # a page that a hook wrote
        return markdown
    folder = Path(source).parent

    def replaced(match: re.Match[str]) -> str:
        target = _target(folder, match[2])
        place = None if target is None else place_of(target)
        if place is None or files.get_file_from_path(place) is None:
            return match[0]
        relative = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{relative}{match[3]}"

    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _LINK.sub(replaced, part) for index, part in enumerate(parts))


def targets(page: Path) -> Iterator[Path]:
    """Yields the files and folders of the repository that a Markdown file links to."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    for match in _LINK.finditer(text):
        if (target := _target(page.parent, match[2])) is not None:
            yield target


def place_of(target: Path) -> str | None:
    """Returns where in the site a file or folder of the repository stands; None for what is not in the repository."""
    if not target.is_relative_to(ROOT):
        return None
    name = target.relative_to(ROOT).as_posix()
    if name in PLACES:
        return PLACES[name]
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    if room := re.fullmatch(r"sgool/(\w+)", name):
        return f"reference/{room[1]}.md"
    if group := re.fullmatch(r"configs/(\w+)", name):
        return f"reference/config/{group[1]}.md"
    if target.is_dir():
        return f"{name}/README.md" if (target / "README.md").is_file() else f"source/{name}/index.md"
    return name if target.suffix in (".md", *STATIC) else f"source/{name}.md"


def _target(folder: Path, link: str) -> Path | None:
    """Returns what a link of a page in this folder leads to, if it is there; mkdocs reports all others."""
    if re.match(r"[a-z]+:|/", link):
        return None
    target = Path(posixpath.normpath((folder / link).as_posix()))
    return target if target.exists() else None


def _shown(path: Path) -> str:
    """Returns the page of a file, or of a folder's files."""
    name = path.relative_to(ROOT).as_posix()
    unsearched = "---\nsearch:\n  exclude: true\n---\n\n"
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        if len(found) > 30:
            lines = [f"- `{file.relative_to(path).as_posix()}`" for file in found if file.name != "__init__.py"]
            return f"{unsearched}# {name}\n\n{len(lines)} files of the repository:\n\n" + "\n".join(lines) + "\n"
        files = "\n".join(f"## {file.relative_to(path).as_posix()}\n\n{_fence(file)}" for file in found)
        return f"{unsearched}# {name}\n\n{files}"
    return f"{unsearched}# {path.name}\n\n`{name}` of the repository.\n\n{_fence(path)}"


def _fence(path: Path) -> str:
    return f"````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text(encoding='utf-8').rstrip()}\n````\n"
