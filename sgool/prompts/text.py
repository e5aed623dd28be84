"""Reads a prompt file as text, checks the characters of a prompt, and collects a file's problems."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from sgool.errors import ConfigError

#: Most characters of a prompt. Text encoders read about 300; a longer text shows that the file is broken.
LONGEST = 2000
_MOST_PROBLEMS = 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
#: Characters that no prompt may have: control characters except tab and line ends (NUL shows UTF-16 or a binary file,
#: 80 to 9F a wrong encoding), and halves of surrogate pairs, which JSON can spell and no file can hold.
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Problems:
    """Collects the problems of one file or data set, so that one error reports them all.

    Args:
        path: The file or data set; each message starts with it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self._found: list[tuple[int, str]] = []

    @property
    def found(self) -> list[tuple[int, str]]:
        """The problems so far, each with its line."""
        return list(self._found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, line: int, problem: str) -> None:
        """Adds a problem; ``line`` counts from 1, and 0 means the file as a whole."""
        self._found.append((line, problem))

    def raise_if_any(self) -> None:
        """Raises an error with the problems sorted by line; beyond twenty, it only gives the number of the rest.

        Raises:
            ConfigError: There is at least one problem.
        """
        found = sorted(dict.fromkeys(self._found), key=lambda problem: problem[0])
        texts = [f"{self.path}{f', line {line}' if line else ''}: {problem}" for line, problem in found]
        if len(texts) > _MOST_PROBLEMS:
            texts = [*texts[:_MOST_PROBLEMS], f"{self.path}: and {len(texts) - _MOST_PROBLEMS} more like these"]
        if texts:
            raise ConfigError(texts)


def read_text(path: Path, problems: Problems) -> str:
    """Reads a file's text, UTF-8 with or without a byte order mark; it is unpacked if the name ends in .gz.

    Bytes that are not UTF-8 are added to the problems and replaced, so that the rest of the file is checked too.

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
    """Returns the reason why a stripped text can be no prompt or category, or None."""
    if len(text) > LONGEST:
        start = shown(text, 40)
        return f"{len(text)} characters, at most {LONGEST} make a prompt: {start}; is a quote not closed?"
    wrong = _NOT_TEXT.search(text)
    if wrong is None:
        return None
    what = "half of a surrogate pair" if wrong[0] >= "\ud800" else "the control character"
    return f"{what} U+{ord(wrong[0]):04X} at position {wrong.start() + 1}; is the file UTF-8?"


def shown(value: object, most: int = 60) -> str:
    """Returns a value's representation for a message, shortened and printable on any terminal."""
    if isinstance(value, str):
        return repr(value if len(value) <= most else value[:most] + "…")
    text = repr(value)
    return text if len(text) <= most else text[:most] + "…"
