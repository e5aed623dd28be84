"""Votes, and the file in which they are kept."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from sgool.errors import SgoolError
from sgool.results.locks import lock, warn_of_no_locks
from sgool.study.key import StudyKey

RATER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}"
RATER_RULE = "1 to 40 letters, digits, '.', '_' and '-', the first a letter or digit"
ANSWERS = ("left", "tie", "right")
QUESTIONS = ("match", "prefer")
MOST_PROBLEMS = 50
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z"
_LONGEST_STEP = 1_000_000


@dataclass(frozen=True)
class Vote:
    """A vote: one rater's two answers to one item. The attributes are the columns of the votes' file.

    Attributes:
        study: The study's id.
        rater: The rater's id.
        form: The number of the form (the order of items) that the rater saw.
        position: The place of the item in that order, from 1.
        item: The item that was judged.
        left: The name of the image on the left.
        right: The name of the image on the right.
        match: Which image matches the text better: left, right or tie.
        prefer: Which image most people would prefer: left, right or tie.
        seconds: The time from the images' appearance to the second answer.
        answered_at: When the vote was given, in UTC by the rater's clock.
    """

    study: str
    rater: str
    form: int
    position: int
    item: str
    left: str
    right: str
    match: str
    prefer: str
    seconds: float
    answered_at: str

    def method(self, question: str, key: StudyKey) -> str | None:
        """Returns the method that the answer to a question is for, by the key; None for a tie."""
        answer = getattr(self, question)
        return None if answer == "tie" else key.items[self.item].images[getattr(self, answer)]


COLUMNS = tuple(field.name for field in fields(Vote))


class VotesError(SgoolError):
    """Raised for files of votes that cannot be read, with all problems at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        shown = [f"- {problem}" for problem in problems[:MOST_PROBLEMS]]
        more = [f"- and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        head = f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'} in the votes; nothing was scored:"
        super().__init__("\n".join([head, *shown, *more]))


def make_vote(values: Mapping[str, Any], key: StudyKey) -> Vote:
    """Make a vote from a row of the votes' file, or from JSON.

    Raises:
        ValueError: The values are no vote of this study; the message says what is wrong.
    """
    missing = [name for name in COLUMNS if not isinstance(values.get(name), (str, int, float))]
    if missing or len(values) != len(COLUMNS):
        raise ValueError(f"expected the fields {', '.join(COLUMNS)}; missing or wrong: {', '.join(missing) or 'none'}")
    text = {name: str(values[name]) for name in COLUMNS}
    if text["study"] != key.study:
        raise ValueError(f"it belongs to the study {text['study'][:40]!r}, the key to {key.study!r}")
    if not re.fullmatch(RATER, text["rater"]):
        raise ValueError(f"rater must be {RATER_RULE}, got {text['rater'][:80]!r}")
    item = key.items.get(text["item"])
    if item is None:
        raise ValueError(f"the study has no item {text['item'][:40]!r}")
    if sorted((text["left"], text["right"])) != sorted(item.images):
        raise ValueError(f"left and right are not the images of item {text['item']}")
    for question in QUESTIONS:
        if text[question] not in ANSWERS:
            raise ValueError(f"{question} must be one of {', '.join(ANSWERS)}, got {text[question][:40]!r}")
    if not re.fullmatch(_TIME, text["answered_at"], re.ASCII):
        raise ValueError(f"answered_at must look like 2025-01-31T12:00:00Z, got {text['answered_at'][:40]!r}")
    numbers = {"form": _whole(text, "form"), "position": _whole(text, "position"), "seconds": _seconds(text["seconds"])}
    return Vote(**(text | numbers))  # type: ignore[arg-type]


def read_votes(path: Path, key: StudyKey) -> tuple[list[Vote], list[str]]:
    """Read the votes of a file, and return them with its problems as ``FILE:LINE: what``."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets add a byte order mark
    except FileNotFoundError:
        return [], [f"{path}: there is no such file"]
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{path}: cannot be read as UTF-8 text: {error}"]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    votes, problems = [], []
    line = 1
    try:
        header = tuple(next(reader, ()))
        if header != COLUMNS:
            return [], [f"{path}:1: expected the header {','.join(COLUMNS)}, got {','.join(header)[:200] or 'nothing'}"]
        line = reader.line_num + 1
        for row in reader:
            try:
                if row and len(row) != len(COLUMNS):
                    raise ValueError(f"expected {len(COLUMNS)} fields, got {len(row)}: the line was cut or joined")
                if row:
                    votes.append(make_vote(dict(zip(COLUMNS, row, strict=True)), key))
            except ValueError as error:
                problems.append(f"{path}:{line}: {error}")
            line = reader.line_num + 1
    except csv.Error as error:
        problems.append(f"{path}:{line}: not CSV from here on: {error}")
    return votes, problems


class VoteFile:
    """The file to which a server appends votes; several threads and processes may append at the same time.

    Args:
        path: The file, which is made with its header at the first vote.
        most_bytes: The size from which votes are refused, so that nobody can fill the disk.
    """

    def __init__(self, path: Path, most_bytes: int = 64 * 2**20) -> None:
        self.path = path
        self.most_bytes = most_bytes
        self._lock = threading.Lock()

    def append(self, vote: Vote) -> None:
        """Append a vote as one line, which is on the disk when this returns; earlier lines stay as they are.

        Raises:
            OSError: The file system refuses, or the file is full.
        """
        line = _line(astuple(vote))
        with self.locked() as descriptor:
            size = os.fstat(descriptor).st_size
            if size + len(line) > self.most_bytes:
                raise OSError(f"{self.path} has reached {self.most_bytes} bytes")
            if size == 0:
                line = _line(COLUMNS) + line
            elif _last_byte(descriptor) != b"\n":  # a power cut left half a line, which must not be joined
                line = b"\n" + line
            written = os.write(descriptor, line)
            if written != len(line):  # the disk is full: the half line is removed, and the rater's page keeps the vote
                os.ftruncate(descriptor, size)
                raise OSError(f"only {written} of {len(line)} bytes could be written to {self.path}")
            os.fsync(descriptor)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Yield the descriptor of the open file, which nobody else writes meanwhile."""
        with self._lock:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            descriptor = os.open(self.path, flags, 0o644)
            try:
                if not lock(descriptor, wait=True):
                    warn_of_no_locks("the votes file's", "let only one server write it")
                yield descriptor
            finally:
                os.close(descriptor)  # this ends the lock too


def _last_byte(descriptor: int) -> bytes:
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1)


def _line(values: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _whole(text: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text[name], re.ASCII):
        raise ValueError(f"{name} must be a whole number below {_LONGEST_STEP}, got {text[name][:40]!r}")
    return int(text[name])


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < _LONGEST_STEP:
        raise ValueError(f"seconds must be a number from 0 to {_LONGEST_STEP}, got {text[:40]!r}")
    return value
