"""The output of ``sgool fit`` in a terminal: progress while it works, and a table when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sgool.report import summary_rows
from sgool.results import RunFacts
from sgool.results.compare import read_config
from sgool.run.fit import Outcome
from sgool.run.progress import Progress as RunProgress
from sgool.types import PairRecord, PromptSeed

_PROMPT_LENGTH = 40

_SPEED_SECONDS = 6 * 3600.0
"""How far back speed is measured for the time left; in rich's default of half a minute no pair of a real run ends."""


class ConsoleProgress(RunProgress):
    """Shows a bar of pairs with the time left, and a bar of the current batch's updates with its loss and score.

    Without a terminal there are no bars; then a line is printed for each pair, as with bars for each pair that failed.
    Among several ranks only the first shows bars; the others print lines, each with its rank.

    Args:
        console: Where to print; by default the standard output.
        rank: The number of this process.
        world_size: How many processes there are.
    """

    def __init__(self, console: Console | None = None, rank: int = 0, world_size: int = 1) -> None:
        self.console = console or Console(highlight=False)
        self.as_rank(rank, world_size)
        self._bars: Progress | None = None
        self._ended = self._left = 0

    def as_rank(self, rank: int, world_size: int) -> None:
        """Sets which process this is; called before ``start``."""
        self._prefix = f"rank {rank}: " if world_size > 1 else ""
        self._has_bars = self.console.is_terminal and rank == 0

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, pairs: int, methods: Sequence[str], left: int) -> None:
        """Prints how many pairs there are and how many are left, and shows the bars."""
        total = pairs * len(methods)
        finished = f", {total - left} done already" if left < total else ""
        self._print(f"{pairs} pairs × {', '.join(methods)}: {left} to do{finished}")
        self._left = left
        if not self._has_bars or not left:
            return
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),  # prompts may hold [brackets]
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}", markup=False),
            console=self.console,
            speed_estimate_period=_SPEED_SECONDS,
        )
        self._all = self._bars.add_task("pairs", total=left, values="")
        self._updates = self._bars.add_task("updates", total=None, visible=False, values="")
        self._bars.start()

    def note(self, text: str) -> None:
        """Prints a note on a line of its own."""
        self._print(f"note: {text}")

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """Shows the batch's method and first prompt."""
        if self._bars is None:
            return
        prompt = " ".join(pairs[0].prompt.split())
        short = prompt if len(prompt) <= _PROMPT_LENGTH else f"{prompt[: _PROMPT_LENGTH - 1]}…"
        more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        self._bars.update(self._all, description=f"{method}: {short}{more}")
        self._bars.reset(self._updates, total=None, visible=False, values="")

    def update(self, update: int, total: int, loss: float | None = None, score: float | None = None) -> None:
        """Moves the updates' bar.

        Args:
            update: How many updates are done.
            total: How many updates the batch takes.
            loss: The loss, as a mean over the batch's pairs.
            score: The selection score, as a mean over the batch's pairs.
        """
        if self._bars is None:
            return
        named = (("loss", loss), ("score", score))
        values = "  ".join(f"{name} {value:.4g}" for name, value in named if value is not None)
        self._bars.update(self._updates, completed=update, total=total, visible=True, values=values)

    def done(self, records: Sequence[PairRecord]) -> None:
        """Moves the pairs' bar; prints a line for each pair that failed, or for every pair if there are no bars."""
        if self._bars is not None:
            self._bars.advance(self._all, len(records))
        for record in records:
            self._ended += 1
            if self._bars is None or record.status != "done":
                self._print(f"[{self._ended}/{self._left}] {record.method} {record.pair_id}: {_result(record)}")

    def _print(self, text: str) -> None:
        self.console.print(f"{self._prefix}{text}", markup=False, soft_wrap=True)


def _result(record: PairRecord) -> str:
    """Returns a pair's time and change of score as text, or why the pair failed."""
    if record.status != "done":
        return f"failed: {record.error}"
    parts = [f"{record.seconds:.1f} s"]
    for name, after in record.metrics.items():
        before = record.metrics.get(f"{name}_initial")
        if before is not None:
            parts.append(f"{name} {before:.4g} → {after:.4g}")
            break
    return ", ".join(parts)


def print_outcome(outcome: Outcome, console: Console | None = None) -> None:
    """Prints the summary table, the failed pairs, and where the results are."""
    console = console or Console(highlight=False)
    table = Table(title="judge CLIP score (0-100) and scene accuracy: first image → final image, means over pairs")
    for name in ("method", "pairs", "failed", "judge", "scene accuracy", "network calls", "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right")
    configs = [read_config(file) for file in sorted(outcome.run_dir.glob("config*.yaml"))]
    facts = RunFacts(outcome.run_dir)
    for row in summary_rows(list(outcome.records), configs, facts.descriptions(), facts.networks()):
        table.add_row(
            row["method"],
            str(row["pairs"]),
            str(row["failed"]),
            _change(row["judge_initial"], row["judge_final"], "{:.1f}"),
            _change(row["scene_initial"], row["scene_final"], "{:.0%}"),
            _number(row["network_evaluations"], "{:.0f}"),
            _number(row["seconds"], "{:.1f}"),
        )
    console.print(table)
    for record in outcome.failed:
        console.print(f"failed: {record.method} {record.pair_id}: {record.error}", markup=False, soft_wrap=True)
    if text := outcome.what_is_left():
        console.print(text, markup=False, soft_wrap=True)
    console.print(f"results: {outcome.run_dir / 'results.csv'}", markup=False, soft_wrap=True)


def _number(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)


def _change(before: Any, after: Any, form: str) -> str:
    if before is None or after is None or before == after:
        return _number(after, form)
    return f"{form.format(before)} → {form.format(after)}"
