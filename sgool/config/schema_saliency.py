"""What the keys below ``saliency`` may hold."""

from __future__ import annotations

from typing import Any

from sgool.config.rules import Rule, Schema, Variants, choice, integer, list_of, number, optional, text
from sgool.config.schema_objective import CLIP


def _is_box(value: Any) -> bool:
    fraction = number(least=0, most=1)
    if not (isinstance(value, list) and len(value) == 4 and all(map(fraction.accepts, value))):
        return False
    top, left, height, width = value
    # 0.7 + 0.3 may exceed 1 in the last bit.
    return min(height, width) > 0 and top + height <= 1 + 1e-6 and left + width <= 1 + 1e-6


_BOX = Rule("a box [top, left, height, width] in fractions of the image, inside it", _is_box)
_GRAD_CAM: dict[str, Schema] = {"clip": CLIP, "layer": optional(text()), "query": optional(text())}

SALIENCY: dict[str, Schema] = {
    "detector": Variants(
        "name",
        {
            "spectral_residual": {"scales": list_of(integer(8)), "blur_sigma": number(above=0)},
            "transalnet": {
                "weights": text(),
                "backbone": choice("resnet50", "densenet161", "densenet_small"),
                "channel_order": choice("bgr", "rgb"),
            },
            "grad_cam": _GRAD_CAM,
            "grad_cam_pp": _GRAD_CAM,
            "fixed": {"mask": optional(text()), "boxes": optional(list_of(_BOX))},
            "center": {"sigma": number(above=0)},
        },
    ),
    "threshold": number(above=0, most=1),
    "max_regions": integer(0),
    "margin": number(least=0),
    "min_side": number(least=0, most=1),
    "every_n_steps": integer(1),
    "w_global": number(least=0),
    "w_salient": number(least=0),
}
