"""What the keys below ``models.judges`` may hold."""

from __future__ import annotations

from typing import Any

from sgool.config.rules import Schema, Variants, choice, either, list_of, optional, text
from sgool.config.schema_objective import CLIP

#: Networks of LPIPS, as torchmetrics names them.
LPIPS = ("alex", "vgg", "squeeze")

_JUDGES: dict[str, dict[str, Schema]] = {
    "clip": CLIP,
    "hps": {"clip": CLIP},
    "pickscore": {"model": text(), "processor": text()},
    "image_reward": {"checkpoint": text(), "med_config": optional(text()), "tokenizer": text()},
    "aesthetic": {"clip": CLIP, "checkpoint": text()},
    "image": {"clip": CLIP, "images": optional(either(text(), list_of(text())))},
    "perceptual": {"network": choice("local", *LPIPS), "checkpoint": optional(text())},
    "pixels": {},
    "latents": {},
}
#: A judge. Without ``type`` it is a CLIP, as in run folders that were made before there were others.
JUDGE = Variants("type", _JUDGES, default="clip")

_DEFAULTS: dict[str, dict[str, Any]] = {
    "image_reward": {"med_config": None, "tokenizer": "bert-base-uncased"},
    "image": {"images": None},
    "perceptual": {"checkpoint": None},
}


def complete_judges(judges: Any) -> None:
    """Writes short forms in full, in place: a CLIP by its name alone, and what a judge may leave out.

    A judge of type ``clip`` stays without its type, so that the same judge is written in one way.
    """
    if not isinstance(judges, dict):
        return
    for name, judge in judges.items():
        judges[name] = judge = _clip(judge)
        if not isinstance(judge, dict):
            continue
        if judge.get("type") == "clip":
            del judge["type"]
        for key, value in _DEFAULTS.get(str(judge.get("type")), {}).items():
            judge.setdefault(key, value)
        if "clip" in judge:
            judge["clip"] = _clip(judge["clip"])


def _clip(value: Any) -> Any:
    return {"model": value, "pretrained": None} if isinstance(value, str) and value != "???" else value
