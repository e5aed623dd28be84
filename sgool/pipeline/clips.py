"""The guide and the judges of a pipeline: names of CLIPs for the configuration, or CLIPs that are loaded already."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sgool.config.quoting import hydra_quoted
from sgool.errors import ConfigError, SgoolError
from sgool.models.clip import ClipTower
from sgool.pipeline.networks import GIVEN

_FORMS = (
    'a folder in open_clip\'s layout, an embedded tower such as "emoji_world/guide", (name, pretrained) of open_clip, '
    "(model, tokenizer) of open_clip, or a ClipTower"
)
_HINT = (
    "Nothing has to be downloaded if the CLIPs are given: SGOOLPipeline(pipeline, guide=FOLDER, judges={}), where the "
    "folder is in open_clip's layout; docs/models.md has how to make one"
)


@dataclass(frozen=True)
class Clips:
    """Guide and judges.

    Attributes:
        overrides: Of the configuration's ``models.guide`` and ``models.judges``.
        towers: CLIPs that are loaded, by their names in those overrides.
        judged: Whether images are scored.
    """

    overrides: tuple[str, ...] = ()
    towers: Mapping[str, ClipTower] = field(default_factory=dict)
    judged: bool = True

    @staticmethod
    def explain(error: SgoolError) -> None:
        """Adds to an error of a CLIP that cannot be had what to give instead."""
        text = str(error)
        if isinstance(error, ConfigError) or not re.search(r"\bCLIP\b", text) or _HINT in text:
            return
        error.args = (f"{text.rstrip('.')}. {_HINT}",)


def checked_clips(guide: Any, judges: Any) -> tuple[Clips, list[str]]:
    """Returns the guide and the judges of `sgool.pipeline.SGOOLPipeline`, and what is wrong with them."""
    problems: list[str] = []
    lines: list[str] = []
    towers: dict[str, ClipTower] = {}

    def named(where: str, given: Any) -> str:
        try:
            return _named(where, given, towers)
        except SgoolError as error:
            problems.append(f"`{where}`: {error}")
            return ""

    if guide is not None:
        lines.append(f"models.guide={named('guide', guide)}")
    if isinstance(judges, Mapping):
        entries = [f"{name}: {named(f'judges[{name!r}]', judge)}" for name, judge in judges.items()]
        lines.append("~models.judges")
        lines.append(f"+models.judges={{{', '.join(entries)}}}")
    elif judges is not None and judges is not False:
        problems.append(f"`judges`: expected a mapping of names to CLIPs, {{}} or False, got {judges!r}")
    return Clips(tuple(lines), towers, judges is not False), problems


def _named(where: str, given: Any, towers: dict[str, ClipTower]) -> str:
    """Returns the configuration of a CLIP; one that is an object is added to the towers."""
    pair = given if isinstance(given, (tuple, list)) and len(given) == 2 else None
    if isinstance(given, (str, os.PathLike)) and os.fspath(given):
        return _options(str(os.fspath(given)), None)
    if pair is not None and isinstance(pair[0], str) and isinstance(pair[1], (str, os.PathLike)):
        return _options(pair[0], str(os.fspath(pair[1])))
    if isinstance(given, Mapping) and isinstance(given.get("model"), str) and set(given) <= {"model", "pretrained"}:
        return _options(given["model"], given.get("pretrained"))
    name = GIVEN + re.sub(r"\W+", "_", where).strip("_")
    if isinstance(given, ClipTower):
        towers[name] = given
    elif pair is not None and isinstance(pair[0], nn.Module) and callable(pair[1]):
        towers[name] = ClipTower(pair[0], pair[1], name=name)
    else:
        what = f"a {type(given).__name__}" if isinstance(given, nn.Module) else repr(given)
        raise SgoolError(f"expected {_FORMS}, got {what}")
    return _options(name, None)


def _options(model: str, pretrained: str | None) -> str:
    return f"{{model: {hydra_quoted(model)}, pretrained: {'null' if pretrained is None else hydra_quoted(pretrained)}}}"
