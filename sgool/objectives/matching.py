"""Salient regions matched with the phrases of a prompt: each phrase has to be seen in some region.

With the loss d[r, p] of region r for phrase p under a term, temperature T and R regions of masses m that sum to 1:

    c[r, p] = d[r, p], or with ``match_masses`` d[r, p] - T log(R m[r])
    softmin:   the mean over phrases of -T log((1 / R) sum_r exp(-c[r, p] / T)), which lies between minimum and mean
    hungarian: the mean over phrases of c[a(p), p], where the assignment a has the smallest sum and gives no region more
               than ceil(P / R) of the P phrases

Regions of equal distance do not change a soft minimum by their number, and masses that are all 1 / R change nothing.
Without a region, the whole image is the one region. A region whose map was made for a phrase (`Region.phrase`) answers
for that phrase alone; R and the masses are then of the phrase's own regions alone, and a phrase without any is looked
for in the whole image. No public code is known to us; the reading is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sgool.objectives.settings import SaliencySettings
from sgool.objectives.terms import SeededTerm, Term, evaluated, one_each
from sgool.prompts.phrases import phrases_of
from sgool.types import ObjectiveOutput, PhraseMatch, PromptSeed, Region


@dataclass(frozen=True)
class BoundPhrases:
    """The phrases of B pairs, and their targets under each term that reads phrases.

    Attributes:
        phrases: The phrases of each pair, at least one.
        targets: Name of a term -> for each pair the targets (P, D) of its phrases.
    """

    phrases: tuple[tuple[str, ...], ...]
    targets: Mapping[str, tuple[Tensor, ...]]


def bind_phrases(terms: Mapping[str, Term], pairs: Sequence[PromptSeed]) -> BoundPhrases:
    """Returns the pairs' phrases with their targets, for terms that read text and see regions."""
    phrases = tuple(phrases_of(pair) for pair in pairs)
    targets: dict[str, tuple[Tensor, ...]] = {}
    for name, term in terms.items():
        read = getattr(term, "phrase_targets", None)
        if read is None or term.input_size is None:
            continue
        found = [read(own) for own in phrases]
        if all(one is not None for one in found):
            targets[name] = tuple(found)
    return BoundPhrases(phrases, targets)


