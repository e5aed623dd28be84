"""What an update saw, as the values that are logged and kept of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sgool.results.checkpoint import eight_bit
from sgool.types import Evaluation, ObjectiveOutput


def update_values(seen: Evaluation, gradient_norms: Tensor | None, shown: Sequence[int]) -> dict[str, Tensor]:
    """Means over some of a batch's pairs, in float64 on the CPU, by their names in the logs.

    Args:
        seen: What the update saw.
        gradient_norms: (B,), of each pair's gradient before any callback changed it.
        shown: Indices of the pairs that count.
    """
    columns = {"loss": seen.loss, "selection": seen.selection}
    columns |= {f"term/{name}": value for name, value in seen.output.terms.items()}
    columns["latent_norm"] = seen.latents[0].flatten(1).norm(dim=1)
    if gradient_norms is not None:
        columns["gradient_norm"] = gradient_norms
    table = torch.stack([column.double() for column in columns.values()]).cpu()[:, list(shown)]
    return dict(zip(columns, table.mean(dim=1), strict=True))


def detached(output: ObjectiveOutput) -> ObjectiveOutput:
    """The output without its graph: what is kept between updates must not keep the chain's activations alive."""
    saliency_map = output.saliency_map
    # Rounded for all who look at it: after a resume nothing else is left of a map found earlier.
    return ObjectiveOutput(
        output.loss.detach(),
        {name: value.detach() for name, value in output.terms.items()},
        None if saliency_map is None else eight_bit(saliency_map.detach()),
        output.regions,
    )
