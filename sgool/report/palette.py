"""Colours of methods: the same method has the same colour in every figure, table and report.

Light and dark variants of one hue each, after Okabe and Ito's palette for colour-blind readers, then moved as little as
possible until text in them reads on the page's panels (WCAG contrast of 4.5) and any two differ for readers without
red or green cones, too (CIE76 of 12, of 16 for the first six). Colour is never the only sign: axes, legends and table
rows name the method, and each has its own marker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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


def method_colours(labels: Iterable[str]) -> dict[str, Colour]:
    """Label -> colour; known methods have their own, the second of a name and unknown ones take what is left.

    With more methods than colours, colours repeat.
    """
    places: dict[str, int] = {}
    waiting = []
    for label in labels:
        place = _PLACES.get(label.rpartition("/")[2])
        if place is None or place in places.values():
            waiting.append(label)
        else:
            places[label] = place
    free = [place for place in range(1, len(COLOURS)) if place not in places.values()] or list(range(1, len(COLOURS)))
    for position, label in enumerate(waiting):
        places[label] = free[position % len(free)]
    return {label: COLOURS[place] for label, place in places.items()}
