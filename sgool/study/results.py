"""``sgool study-results``: scores files of votes, with and without raters who failed the attention checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sgool.errors import SgoolError
from sgool.study.checks import SAME_IMAGE
from sgool.study.key import COMPARISON, StudyKey, read_key
from sgool.study.tally import Block, tally
from sgool.study.votes import QUESTIONS, Vote, VotesError, read_votes

ENOUGH_RIGHT = 2 / 3
"""Share of attention checks that a rater must answer right."""


@dataclass(frozen=True)
class Rater:
    """What is known of one rater.

    Attributes:
        name: The rater's id.
        comparisons: How many comparisons the rater judged, without checks.
        checks: How many attention checks the rater saw.
        right: How many checks the rater answered as expected.
        reason: Why the rater is left out of the main results; empty if the rater is not.
    """

    name: str
    comparisons: int
    checks: int
    right: int
    reason: str


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Attributes:
        study: The study's id.
        methods: The methods, in display order.
        lines: How many votes the files have.
        repeated: How many of these a later vote of the same rater on the same item replaced (or repeated).
        raters: All raters, by name.
        shown_items: How many comparisons the study can show.
        identical: Method pair -> number of prompt-seed pairs that were not shown, since both images are the same.
        left_out: How many images were missing when the study was made.
        main: The results without the excluded raters.
        everyone: The results with the excluded raters; None if nobody is excluded.
    """

    study: str
    methods: list[str]
    lines: int
    repeated: int
    raters: list[Rater]
    shown_items: int
    identical: dict[str, int]
    left_out: int
    main: Block
    everyone: Block | None


def study_results(files: Sequence[Path], key_path: Path | None = None) -> Results:
    """Read the votes of a study and score them.

    Args:
        files: Files of the server and of raters, in any order; the same vote in two files counts once.
        key_path: The study's key; None: ``key.json`` beside the first file.

    Raises:
        SgoolError: There is no file, no key or no vote.
        VotesError: Files cannot be read; the message lists all problems of all files.
    """
    if not files:
        raise SgoolError("Nothing to score: give at least one file of votes.")
    key = read_key(key_path or files[0].parent / "key.json")
    votes: list[Vote] = []
    problems: list[str] = []
    for file in {file.resolve(): file for file in files}.values():
        found, wrong = read_votes(file, key)
        votes += found
        problems += wrong
    if problems:
        raise VotesError(problems)
    if not votes:
        raise SgoolError(f"No vote in {', '.join(map(str, files))}: there is nothing to score.")
    return _score(votes, key)


def last_votes(votes: Sequence[Vote]) -> list[Vote]:
    """Return one vote per rater and item: the last by time, and of equal times the last in the files."""
    kept: dict[tuple[str, str], Vote] = {}
    for vote in sorted(votes, key=lambda vote: vote.answered_at):  # stable; ISO times sort as text
        kept[vote.rater, vote.item] = vote
    return list(kept.values())


def _score(votes: Sequence[Vote], key: StudyKey) -> Results:
    kept = last_votes(votes)
    raters = [_rater(name, kept, key) for name in sorted({vote.rater for vote in kept})]
    out = {rater.name for rater in raters if rater.reason}
    comparisons = [vote for vote in kept if key.items[vote.item].kind == COMPARISON]
    main = tally([vote for vote in comparisons if vote.rater not in out], key)
    identical = Counter(f"{one[1]} - {one[2]}" for one in key.identical)
    shown = sum(item.kind == COMPARISON for item in key.items.values())
    return Results(
        key.study, key.methods, len(votes), len(votes) - len(kept), raters, shown, dict(identical), len(key.left_out),
        main, tally(comparisons, key) if out else None,
    )  # fmt: skip


def _rater(name: str, votes: Sequence[Vote], key: StudyKey) -> Rater:
    own = [vote for vote in votes if vote.rater == name]
    checks = [vote for vote in own if key.items[vote.item].kind != COMPARISON]
    right = sum(_is_right(vote, key) for vote in checks)
    failed = bool(checks) and right < ENOUGH_RIGHT * len(checks) - 1e-9
    reason = f"{right} of {len(checks)} attention checks right, fewer than two thirds" if failed else ""
    return Rater(name, len(own) - len(checks), len(checks), right, reason)


def _is_right(vote: Vote, key: StudyKey) -> bool:
    if key.items[vote.item].kind == SAME_IMAGE:
        return all(getattr(vote, question) == "tie" for question in QUESTIONS)
    return vote.method("match", key) == "right"  # the question of preference has no right answer
