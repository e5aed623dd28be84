"""Colours of methods: the same method has the same colour in every figure, table and report.

Light and dark variants of one hue each, after Okabe and Ito's palette for colour-blind readers, then moved as little as
possible until text in them reads on the page's panels (WCAG contrast of 4.5) and any two differ for readers without
red or green cones, too (CIE76 of 12, of 16 for the first six). Colour is never the only sign: axes, legends and table
rows name the method, and each has its own marker. With more methods than colours, a colour comes back with hollow and
then half-filled markers, dashed and dotted lines, hatched and dotted areas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Colour:
    """A colour on light and on dark ground, with its marker in plots."""

    light: str
    dark: str
    marker: str


#: In the order in which methods without a place of their own take them.
COLOURS: tuple[Colour, ...] = (
    Colour("#40434b", "#9095a1", "o"),  # grey
    Colour("#0067a8", "#75b2df", "s"),  # blue
    Colour("#862300", "#f2935a", "D"),  # vermilion, dark
    Colour("#017757", "#3fc49c", "^"),  # bluish green
    Colour("#a23b78", "#f8b4d3", "v"),  # reddish purple
    Colour("#85650a", "#dcb339", "P"),  # ochre
    Colour("#4b3fb0", "#a9a0f5", "X"),  # indigo
    Colour("#7a4a2b", "#c59876", "<"),  # brown
)
_PLACES = {"vanilla": 0, "doodl": 1, "sgool": 2, "best_of_n": 3, "reno": 4, "clip_guidance": 5}


@dataclass(frozen=True)
class Turn:
    """How a colour is drawn: its marker's filling (as matplotlib calls it), its line and its area."""

    fill: str
    line: str
    hatch: str


TURNS: tuple[Turn, ...] = (Turn("full", "-", ""), Turn("none", "--", "////"), Turn("left", ":", "...."))


@dataclass(frozen=True)
class Look:
    """How a method looks: one of ``COLOURS``, and one of ``TURNS`` for methods beyond these.

    Attributes:
        place: Among ``COLOURS``.
        turn: Among ``TURNS``.
    """

    place: int
    turn: int = 0

    @property
    def light(self) -> str:
        """The colour on light ground."""
        return COLOURS[self.place].light

    @property
    def line(self) -> str:
        """Line style."""
        return TURNS[self.turn].line

    @property
    def hatch(self) -> str:
        """Of areas."""
        return TURNS[self.turn].hatch

    def point(self) -> dict[str, Any]:
        """Its marker, as arguments of matplotlib's ``plot``."""
        turn = TURNS[self.turn]
        return {
            "marker": COLOURS[self.place].marker,
            "color": self.light,
            "fillstyle": turn.fill,
            "markerfacecoloralt": "none",
        }


def method_looks(labels: Iterable[str]) -> dict[str, Look]:
    """Label -> look; known methods have their own, the second of a name and unknown ones take what is left.

    Beyond the colours, they are used again with other fillings, lines and hatches; beyond those, looks repeat.
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
