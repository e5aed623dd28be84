"""Says what a run's saliency maps show, by the detector that made them: only TranSalNet predicts where people look."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgool.report.load import Run, method_labels, writable

_LONGEST_QUERY = 40


@dataclass(frozen=True)
class Maps:
    """What saliency maps are.

    Attributes:
        shows: What the maps show, as it is written beside them.
        detector: The detector that made them; empty if it is unknown or says no more than ``shows``.
        eyes: Whether the detector has learnt from eye tracking.
    """

    shows: str
    detector: str = ""
    eyes: bool = False

    @property
    def title(self) -> str:
        """What the maps show, with the detector in brackets."""
        return f"{self.shows} ({self.detector})" if self.detector else self.shows


UNKNOWN = Maps("saliency map")
"""Maps of a run whose configuration does not name the detector."""

_KNOWN = {
    "spectral_residual": Maps("image contrast", "spectral residual"),
    "transalnet": Maps("where people look", "TranSalNet", eyes=True),
    "grad_cam": Maps("where CLIP sees the prompt", "Grad-CAM"),
    "grad_cam_pp": Maps("where CLIP sees the prompt", "Grad-CAM++"),
    "fixed": Maps("fixed boxes"),
    "center": Maps("centre of the image"),
}


def maps_of(config: Mapping[str, Any]) -> Maps:
    """Return what the saliency maps of a run with this configuration show."""
    saliency = config.get("saliency")
    detector = saliency.get("detector") if isinstance(saliency, Mapping) else None
    options: Mapping[str, Any] = detector if isinstance(detector, Mapping) else {"name": detector}
    name = str(options.get("name") or "")
    known = _KNOWN.get(name)
    if known is None:
        own = str(options.get("_target_") or name).rpartition(".")[2]
        return Maps("saliency map", writable(own)) if own else UNKNOWN
    if name == "transalnet" and _is_embedded(options):
        return Maps("where objects are", "TranSalNet of the embedded world")
    if name == "fixed" and options.get("mask"):
        return Maps("a fixed mask")
    if options.get("query"):
        query = " ".join(writable(str(options["query"])).split())
        shown = query if len(query) <= _LONGEST_QUERY else query[: _LONGEST_QUERY - 1] + "…"
        return Maps(f"where CLIP sees “{shown}”", known.detector)
    return known


def maps_by_label(runs: Sequence[Run]) -> dict[str, Maps]:
    """Map each label of a report to what its saliency maps show.

    Where a label's pairs were made with several detectors, by several runs or by a run that was continued with
    another one, all of them are named.
    """
    found: dict[str, dict[Maps, None]] = {}
    for (position, _), label in method_labels(runs).items():
        for config in runs[position].configs:
            found.setdefault(label, {})[maps_of(config)] = None
    return {label: together(maps) for label, maps in found.items()}


def together(maps: Iterable[Maps]) -> Maps:
    """Return one description of several kinds of maps: the only one, or one that names them all."""
    kinds = list(dict.fromkeys(maps)) or [UNKNOWN]
    if len(kinds) == 1:
        return kinds[0]
    return Maps("saliency map", " or ".join(kind.title for kind in kinds), any(kind.eyes for kind in kinds))


def found_phrases(
    phrases: Sequence[Mapping[str, Any]], size: tuple[int, int] | None
) -> list[tuple[str, float | None, list[float] | None]]:
    """Return where a record's phrases were found: each with its distance, and its box as the page draws it.

    Args:
        phrases: Those of a record, see `sgool.types.PairRecord`.
        size: Width and height of the image.

    Returns:
        For each phrase its text, its distance (None: not finite), and [left, top, width, height] in per cent of the
        image; None where the phrase was looked for in the whole image.
    """
    found = []
    for entry in phrases:
        box, distance = entry["box"], entry["distance"]
        if box is not None and size is not None:
            top, left, height, width = box
            sides = [(left, size[0]), (top, size[1]), (width, size[0]), (height, size[1])]
            box = [round(100 * pixels / whole, 2) for pixels, whole in sides]
        known = round(distance, 4) if math.isfinite(distance) else None
        found.append((writable(entry["phrase"]), known, box if size is not None else None))
    return found


def about(maps: Maps) -> tuple[str, str]:
    """Return heading and text of what a reader should know about the overlays."""
    detector = f"the detector ({maps.detector})" if maps.detector else "the detector"
    text = f"It is the saliency map that {detector} made for the run."
    if maps.eyes:
        text += " TranSalNet predicts where people look, as it learnt it from eye tracking."
    else:
        text += " It is not where people look."
    return f"The overlay shows: {maps.shows}", f"{text} Nobody's eyes were tracked for these images."


def _is_embedded(options: Mapping[str, Any]) -> bool:
    """Whether it is the small TranSalNet, which learnt from the objects of embedded scenes and not from people."""
    return options.get("backbone") == "densenet_small" or str(options.get("weights")).startswith("emoji_world/")
