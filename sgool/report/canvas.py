"""One style for all figures: readable in print, text as text, the same bytes from the same numbers."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sgool.report.palette import COLOURS, Colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

INK = "#1c1d20"
SOFT = "#5c5f67"
GRID = "#e2e2de"
WIDTH = 6.0
_DPI = 200
_FONTS = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar sign in a category is a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.formatter.use_mathtext": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "path.simplify": True,
}


@dataclass(frozen=True)
class Drawn:
    """A finished figure.

    Attributes:
        name: File name without its end.
        title: Heading.
        caption: How to read it.
        alt: What it shows, for those who do not see it.
        svg: The file's text.
        png: The file's bytes.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes


class Figure:
    """A matplotlib figure on its way to ``Drawn``."""

    def __init__(self, name: str, figure: MatplotlibFigure) -> None:
        self.name = file_name(name)
        self.figure = figure

    def legend(self, axes: Axes, entries: int) -> None:
        """One legend above the axes, in as few lines as fit."""
        handles, labels = axes.get_legend_handles_labels()
        columns = max(1, min(entries, 6 if max(map(len, labels), default=0) < 16 else 3))
        self.figure.legend(
            handles, [shorten(label) for label in labels], loc="outside upper left", ncols=columns, handletextpad=0.4,
            columnspacing=1.4, borderaxespad=0.1,
        )  # fmt: skip

    def done(self, title: str, caption: str, alt: str) -> Drawn:
        """The figure as its two files."""
        import matplotlib as mpl

        svg, png = io.StringIO(), io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": self.name}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glyphs that the font lacks: boxes in the PNG, real text in the SVG
            # The layout is worked out once: saving would do it again for each file, drawing everything twice.
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")
            self.figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
            self.figure.savefig(png, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
        text = svg.getvalue().replace("'DejaVu Sans'", _FONTS)
        return Drawn(self.name, title, caption, alt, text, png.getvalue())


@contextmanager
def style() -> Iterator[None]:
    """Everything is drawn within this; nothing of it stays."""
    import matplotlib as mpl

    with mpl.rc_context(cast(Any, _STYLE)):
        yield


def new_figure(name: str, rows: int, per_row: float = 0.34) -> tuple[Figure, Axes]:
    """A figure of one panel, and its axes.

    Args:
        name: File name; anything but letters, digits and hyphens is replaced.
        rows: Entries that stand below each other; gives the height.
        per_row: Inches for each.
    """
    figure, panels = new_grid(name, 1, 1, 0.6 + per_row * rows)
    return figure, panels[0]


def new_grid(name: str, panels: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels of equal axes in rows of ``columns``, each so many inches high; left-over ones are removed."""
    # Not pyplot: it keeps figures and picks a window system.
    from matplotlib.figure import Figure as MatplotlibFigure

    lines = -(-panels // columns)
    figure = MatplotlibFigure(figsize=(WIDTH, 0.35 + height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel().tolist()
    for axes in grid[panels:]:
        axes.remove()
    return Figure(name, figure), grid[:panels]


def file_name(text: str) -> str:
    """Plain letters, digits, points and hyphens."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:80] or "figure"


def shorten(text: str, most: int = 28) -> str:
    """One line for an axis."""
    line = " ".join(text.split())
    # Direction marks would turn the rest of a label round; matplotlib does not isolate them.
    line = "".join(char for char in line if unicodedata.bidirectional(char) not in ("RLO", "LRO", "RLE", "LRE", "PDF"))
    return line if len(line) <= most else line[: most - 1] + "…"


def for_page(drawn: Drawn, colours: Mapping[str, Colour] | Sequence[Colour] = COLOURS) -> str:
    """The SVG to stand in the page: coloured by the page's theme, without ids that several figures would share."""
    svg = drawn.svg[drawn.svg.index("<svg") :]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<title>.*?</title>", "", svg, count=1, flags=re.DOTALL)
    # A function of the page's own numbers; names and prompts in it were escaped by matplotlib.
    for colour, variable in _variables(colours):
        svg = re.sub(rf"((?:fill|stroke): ){colour}\b", rf"\1var(--{variable})", svg)
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)


def _variables(colours: Mapping[str, Colour] | Sequence[Colour]) -> list[tuple[str, str]]:
    found = colours.values() if isinstance(colours, Mapping) else colours
    named = [(colour.light, f"c{COLOURS.index(colour)}") for colour in found]
    return [(INK, "ink"), (SOFT, "soft"), (GRID, "line"), *dict.fromkeys(named)]
