"""Votes for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sgool.study.build import Study
from sgool.study.key import COMPARISON, Item, StudyKey
from sgool.study.votes import COLUMNS, Vote, VoteFile

#: (rater, item, name of the left image, name of the right one) -> (match, prefer)
Answer = Callable[[str, Item, str, str], tuple[str, str]]


def page_data(page: Path) -> dict[str, Any]:
    """What the page loads."""
    text = (page / "data.js").read_text(encoding="ascii")
    return dict(json.loads(text.removeprefix("window.STUDY = ").removesuffix(";\n")))


def form_steps(data: Mapping[str, Any], form: int) -> list[tuple[str, str, str]]:
    """(item, left, right) of each step, as the page shows them."""
    steps = []
    for index, left in data["forms"][form]:
        item = data["items"][index]
        steps.append((item["id"], item["images"][left], item["images"][1 - left]))
    return steps


def vote(study: str, rater: str, item: str, images: Sequence[str], match: str = "left", **changes: Any) -> Vote:
    values = {"prefer": match, "form": 0, "position": 1, "seconds": 3.5, "answered_at": "2025-01-31T12:00:00.000Z"}
    left, right = images
    values |= {"study": study, "rater": rater, "item": item, "left": left, "right": right, "match": match}
    return Vote(**(values | changes))


def attentive(rater: str, item: Item, left: str, right: str) -> tuple[str, str]:
    """Right in every check, the left image otherwise."""
    owners = (item.images[left], item.images[right])
    if owners == ("same", "same"):
        return "tie", "tie"
    return ("right", "right") if owners[1] == "right" else ("left", "left")


def walk(study: Study, raters: Sequence[str], answer: Answer = attentive) -> list[Vote]:
    """Every rater goes through a form of the page."""
    data = page_data(study.page)
    votes = []
    for number, rater in enumerate(raters):
        for position, (item, left, right) in enumerate(form_steps(data, number % len(data["forms"])), start=1):
            match, prefer = answer(rater, study.key.items[item], left, right)
            given = vote(data["study"], rater, item, (left, right), match, prefer=prefer, position=position)
            votes.append(given)
    return votes


def write_votes(path: Path, votes: Sequence[Vote]) -> Path:
    """Append them as the server does; the file has a header even without a vote."""
    file = VoteFile(path)
    for one in votes:
        file.append(one)
    if not votes:
        path.write_text(",".join(COLUMNS) + "\n")
    return path


def small_key(methods: Sequence[str], items: Sequence[tuple[str, str, str]]) -> StudyKey:
    """A key with comparisons (prompt, method, method) named i0, i1, ...; their images are i0a, i0b, ..."""
    made = {
        f"i{number}": Item(COMPARISON, f"pair{number}", prompt, {f"i{number}a": first, f"i{number}b": second})
        for number, (prompt, first, second) in enumerate(items)
    }
    return StudyKey("s", "salt", 0, list(methods), made)
