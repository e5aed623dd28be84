"""Bytes of a prompt file to text, what a prompt may hold, and the record of a file's problems."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from sgool.errors import ConfigError

#: Characters of the longest prompt. Text encoders take about 300; beyond this it is no prompt but a broken file.
LONGEST = 2000
_MOST_PROBLEMS = 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
#: Control characters but tab and line ends (NUL: UTF-16 or a binary file; 80 to 9F: a wrong encoding), and halves of
#: surrogate pairs, which JSON can spell and no file can hold.
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Problems:
    """Collects what is wrong with one file or data set, to be raised together.

    Args:
        path: What the messages start with.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self._found: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, line: int, problem: str) -> None:
        """Notes a problem; ``line`` counts from 1, 0 means the file as a whole."""
        self._found.append((line, problem))

    def raise_if_any(self) -> None:
        """Raises what was noted, sorted by line; beyond twenty, only the number of the rest.

        Raises:
            ConfigError: One problem per line of the file.
        """
        found = sorted(dict.fromkeys(self._found), key=lambda problem: problem[0])
        texts = [f"{self.path}{f', line {line}' if line else ''}: {problem}" for line, problem in found]
        if len(texts) > _MOST_PROBLEMS:
            texts = [*texts[:_MOST_PROBLEMS], f"{self.path}: and {len(texts) - _MOST_PROBLEMS} more like these"]
        if texts:
            raise ConfigError(texts)


def read_text(path: Path, problems: Problems) -> str:
    """The file's text, UTF-8 with or without a byte order mark; unpacked if the name ends in .gz.

    Bytes that are not UTF-8 are noted with their lines and replaced, so that the rest of the file is looked at too.

    Raises:
        ConfigError: The file cannot be read at all, or is UTF-16.
    """
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError([f"{path}: cannot be read ({reason})"]) from error
    if content.startswith(_UTF16):
        raise ConfigError([f"{path}: expected UTF-8, got UTF-16; save it as UTF-8"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        _note_bytes(content, problems)
        return content.decode("utf-8-sig", errors="replace")


def _note_bytes(content: bytes, problems: Problems) -> None:
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            problems.add(number, f"expected UTF-8, got the byte 0x{byte:02x} at position {error.start + 1}")


def text_problem(text: str) -> str | None:
    """What keeps a stripped text from being a prompt or a category, if anything does."""
    if len(text) > LONGEST:
        start = shown(text, 40)
        return f"{len(text)} characters, at most {LONGEST} make a prompt: {start}; is a quote not closed?"
    wrong = _NOT_TEXT.search(text)
    if wrong is None:
        return None
    what = "half of a surrogate pair" if wrong[0] >= "\ud800" else "the control character"
    return f"{what} U+{ord(wrong[0]):04X} at position {wrong.start() + 1}; is the file UTF-8?"


def shown(value: object, most: int = 60) -> str:
    """A value for a message: shortened, and nothing in it that a terminal cannot print."""
    if isinstance(value, str):
        return repr(value if len(value) <= most else value[:most] + "…")
    text = repr(value)
    return text if len(text) <= most else text[:most] + "…"
