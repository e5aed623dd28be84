"""Helpers for what a method has seen: a copy without its graph, the values that are logged, images of no use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sgool.diffusion import Chain
from sgool.errors import SgoolError
from sgool.objectives import Objective
from sgool.objectives.matching import phrase_columns
from sgool.results.checkpoint import eight_bit
from sgool.types import Evaluation, ObjectiveOutput, PairResult


def check_gradient(loss: Tensor, terms: Iterable[str], method: str) -> None:
    """Refuses a loss without a gradient.

    Raises:
        SgoolError: No term of the objective has one.
    """
    if not loss.requires_grad:
        raise SgoolError(
            f"`method.{method}`: expected an objective with a gradient, got {', '.join(terms)} without one (was it "
            "detached, or computed outside of torch?); best_of_n needs none"
        )


def without_graph(output: ObjectiveOutput) -> ObjectiveOutput:
    """Detaches an objective's output: what is kept between updates must not keep the chain's activations alive."""
    saliency_map = output.saliency_map
    # Rounded for all who look at it: after a resume nothing else is left of a map found earlier.
    return ObjectiveOutput(
        output.loss.detach(),
        {name: value.detach() for name, value in output.terms.items()},
        None if saliency_map is None else eight_bit(saliency_map.detach()),
        output.regions,
        output.matches,
    )


@torch.no_grad()
def with_phrases(results: Sequence[PairResult], objective: Objective | None, device: torch.device) -> list[PairResult]:
    """Returns results with where each phrase is found in their final images, where regions are matched with phrases.

    Each image is looked at by itself, by regions of its own, and in the 8 bits that are kept of it. So the answer is
    the same for every method, batch and resumed run. An image that is not finite has none.
    """
    if objective is None or objective.saliency is None or objective.saliency.match == "prompt":
        return list(results)
    found = []
    for result in results:
        image = result.final_image[None].to(device)
        matches = objective.bind([result.pair]).find_phrases(image) if bool(image.isfinite().all()) else ()
        found.append(replace(result, phrases=matches[0]) if matches else result)
    return found


def non_finite_images(first: Tensor, final: Tensor, chain: Chain) -> str | None:
    """Returns why images cannot be results, and how to mend it; None for finite ones."""
    bad = [name for name, image in (("first", first), ("final", final)) if not bool(image.isfinite().all())]
    if not bad:
        return None
    where = f"the {' and the '.join(bad)} image {'is' if len(bad) == 1 else 'are'} not finite"
    return f"{where}{mend_of_overflow(chain)}"


def mend_of_overflow(chain: Chain) -> str:
    """Returns why numbers may not be finite and what to do, by the data types that are set: the end of a sentence."""
    half, vae_half = chain.dtype == torch.float16, chain.family.vae_dtype == torch.float16
    if vae_half:
        key = "models.dtype" if half else "models.vae_dtype"
        alone = (
            "models.vae_dtype=float32 or, of a pipeline that you have loaded yourself, pipe.vae.to(torch.float32) "
            "(the autoencoder alone, as diffusers does for `force_upcast`)"
        )
        others = ", models.dtype=bfloat16 or models.dtype=float32" if half else ""
        return f": with {key}=float16 the numbers of a network may overflow. Use {alone}{others}"
    if half:
        return (
            ": with models.dtype=float16 the numbers of the denoising network may overflow (the autoencoder is not in "
            "float16). Use models.dtype=bfloat16 or models.dtype=float32"
        )
    return (
        f" with models.dtype={str(chain.dtype).removeprefix('torch.')}: check the weights of models.path, and "
        "use a smaller sampler.guidance_scale or optimization.lr"
    )


def norms_of_pairs(gradient: Tensor) -> Tensor:
    """Returns the Euclidean norms (B,) of a gradient (S, B, C, h, w), over all streams of a pair."""
    return gradient.square().sum(dim=(0, *range(2, gradient.ndim))).sqrt()


def curves(module: Any, gradient_norms: Tensor | None) -> dict[str, Any]:
    """Returns what an update of a `sgool.methods.LatentPairModule` logs by name; empty where no pair makes any more.

    Args:
        module: The module, with what its last update saw.
        gradient_norms: (B,), before clipping; None: there was no gradient.
    """
    seen = module.evaluation
    assert seen is not None and module.batch is not None
    pairs = range(len(module.pairs))
    shown = [i for i in pairs if i not in module.failures and not module.was_stopped_before(i, seen.update)]
    if not shown:
        return {}
    values = means_over_pairs(seen, shown, gradient_norms)
    return {**values, "update": float(seen.update), "batch": float(module.batch.index)}


def means_over_pairs(seen: Evaluation, shown: Sequence[int], gradient_norms: Tensor | None) -> dict[str, Tensor]:
    """Returns the values that are logged at an update by name, in float64, as means over some of the pairs.

    Args:
        seen: What the update saw.
        shown: Indices of the pairs to count.
        gradient_norms: (B,), before clipping; None: there was no gradient.
    """
    columns = {"loss": seen.loss, "selection": seen.selection}
    columns |= {f"term/{name}": value for name, value in seen.output.terms.items()}
    columns["latent_norm"] = seen.latents[0].flatten(1).norm(dim=1)
    if gradient_norms is not None:
        columns["gradient_norm"] = gradient_norms
    for name in phrase_columns(seen.output, 0):
        values = [phrase_columns(seen.output, index)[name] for index in range(len(seen.loss))]
        columns[name] = torch.tensor(values, device=seen.loss.device)
    table = torch.stack([column.cpu().double() for column in columns.values()])[:, list(shown)]
    return dict(zip(columns, table.mean(dim=1), strict=True))
