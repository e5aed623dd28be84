"""Progress in a terminal and without one."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sgool.cli.console import ConsoleProgress, print_outcome
from sgool.results import RunFolder
from sgool.run.outcome import Outcome
from sgool.run.progress import Work
from sgool.types import PromptSeed
from tests.fake_run import fake_config, fake_pairs, fake_record
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


def test_a_terminal_shows_pairs_and_updates_with_the_objective() -> None:
    text = _ESCAPES.sub("", shown(terminal=True))
    assert "doodl: a [bold]cat[/bold] that is far too long to be shown as a whole in one line\n" in text
    assert (
        "2/2" in text and "objective -1.5 (lower is better)" in text and "score" not in text.replace("clip_score", "")
    )
    assert "[1/2]" not in text  # the bars say so
    assert f"[2/2] doodl {record(1).pair_id}: failed: non-finite loss at update 1" in text


def test_each_line_of_the_bars_fits_into_eighty_columns() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, highlight=False, legacy_windows=False)
    with ConsoleProgress(console) as progress:
        progress.start(600, ["doodl"], 1200, [Work("doodl", 1200)])
        progress.batch("doodl", [PromptSeed("a cat " * 50)] * 4)
        progress.update(1, 100, 0.25, 0.1002)
        progress.update(2, 100, 0.25, 0.09871)
        assert progress._bars is not None
        progress._bars.refresh()
    lines = [line.rstrip() for line in _ESCAPES.sub("", stream.getvalue()).replace("\r", "\n").split("\n")]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("doodl: 4 pairs, the first: a cat a cat") and line.endswith("…") for line in lines)
    assert any(
        re.match(r"pairs +\S+ +0/1200 +\d+ s, about .* left$", line) for line in lines
    )  # from the first update on
    assert any("objective 0.1002 → 0.09871 (lower is better)" in line for line in lines)


@pytest.mark.parametrize(
    ("signal", "words"),
    [("SIGINT", ("Ctrl+C: the run stops", "Ctrl+C again stops now.")), ("SIGTERM", ("SIGTERM: the run stops",))],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_request_to_stop_is_acknowledged_at_once(signal: str, words: tuple[str, ...], terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200, highlight=False, legacy_windows=False)
    with ConsoleProgress(console) as progress:
        progress.start(1, ["doodl"], 1)
        progress.stopping(signal)
        if progress._bars is not None:
            progress._bars.refresh()  # what its own thread does ten times a second
        text = _ESCAPES.sub("", stream.getvalue())
    assert all(word in text for word in words)
    assert "after the present update and saves where it is; the same command goes on from there" in text


def test_a_second_ctrl_c_says_how_to_go_on() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), ConsoleProgress(Console(file=stream, width=200)):
        raise KeyboardInterrupt
    assert stream.getvalue() == "stopped at once; the same command goes on with what is left\n"


def test_the_first_rank_names_the_model() -> None:
    lines = []
    for rank in (0, 1):
        stream = io.StringIO()
        ConsoleProgress(Console(file=stream, width=200), rank, 2).model("emoji_world")
        lines.append(stream.getvalue())
    assert lines == ["rank 0: model: emoji_world\n", ""]


def test_after_the_table_comes_the_next_command(tmp_path: Path) -> None:
    run_dir = tmp_path / "my run"
    folder = RunFolder(run_dir).open(fake_config(methods=["vanilla"]), device="test device")
    found = fake_record(fake_pairs()[0], "vanilla")
    folder.write(found)
    stream = io.StringIO()
    print_outcome(Outcome(run_dir, (found,), 1), Console(file=stream, width=200))
    assert stream.getvalue().splitlines()[-1] == f"next: sgool report '{run_dir}'"
    assert "↑ higher is better" in stream.getvalue() and "Judge CLIP score ↑" in stream.getvalue()
    stream = io.StringIO()  # nothing to look at
    print_outcome(Outcome(run_dir, (), 1, 1, "SIGINT"), Console(file=stream, width=200))
    assert stream.getvalue().splitlines() == [
        "interrupted by SIGINT (Ctrl+C): the same command goes on with the 1 result left",
        f"results: {run_dir / 'results.csv'}",
    ]


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


def test_the_table_names_the_score_that_it_shows(tmp_path: Path) -> None:
    """Without an independent CLIP the first judge may be another score, and lower may be better."""
    folder = RunFolder(tmp_path).open(fake_config(methods=["vanilla"]), device="test device")
    found = replace(
        fake_record(fake_pairs()[0], "vanilla"), metrics={"change/lpips": 0.25, "change/lpips_initial": 0.5}
    )
    folder.write(found)
    described = {"title": "LPIPS", "higher_is_better": False, "digits": 3, "scale": 1.0}
    (tmp_path / "metrics.json").write_text(json.dumps({"change/lpips": described}), encoding="utf-8")
    stream = io.StringIO()
    print_outcome(Outcome(tmp_path, (found,), 1), Console(file=stream, width=200))
    assert "Change LPIPS ↓" in stream.getvalue() and "0.500 → 0.250" in stream.getvalue()
    assert "CLIP" not in stream.getvalue()
