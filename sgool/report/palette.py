"""Colours of methods: the same method has the same colour in every figure, table and report.

Each colour has a light and a dark variant of one hue. They come from Okabe and Ito's palette for colour-blind readers,
and were changed as little as possible until text in them is readable on the page's panels (WCAG contrast of 4.5) and
any two differ also for readers without red or green cones (CIE76 of 12, of 16 for the first six). Colour is never the
only sign: axes, legends and table rows name the method, and each method has its own marker. If there are more methods
than colours, colours are used again with hollow and then half-filled markers, dashed and dotted lines, hatched and
dotted areas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Colour:
    """A colour in its variants for light and dark ground, with its marker in plots."""

    light: str
    dark: str
    marker: str


#: All colours, in the order in which methods without a colour of their own take them. Small markers are told apart by
#: their outlines too: there is no square beside the same square on its corner, and no plus beside a diagonal cross.
COLOURS: tuple[Colour, ...] = (
    Colour("#40434b", "#9095a1", "o"),  # grey
    Colour("#0067a8", "#75b2df", "s"),  # blue
    Colour("#862300", "#f2935a", "^"),  # vermilion, dark
    Colour("#017757", "#3fc49c", "v"),  # bluish green
    Colour("#a23b78", "#f8b4d3", "d"),  # reddish purple
    Colour("#85650a", "#dcb339", "X"),  # ochre
    Colour("#4b3fb0", "#a9a0f5", "*"),  # indigo
    Colour("#7a4a2b", "#c59876", "<"),  # brown
)
_PLACES = {"vanilla": 0, "doodl": 1, "sgool": 2, "best_of_n": 3, "reno": 4, "clip_guidance": 5}


@dataclass(frozen=True)
class Turn:
    """A way to draw a colour: the filling of markers (as matplotlib calls it), the line style, the hatch of areas."""

    fill: str
    line: str
    hatch: str


TURNS: tuple[Turn, ...] = (Turn("full", "-", ""), Turn("none", "--", "////"), Turn("left", ":", "...."))


@dataclass(frozen=True)
class Look:
    """How a method looks: one of ``COLOURS``, and one of ``TURNS`` for methods beyond these.

    Attributes:
        place: Its position in ``COLOURS``.
        turn: Its position in ``TURNS``.
    """

    place: int
    turn: int = 0

    @property
    def light(self) -> str:
        """The colour on light ground."""
        return COLOURS[self.place].light

    @property
    def line(self) -> str:
        """The line style."""
        return TURNS[self.turn].line

    @property
    def hatch(self) -> str:
        """The hatch of areas."""
        return TURNS[self.turn].hatch

    def point(self) -> dict[str, Any]:
        """Returns the marker, as arguments of matplotlib's ``plot``."""
        turn = TURNS[self.turn]
        return {
            "marker": COLOURS[self.place].marker,
            "color": self.light,
            "fillstyle": turn.fill,
            "markerfacecoloralt": "none",
        }


def method_looks(labels: Iterable[str]) -> dict[str, Look]:
    """Map labels to looks: a known method has its own colour; others, and a second of the same name, take those left.

    If colours run out they are used again in another turn; if turns run out too, looks repeat.
    """
    labels = list(labels)
    looks: dict[str, Look] = {}
    waiting = []
    for label in labels:
        place = _PLACES.get(label.rpartition("/")[2])
        if place is None or Look(place) in looks.values():
            waiting.append(label)
        else:
            looks[label] = Look(place)
    every = [Look(place, turn) for turn in range(len(TURNS)) for place in range(1, len(COLOURS))]
    free = [look for look in every if look not in looks.values()]
    looks |= {label: free[position % len(free)] for position, label in enumerate(waiting)}
    return {label: looks[label] for label in labels}
