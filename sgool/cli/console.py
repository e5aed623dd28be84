"""The output of ``sgool fit`` in a terminal: progress while it works, and a table when it is done."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from sgool.cli.bars import Bars, from_to
from sgool.config.words import counted
from sgool.report import summary_rows
from sgool.report.format import show
from sgool.report.metrics import Metric
from sgool.results import RunFacts
from sgool.results.compare import read_config
from sgool.run.outcome import Outcome
from sgool.run.progress import Progress, Work
from sgool.types import PairRecord, PromptSeed

_STOPPING = (
    "{by}: the run stops after the present update and saves where it is; the same command goes on from there. {again}"
)


class ConsoleProgress(Progress):
    """Shows a bar of pairs with the time left, and a bar of the current batch's updates with the objective.

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
        self._bars: Bars | None = None
        self._ended = self._left = 0
        self._model = ""

    def as_rank(self, rank: int, world_size: int) -> None:
        """Sets which process this is; called before ``start``."""
        self._is_first = rank == 0
        self._prefix = f"rank {rank}: " if world_size > 1 else ""
        self._has_bars = self.console.is_terminal and self._is_first

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self._is_first:
            self._print("stopped at once; the same command goes on with what is left")

    def model(self, text: str) -> None:
        """Prints which model runs, once; the first rank speaks for all."""
        if self._is_first and text != self._model:
            self._model = text
            self._print(f"model: {text}")

    def start(self, pairs: int, methods: Sequence[str], left: int, work: Sequence[Work] = ()) -> None:
        """Prints how many pairs there are and how many are left, and shows the bars."""
        total = pairs * len(methods)
        finished = f", {total - left} done already" if left < total else ""
        self._print(f"{counted(pairs, 'pair')} × {', '.join(methods)}: {left} to do{finished}")
        self._left = left
        if self._has_bars and left:
            self._bars = Bars(self.console, left, work)
            self._bars.start()

    def note(self, text: str) -> None:
        """Prints a note on a line of its own."""
        self._print(f"note: {text}")

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """Shows the batch's method and first prompt."""
        if self._bars is not None:
            self._bars.batch(method, pairs)

    def update(self, update: int, total: int, loss: float | None = None, objective: float | None = None) -> None:
        """Moves the updates' bar, see `sgool.run.progress.Progress.update`."""
        if self._bars is not None:
            self._bars.moved(update, total, loss, objective)

    def done(self, records: Sequence[PairRecord]) -> None:
        """Moves the pairs' bar; prints a line for each pair that failed, or for every pair if there are no bars."""
        for record in records:
            self._ended += 1
            if self._bars is not None:
                self._bars.ended(record.method)
            if self._bars is None or record.status != "done":
                self._print(f"[{self._ended}/{self._left}] {record.method} {record.pair_id}: {_result(record)}")

    def stopping(self, signal: str) -> None:
        """Says at once that the run will stop; with bars, their own thread draws it.

        A signal's handler calls this, perhaps in the middle of a print: so nothing here goes through the console.
        """
        if not self._is_first:
            return
        by_hand = signal == "SIGINT"
        again = "Ctrl+C again stops now." if by_hand else "A Ctrl+C stops now."
        text = _STOPPING.format(by="Ctrl+C" if by_hand else signal, again=again)
        if self._bars is not None:
            self._bars.stopping(text)
            return
        line = f"{text}\n"
        try:
            os.write(self.console.file.fileno(), line.encode())
        except (OSError, ValueError, AttributeError):  # no file of the system, as in a notebook
            self.console.file.write(line)

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
            parts.append(f"{name} {from_to(before, after)}")
            break
    return ", ".join(parts)


def print_outcome(outcome: Outcome, console: Console | None = None) -> None:
    """Prints the summary table, the failed pairs, and where the results are."""
    console = console or Console(highlight=False)
    if outcome.records:
        console.print(_table(outcome))
    for record in outcome.failed:
        console.print(f"failed: {record.method} {record.pair_id}: {record.error}", markup=False, soft_wrap=True)
    texts = [outcome.what_is_left(), f"results: {outcome.run_dir / 'results.csv'}", next_command(outcome)]
    for text in filter(None, texts):
        console.print(text, markup=False, soft_wrap=True)


def _table(outcome: Outcome) -> Table:
    """A row a method."""
    configs = [read_config(file) for file in sorted(outcome.run_dir.glob("config*.yaml"))]
    facts = RunFacts(outcome.run_dir)
    rows = summary_rows(list(outcome.records), configs, facts.descriptions(), facts.networks())
    table = Table(title="first image → final image, means over pairs; ↑ higher is better")
    judge = rows[0]["judge_metric"]
    named = "judge" if judge is None else f"{judge.title} {'↑' if judge.direction > 0 else '↓'}"
    for name in ("method", "pairs", "failed", named, "scene accuracy ↑", "calls", "seconds"):
        # As wide as "54.3 → 60.1", which then stays on a line in a narrow terminal.
        table.add_column(name, justify="left" if name == "method" else "right", min_width=11 if name == named else None)
    form = _form(judge, [row["judge_final"] for row in rows if row["judge_final"] is not None])
    for row in rows:
        table.add_row(
            row["method"],
            str(row["pairs"]),
            str(row["failed"]),
            _change(row["judge_initial"], row["judge_final"], form),
            _change(row["scene_initial"], row["scene_final"], "{:.0%}".format),
            _number(row["network_calls"], "{:.0f}".format),
            _number(row["seconds"], "{:.1f}".format),
        )
    return table


def next_command(outcome: Outcome) -> str:
    """Returns a line that names the command to look at the results with; empty where there are none."""
    return f"next: sgool report {shlex.quote(str(outcome.run_dir))}" if outcome.records else ""


def _form(judge: Metric | None, values: Sequence[float]) -> Callable[[float], str]:
    """Returns how a judge's scores are written; large ones, such as of a CLIP, with one digit: lines stay short."""
    if judge is None:
        return str
    large = any(abs(value * judge.scale) >= 10 for value in values)
    return partial(show, metric=replace(judge, digits=min(judge.digits, 1)) if large else judge)


def _number(value: Any, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)


def _change(before: Any, after: Any, form: Callable[[float], str]) -> str:
    shown = _number(before, form), _number(after, form)
    return shown[1] if None in (before, after) or shown[0] == shown[1] else " → ".join(shown)
