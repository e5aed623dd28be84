"""What a terminal shows while a run works: what it does, a bar of pairs with the time left, and a bar of updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn
from rich.table import Column
from rich.text import Text

from sgool.cli.time_left import TimeLeft
from sgool.run.progress import Work
from sgool.run.status import duration
from sgool.types import PromptSeed

_BAR_WIDTH = 16
"""So that a line of 80 columns has room for what stands behind the bar."""


def from_to(before: float, after: float) -> str:
    """Returns two numbers with an arrow between them, or one where a reader would see the same twice."""
    shown = f"{before:.4g}", f"{after:.4g}"
    return shown[1] if shown[0] == shown[1] else " → ".join(shown)


class _Behind(TextColumn):
    """What stands behind a bar; the pairs' own line has the time, which passes between two updates too."""

    def __init__(self, time_left: TimeLeft) -> None:
        super().__init__("", table_column=Column(no_wrap=True, overflow="ellipsis"))
        self._time_left = time_left

    def render(self, task: Task) -> Text:
        """Returns the task's own text, or the time."""
        if not task.fields.get("timed"):
            return Text(task.fields.get("values", ""))
        parts = [duration(task.elapsed or 0)]
        left = self._time_left.seconds()
        if left and not task.finished:
            parts.append(f"about {duration(left)} left")
        return Text(", ".join(parts))


class Bars(Progress):
    """Two bars, below a line that says what is done.

    Args:
        console: The terminal.
        left: How many problems (a method on a pair) are left.
        work: The same by method, for the time left.
    """

    def __init__(self, console: Console, left: int, work: Sequence[Work] = ()) -> None:
        self.time_left = TimeLeft(work)
        self._headline = "loading the model"
        self._request = ""
        self._first: float | None = None
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=_BAR_WIDTH),
            MofNCompleteColumn(),
            _Behind(self.time_left),
            console=console,
        )
        self._all = self.add_task("pairs", total=left, timed=True, values="")
        self._updates = self.add_task("updates", total=None, visible=False, timed=False, values="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yields the line above the bars, the bars, and a request to stop."""
        yield Text(self._headline, no_wrap=True, overflow="ellipsis")
        yield from super().get_renderables()
        if self._request:
            yield Text(self._request, style="yellow")

    def batch(self, method: str, pairs: Sequence[PromptSeed]) -> None:
        """Says which pairs are worked on."""
        prompt = " ".join(pairs[0].prompt.split()) or pairs[0].dataset  # an edited photo may have no text
        more = f"{len(pairs)} pairs, the first: " if len(pairs) > 1 else ""
        self._headline = f"{method}: {more}{prompt}"
        self._first = None
        self.time_left.batch(method, len(pairs))
        self.reset(self._updates, total=None, visible=False, values="")

    def moved(self, update: int, total: int, loss: float | None, objective: float | None) -> None:
        """Shows an update; of the objective, what it was at the first one that was seen and what it is."""
        self.time_left.update(update, total)
        values = ""
        shown = objective if objective is not None else loss
        if shown is not None:
            self._first = shown if self._first is None else self._first
            name = "objective" if objective is not None else "loss"
            values = f"{name} {from_to(self._first, shown)} (lower is better)"
        self.update(self._updates, completed=update, total=total, visible=True, values=values)

    def ended(self, method: str) -> None:
        """Counts a pair that has ended."""
        self.time_left.done(method)
        self.advance(self._all)

    def stopping(self, text: str) -> None:
        """Shows a request to stop; a signal's handler calls this, so the bars' own thread has to draw it."""
        self._request = text
