"""What ``sgool fit`` shows in a terminal: progress while it works, a table when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sgool.report import summary_rows
from sgool.runner import Outcome
from sgool.types import PairRecord, PromptSeed


class ConsoleProgress:
    """One bar for the problems, one for the updates of the current batch; a line a pair where there is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._ended = self._left = 0

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, pairs: int, methods: Sequence[str], left: int) -> None:
        """Says what there is to do."""
        total = pairs * len(methods)
        finished = f", {total - left} done already" if left < total else ""
        self.console.print(f"{pairs} pairs × {', '.join(methods)}: {left} to do{finished}", markup=False)
        self._left = left
        self._all = self._bars.add_task("pairs", total=left)
        self._updates = self._bars.add_task("updates", total=None, visible=False)

    def note(self, text: str) -> None:
        """Prints a line."""
        self.console.print(f"note: {text}", markup=False, soft_wrap=True)

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """Shows the batch's method and first prompt."""
        more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        prompt = pairs[0].prompt.replace("[", "(").replace("]", ")")
        self._bars.update(self._all, description=f"{method}: {prompt[:40]}{more}")
        self._bars.update(self._updates, completed=0, visible=False)

    def update(self, update: int, total: int) -> None:
        """Moves the updates' bar."""
        self._bars.update(self._updates, completed=update, total=total, visible=True)

    def done(self, records: Sequence[PairRecord]) -> None:
        """Moves the pairs' bar; without a terminal prints a line a pair."""
        self._bars.advance(self._all, len(records))
        for record in records:
            self._ended += 1
            if not self.console.is_terminal or record.status != "done":
                state = record.error if record.status != "done" else f"{record.seconds:.1f} s"
                line = f"[{self._ended}/{self._left}] {record.method} {record.pair_id}: {state}"
                self.console.print(line, markup=False, soft_wrap=True)


def print_outcome(outcome: Outcome, console: Console | None = None) -> None:
    """The summary table, failed pairs, and where the results lie."""
    console = console or Console(highlight=False)
    table = Table(title="judge CLIP score (0-100) and scene accuracy: first image → final image, means over pairs")
    for name in ("method", "pairs", "failed", "judge", "scene accuracy", "network calls", "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in summary_rows(list(outcome.records)):
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
    console.print(f"results: {outcome.run_dir / 'results.csv'}", markup=False, soft_wrap=True)


def _number(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)


def _change(before: Any, after: Any, form: str) -> str:
    if before is None or after is None or before == after:
        return _number(after, form)
    return f"{form.format(before)} → {form.format(after)}"
