"""The common style of all figures: readable in print, with text as text, and the same bytes from the same numbers."""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sgool.report.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

INK = "#1c1d20"
SOFT = "#5c5f67"
GRID = "#e2e2de"
WIDTH = 6.0
_DPI = 200
_MOST_WRAPS = 3  # letters differ in width, so the first guess may be too long by some
_LONGEST = 80  # letters of a file's name without its end
_VARIABLES = [
    *((INK, "ink"), (SOFT, "soft"), (GRID, "line")),
    *((colour.light, f"c{place}") for place, colour in enumerate(COLOURS)),
]
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
        name: The name of its files, without suffix.
        title: The heading.
        caption: How to read the figure.
        alt: The alternative text: what the figure shows, for people who cannot see it.
        svg: The text of the SVG file.
        png: The bytes of the PNG file.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes


class Figure:
    """A matplotlib figure that is being drawn; ``done`` makes a ``Drawn`` of it."""

    def __init__(self, name: str, figure: MatplotlibFigure) -> None:
        self.name = file_name(name)
        self.figure = figure

    def legend(self, axes: Axes) -> None:
        """Puts one legend above the axes, in as few lines as fit."""
        handles, labels = axes.get_legend_handles_labels()
        labels = [shorten(label) for label in labels]
        self.figure.legend(
            handles, labels, loc="outside upper left", ncols=_columns(labels), handletextpad=0.4,
            columnspacing=1.4, borderaxespad=0.1,
        )  # fmt: skip

    def done(self, title: str, caption: str, alt: str) -> Drawn:
        """Finishes the figure and returns it as SVG and PNG."""
        import matplotlib as mpl

        svg, png = io.StringIO(), io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": self.name}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glyphs that the font lacks: the PNG shows boxes, the SVG has the text
            # The layout is computed once here: else each saving would compute it again and draw everything twice.
            self.figure.draw_without_rendering()
            for _ in range(_MOST_WRAPS):
                if not _wrap_titles(self.figure):
                    break
                self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")
            # The ground is white: by itself on a dark page, a file without a ground would show dark text on dark.
            about = {"Date": None, "Creator": None, "Title": title}
            self.figure.savefig(svg, format="svg", facecolor="white", metadata=about)
            self.figure.savefig(png, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
        text = svg.getvalue().replace("'DejaVu Sans'", _FONTS)
        return Drawn(self.name, title, caption, alt, text, png.getvalue())


def _wrap_titles(figure: MatplotlibFigure) -> bool:
    """Wrap the axes' titles that stick out of the figure, which the layout does not prevent; return whether any did."""
    edges = figure.bbox
    wrapped = False
    for axes in figure.axes:
        for label, along in ((axes.xaxis.label, "x"), (axes.yaxis.label, "y")):
            box = label.get_window_extent()
            start, end = getattr(box, f"interval{along}")
            low, high = getattr(edges, f"interval{along}")
            text = label.get_text()
            if not text or (start >= low and end <= high):
                continue
            # The title is centred on its axis, so the nearer end of the figure decides how long a line may be.
            room = 2 * min((start + end) / 2 - low, high - (start + end) / 2)
            longest = max(map(len, text.split("\n")))
            width = max(8, int(longest * room / (end - start)) - 1)
            label.set_text("\n".join(textwrap.wrap(text, width)))
            wrapped = True
    return wrapped


def _columns(labels: Sequence[str]) -> int:
    """Return the most columns with which a legend fits the figure; the longest label sets a column's width."""
    for columns in range(len(labels), 1, -1):
        rows = [labels[len(labels) * k // columns : len(labels) * (k + 1) // columns] for k in range(columns)]
        if sum(0.44 + 0.078 * max(map(len, row)) for row in rows) < WIDTH - 0.1:  # inches: marker and gaps, a letter
            return columns
    return 1


@contextmanager
def style() -> Iterator[None]:
    """Sets the style of figures for the block; matplotlib's own settings come back afterwards."""
    import matplotlib as mpl

    with mpl.rc_context(cast(Any, _STYLE)):
        yield


def new_figure(name: str, rows: int, per_row: float = 0.34) -> tuple[Figure, Axes]:
    """Makes a figure of one panel, and its axes.

    Args:
        name: The name of its files; anything but letters, digits, points and hyphens is replaced.
        rows: How many entries stand below each other; this sets the height.
        per_row: The height of each entry in inches.
    """
    figure, panels = new_grid(name, 1, 1, 0.6 + per_row * rows)
    return figure, panels[0]


def new_grid(name: str, panels: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Makes a figure of panels in rows of ``columns``, each ``height`` inches high and with the same vertical axis."""
    # pyplot is not used: it keeps figures and picks a window system.
    from matplotlib.figure import Figure as MatplotlibFigure

    lines = -(-panels // columns)
    figure = MatplotlibFigure(figsize=(WIDTH, 0.35 + height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel().tolist()
    for axes in grid[panels:]:
        axes.remove()
    return Figure(name, figure), grid[:panels]


def file_name(text: str) -> str:
    """Make a file name of plain letters, digits, points and hyphens; a long one is cut and ends in a hash."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "figure"
    if len(name) <= _LONGEST:
        return name
    whole = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: _LONGEST - 9]}-{whole}"


def shorten(text: str, most: int = 28) -> str:
    """Shortens a text to one line for an axis."""
    line = " ".join(text.split())
    # Direction marks would turn the rest of a label round; matplotlib does not isolate them.
    line = "".join(char for char in line if unicodedata.bidirectional(char) not in ("RLO", "LRO", "RLE", "LRE", "PDF"))
    return line if len(line) <= most else line[: most - 1] + "…"


def for_page(drawn: Drawn) -> str:
    """Prepares a figure's SVG for the page: in the colours of the page's theme, and without ids that others share."""
    svg = drawn.svg[drawn.svg.index("<svg") :]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = svg.replace("fill: #ffffff", "fill: none", 1)  # the page's own ground shows
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<title>.*?</title>", "", svg, count=1, flags=re.DOTALL)
    # The page includes this SVG unescaped: matplotlib has escaped the names and prompts in it.
    for colour, variable in _VARIABLES:
        svg = re.sub(rf"((?:fill|stroke): ){colour}\b", rf"\1var(--{variable})", svg)
        svg = re.sub(rf' fill="{colour}"', f' style="fill: var(--{variable})"', svg)  # the ground of a hatch
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