class Matching:
    """One evaluation of a batch of B images: which views phrases need, and the losses of terms that read phrases.

    Args:
        phrases: The images' phrases; None: nothing is matched.
        regions: Per image, the regions that were found.
        whole: The box of a whole image.
        settings: As for `match`; needed with ``phrases``.

    Attributes:
        views: Per image, what is looked at beside the crops: the regions, and the whole image where phrases need it.
    """

    def __init__(
        self,
        phrases: BoundPhrases | None,
        regions: Sequence[tuple[Region, ...]],
        whole: Region,
        settings: SaliencySettings | None,
    ) -> None:
        self._phrases = phrases if phrases is not None and phrases.targets else None
        self._settings, self._regions = settings, regions
        self._distances: list[Tensor] = []
        self.views: Sequence[tuple[Region, ...]] = regions
        if self._phrases is not None:
            counts = map(len, self._phrases.phrases)
            self.views = [looked_at(own, whole, number) for own, number in zip(regions, counts, strict=True)]

    def reads(self, name: str) -> bool:
        """Whether the term of this name is matched with phrases."""
        return self._phrases is not None and name in self._phrases.targets

    def values(
        self,
        name: str,
        term: Term,
        weight: float,
        views: Tensor,
        crops: Sequence[Sequence[Region]],
        targets: Tensor,
        seeds: Sequence[int] | None,
        reduced: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Computes a term's losses (B,), and remembers its distances for `matches`.

        Args:
            name: Of the term, which `reads` phrases.
            term: The term.
            weight: The term's weight in the objective, for `matches`.
            views: (N, 3, s, s), image by image: its crops, then `views`.
            crops: Per image, its crops.
            targets: (B, D), of the prompts.
            seeds: A seed for each image; None: the term is called as it is.
            reduced: Reduces an image's losses of crops to a scalar.
        """
        assert self._phrases is not None and self._settings is not None
        counts = [(len(own), len(found)) for own, found in zip(crops, self.views, strict=True)]
        parts = phrase_losses(term, views, counts, targets, self._phrases.targets[name], seeds)
        own = [weight * distances.detach() for _, distances in parts]
        self._distances = [a + b for a, b in zip(self._distances, own, strict=True)] if self._distances else own
        losses = []
        for (of_crops, distances), looked in zip(parts, self.views, strict=True):
            of_phrases = match(distances, looked, self._settings)[0]
            losses.append(self._settings.w_global * reduced(of_crops) + self._settings.w_salient * of_phrases)
        return torch.stack(losses)

    def matches(self) -> tuple[tuple[PhraseMatch, ...], ...]:
        """Returns where each phrase of each image was found; empty where nothing was matched."""
        if self._phrases is None or self._settings is None or not self._distances:
            return ()
        every = zip(self._phrases.phrases, self._distances, self.views, self._regions, strict=True)
        return tuple(_found_at(*own, self._settings) for own in every)


def looked_at(regions: Sequence[Region], whole: Region, num_phrases: int) -> tuple[Region, ...]:
    """Returns the views of an image that phrases are looked for in: its regions, and the whole image where one lacks.

    The whole image stands for all phrases if there is no region, and else for each phrase that no region answers for.
    """
    if not regions:
        return (whole,)
    missing = [p for p in range(num_phrases) if all(region.phrase not in (None, p) for region in regions)]
    return (*regions, *(Region(whole.top, whole.left, whole.height, whole.width, 1.0, p) for p in missing))


def phrase_losses(
    term: Term,
    views: Tensor,
    counts: Sequence[tuple[int, int]],
    targets: Tensor,
    phrase_targets: Sequence[Tensor],
    seeds: Sequence[int] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Computes a term's losses of global views for prompts, and of regions for phrases.

    Args:
        term: The term.
        views: (N, 3, s, s), image by image: first its global views, then its regions.
        counts: For each image the numbers of its global views and of its regions.
        targets: (B, D), of the prompts.
        phrase_targets: For each image (P, D), of its phrases.
        seeds: A seed for each image, for a term with randomness; None: the term is called as it is.

    Returns:
        For each image the losses (C,) of its global views, and (R, P) of its regions for its phrases.
    """
    index: list[int] = []
    owners: list[int] = []
    wanted: list[Tensor] = []
    start = 0
    for image, ((globals_, regions), own) in enumerate(zip(counts, phrase_targets, strict=True)):
        index += range(start, start + globals_)
        index += [start + globals_ + region for region in range(regions) for _ in range(len(own))]
        owners += [image] * (globals_ + regions * len(own))
        wanted += [targets[image : image + 1].expand(globals_, -1), own.repeat(regions, 1)]
        start += globals_ + regions
    place = torch.tensor(index, dtype=torch.long, device=views.device)
    losses = _paired(term, views, place, torch.cat(wanted), seeds and [seeds[owner] for owner in owners])
    losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
    parts = losses.split([globals_ + n * len(own) for (globals_, n), own in zip(counts, phrase_targets, strict=True)])
    return [
        (part[:globals_], part[globals_:].view(regions, len(own)))
        for part, (globals_, regions), own in zip(parts, counts, phrase_targets, strict=True)
    ]


def _paired(term: Term, views: Tensor, index: Tensor, targets: Tensor, seeds: Sequence[int] | None) -> Tensor:
    paired = getattr(term, "paired", None)
    if paired is not None and not (seeds is not None and isinstance(term, SeededTerm)):
        return one_each(term, paired(views, index, targets), len(index))
    return evaluated(term, views[index], targets, seeds)


def match(distances: Tensor, regions: Sequence[Region], settings: SaliencySettings) -> tuple[Tensor, list[int]]:
    """Matches an image's phrases with its regions, by the formula at the top of this file.

    Args:
        distances: (R, P), R and P at least 1.
        regions: The R regions; each phrase has one that may answer for it.
        settings: ``assign``, ``match_temperature`` and ``match_masses``.

    Returns:
        The loss, a scalar with the gradient of the distances; and for each phrase the number of the region that
        answers for it: with softmin the nearest.
    """
    temperature = settings.match_temperature
    allowed = torch.tensor([[region.phrase in (None, p) for p in range(distances.shape[1])] for region in regions])
    allowed = allowed.to(distances.device)
    number = allowed.sum(dim=0)
    costs = distances
    if settings.match_masses:
        masses = allowed * distances.new_tensor([region.mass for region in regions])[:, None]
        shares = number * masses / masses.sum(dim=0)
        costs = costs - temperature * shares.clamp_min(torch.finfo(costs.dtype).tiny).log()
    costs = costs.masked_fill(~allowed, torch.inf)
    # An image that is not finite has no nearest region: any will do, its loss is not finite.
    known = costs.detach().nan_to_num(nan=0.0, posinf=torch.inf, neginf=0.0).cpu().double()
    if settings.assign == "hungarian":
        chosen = _assigned(known)
        return costs[chosen, torch.arange(len(chosen), device=costs.device)].mean(), chosen
    soft = -temperature * (torch.logsumexp(-costs / temperature, dim=0) - number.to(costs.dtype).log())
    return soft.mean(), known.argmin(dim=0).tolist()


def _assigned(costs: Tensor) -> list[int]:
    """Returns for each phrase its region, with the smallest sum of costs; a region answers for ceil(P / R) at most."""
    regions, phrases = costs.shape
    places = -(-phrases // regions)
    table = costs.repeat(places, 1).numpy()
    # Where regions belong to phrases, infinity would leave no way out: a sum that no other choice reaches does.
    finite = table[table < float("inf")]
    forbidden = 1.0 + 2.0 * phrases * float(abs(finite).max(initial=0.0))
    rows, columns = linear_sum_assignment(table.clip(max=forbidden))
    found = dict(zip(columns.tolist(), (rows % regions).tolist(), strict=True))
    return [found[phrase] for phrase in range(phrases)]


def _found_at(
    phrases: Sequence[str],
    distances: Tensor,
    views: Sequence[Region],
    regions: Sequence[Region],
    settings: SaliencySettings,
) -> tuple[PhraseMatch, ...]:
    """Returns where each phrase of an image was found.

    Args:
        phrases: The P phrases.
        distances: (R, P), the weighted sum over terms.
        views: The R views that were looked at, regions first.
        regions: The image's regions.
        settings: As for `match`.
    """
    chosen = match(distances, views, settings)[1]
    values = distances.detach().tolist()
    return tuple(
        PhraseMatch(phrase, values[own][number], views[own] if own < len(regions) else None)
        for number, (phrase, own) in enumerate(zip(phrases, chosen, strict=True))
    )


def phrase_columns(output: ObjectiveOutput, index: int) -> dict[str, float]:
    """Returns what a history says of an image's phrases: the largest distance of one; empty without phrases."""
    if not output.matches or not output.matches[index]:
        return {}
    return {"worst_phrase": max(found.distance for found in output.matches[index])}
