"""Progress in a terminal and without one."""

from __future__ import annotations

import io
import re

from rich.console import Console

from sgool.cli.console import ConsoleProgress
from sgool.types import PromptSeed
from tests.logged_run import record

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(*, terminal: bool, rank: int = 0, world_size: int = 1) -> str:
    """What a run of two pairs, the second of which fails, prints."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200, highlight=False, legacy_windows=False)
    pairs = [PromptSeed("a [bold]cat[/bold] that is\nfar too long to be shown as a whole in one line", seed=1)]
    with ConsoleProgress(console, rank, world_size) as progress:
        progress.start(3, ["doodl"], 2)
        progress.note("something [red]is[/red] said")
        for index, status in enumerate(("done", "failed")):
            progress.batch("doodl", pairs)
            progress.update(1, 2)
            progress.update(2, 2, 0.25, -1.5)
            if progress._bars is not None:
                progress._bars.refresh()
            progress.done([record(index, status)])
    return stream.getvalue()


def test_without_a_terminal_there_is_a_line_a_pair_and_no_bar() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines == [
        "3 pairs × doodl: 2 to do, 1 done already",
        "note: something [red]is[/red] said",
        f"[1/2] doodl {record(0).pair_id}: 1.5 s, judge/clip_score 19.5 → 20",
        f"[2/2] doodl {record(1).pair_id}: failed: non-finite loss at update 1",
    ]


def test_a_terminal_shows_pairs_and_updates_with_loss_and_score() -> None:
    text = _ESCAPES.sub("", shown(terminal=True))
    assert "doodl: a [bold]cat[/bold] that is far too long…" in text  # 40 characters, as they are, on one line
    assert "2/2" in text and "loss 0.25  score -1.5" in text
    assert "[1/2]" not in text  # the bars say so
    assert f"[2/2] doodl {record(1).pair_id}: failed: non-finite loss at update 1" in text


def test_only_the_first_rank_has_bars_and_the_others_say_who_they_are() -> None:
    assert "updates" in shown(terminal=True, rank=0, world_size=2)
    other = shown(terminal=True, rank=1, world_size=2)
    assert "updates" not in other
    assert all(line.startswith("rank 1: ") for line in other.splitlines())


def test_nothing_to_do_shows_no_bar() -> None:
    stream = io.StringIO()
    with ConsoleProgress(Console(file=stream, force_terminal=True, width=200, highlight=False)) as progress:
        progress.start(3, ["doodl"], 0)
        progress.update(1, 2)
    assert stream.getvalue().splitlines() == ["3 pairs × doodl: 0 to do, 3 done already"]
