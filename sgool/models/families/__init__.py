"""Model families: an adapter for each kind of diffusers pipeline, imported when a pipeline needs it.

`sgool.config.families` is their registry. A family of your own is a class with the interface of
`sgool.models.family.Family`, given to `sgool.Chain` directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgool.config.families import FAMILIES, REPLAY, family_for, known_families, wrong_call
from sgool.config.locate import locate
from sgool.config.pipeline import unet_problems
from sgool.errors import SgoolError
from sgool.models.family import Family
from sgool.models.wide_masks import encode_in_float64


def family_of(
    pipeline: Any, family: str | None = None, call: Mapping[str, Any] | None = None, name: str | None = None
) -> Family:
    """Returns the family of a loaded diffusers pipeline, whose networks are frozen in place, in evaluation mode.

    Args:
        pipeline: A pipeline of one of the classes in `sgool.config.families`, or of a class derived from one.
        family: Name of the family; None: that of the pipeline's class.
        call: Arguments of the pipeline's ``__call__`` that the family takes, such as ``max_sequence_length``.
        name: Path or id that it was loaded from; None: what the pipeline says of itself.

    Raises:
        SgoolError: There is no family for its class, or it does not take such an argument.
    """
    kinds = [kind.__name__ for kind in type(pipeline).__mro__]
    chosen = family or family_for(*kinds)
    if chosen is None:
        raise SgoolError(
            f"`pipeline`: there is no model family for {kinds[0]}; expected an object of one of these classes, or of "
            f"one derived from them: {known_families()}"
        )
    if chosen not in FAMILIES:
        raise SgoolError(f"`models.family`: expected one of {', '.join(FAMILIES)}, or null, got {chosen!r}")
    row = FAMILIES[chosen]
    if chosen != REPLAY and not hasattr(pipeline, row.denoiser):
        raise SgoolError(f"`models.family`: {chosen} needs a pipeline with a {row.denoiser}, and {kinds[0]} has none")
    if chosen == "stable_diffusion" and (problems := unet_problems(pipeline.unet.config)):
        raise SgoolError(f"`pipeline`: it {'; it '.join(problems)}")
    if chosen != REPLAY and (problem := wrong_call(call or {}, chosen)):
        raise SgoolError(problem)
    name = name or str(pipeline.config.get("_name_or_path") or kinds[0])
    encode_in_float64(pipeline)
    make: Any = locate(row.builder, "models.family")
    family_made: Family = make.of(pipeline, name, dict(call or {}))
    return family_made
