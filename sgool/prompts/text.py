"""Bytes of a prompt file to text, and the record of its problems."""

from __future__ import annotations

from pathlib import Path

from sgool.errors import ConfigError

_MOST_PROBLEMS = 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Problems:
    """Collects what is wrong with one file, to be raised together."""

    def __init__(self, path: Path) -> None:
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
    """The file's text, UTF-8 with or without a byte order mark.

    Bytes that are not UTF-8 are noted with their lines and replaced, so that the rest of the file is looked at too.

    Raises:
        ConfigError: The file cannot be read at all, or is UTF-16.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror or error})"]) from error
    if content.startswith(_UTF16):
        raise ConfigError([f"{path}: expected UTF-8, got UTF-16; save it as UTF-8"])
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            problems.add(number, f"expected UTF-8, got the byte 0x{byte:02x} at position {error.start + 1}")
    return content.decode("utf-8-sig", errors="replace")
