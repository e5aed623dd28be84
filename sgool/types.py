"""The values that travel between the parts: frozen, without behaviour of their own, without torch at import."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Start:
    """First latents that come from elsewhere than a seed: the inversion of a photo, or a draw of the caller's own.

    Attributes:
        latents: (C, h, w), or (S, C, h, w) as `sgool.diffusion.Chain.invert` finds them for one image.
        network_prompt: What the denoising network is told, if not the pair's prompt, which the objective sees.
        calls: Network calls that it took to find them; they count as the pair's.
        metrics: Further values for the pair's record.
        images: Further pictures for the pair's folder, each (3, H, W) in [0, 1], by the names of their files.
        noises: Noises (K, C, h, w) that the sampler adds on the way; None: those that the pair's seed draws.
        is_noise: Whether the latents are a draw of noise like that of a seed, so that a search may try other draws
            and updates may whiten them.
    """

    latents: Tensor
    network_prompt: str | None = None
    calls: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    images: Mapping[str, Tensor] = field(default_factory=dict)
    noises: Tensor | None = None
    is_noise: bool = False


@dataclass(frozen=True)
class PromptSeed:
    """One optimisation problem: a prompt and the seed of its first latents.

    Attributes:
        prompt: The text.
        seed: Seed of the first latents, crops and perturbations.
        index: Position of the prompt in its data set, before any filter.
        category: The data set's category, stripped; empty if it has none.
        dataset: Name of the data set.
        negative_prompt: Text of the unconditional pass of classifier-free guidance.
        metadata: Other columns of the data set, for example ``scene`` in the embedded world.
        start: Where the pair begins, if not at the latents that its seed draws.
        phrases: The things that the prompt names, of the data set's column or by spaCy; None: the rule of
            `sgool.prompts.phrases` finds them. They are no part of the pair's id.

    Examples:
        >>> from sgool import PromptSeed
        >>> PromptSeed("a green cat", seed=3, dataset="mine").pair_id
        'mine-00000-82a5236f-s3'
    """

    prompt: str
    seed: int = 0
    index: int = 0
    category: str = ""
    dataset: str = "prompts"
    negative_prompt: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    start: Start | None = field(default=None, compare=False, repr=False)
    phrases: tuple[str, ...] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.phrases, str):
            text = self.phrases
            raise TypeError(f"`phrases`: expected a tuple of texts, got the text {text!r}; write ({text!r},)")

    @property
    def pair_id(self) -> str:
        """Stable across machines: data set, prompt index, hash of the prompts, seed."""
        text = self.prompt if not self.negative_prompt else f"{self.prompt}\0{self.negative_prompt}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = re.sub(r"[^a-z0-9]+", "-", self.dataset.lower()).strip("-") or "prompts"
        return f"{name}-{self.index:05d}-{digest}-s{self.seed}"


def without_seed(pair_id: str) -> str:
    """Returns a pair's id without the seed at its end: what the pairs of one prompt have in common."""
    return re.sub(r"-s-?\d+$", "", pair_id)


@dataclass(frozen=True)
class DataIds:
    """Which pairs belong to a data set.

    Attributes:
        exact: Ids of pairs whose prompts have a seed of their own in the data set.
        any_seed: Ids without their seeds (`without_seed`) of all other prompts: any seed may be run.
        phrases: Id without its seed -> the prompt's phrases, of prompts that are run and have them from a column or
            from spaCy.
    """

    exact: frozenset[str] = frozenset()
    any_seed: frozenset[str] = frozenset()
    phrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self.exact or without_seed(pair_id) in self.any_seed


@dataclass(frozen=True)
class Denoised:
    """The end of the chain.

    Attributes:
        latents: (S, B, C, h, w), S = 2 for EDICT's (x, y), else 1.
        images: (S, B, 3, H, W), of videos (S, B, 3, F, H, W), nominally in [0, 1], not clamped so that gradients flow;
            S = 1 if only the first stream was decoded.
    """

    latents: Tensor
    images: Tensor


@dataclass(frozen=True)
class Region:
    """A box in pixels and its share of the image's saliency mass, in [0, 1].

    ``phrase`` is the number of the phrase that the region's map was made for; None: the map is of no phrase.
    """

    top: int
    left: int
    height: int
    width: int
    mass: float = 1.0
    phrase: int | None = None


@dataclass(frozen=True)
class PhraseMatch:
    """Where a phrase of the prompt was found in an image.

    Attributes:
        phrase: The phrase.
        distance: Loss of the region for the phrase, weighted and summed over the terms that read phrases.
        region: The region that answers for the phrase; None: no region was found, and the whole image does.
    """

    phrase: str
    distance: float
    region: Region | None = None


@dataclass(frozen=True)
class ObjectiveOutput:
    """The objective's value for a batch of images.

    Attributes:
        loss: (B,), to be minimised; weights are applied.
        terms: Name -> (B,), each term before its weight.
        saliency_map: (B, 1, H, W) in [0, 1], of videos (B, 1, F, H, W), or None without saliency.
        regions: Per image, the regions used (empty: none found); per video, those of all its frames.
        matches: Per image, where each phrase was found; empty where regions are not matched with phrases.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    saliency_map: Tensor | None = None
    regions: tuple[tuple[Region, ...], ...] = ()
    matches: tuple[tuple[PhraseMatch, ...], ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What one update saw, before it changed the latents. All tensors are detached.

    Attributes:
        update: 0 for the first latents, those of the best candidate after a search.
        latents: (S, B, C, h, w).
        images: (B, 3, H, W) of the first stream, clamped to [0, 1].
        loss: (B,) as optimised, mean over the streams.
        selection: (B,) the objective on the whole image, without random crops: comparable between updates.
        output: The objective's output for the first stream; its saliency map in the 8 bits that are kept of it.
    """

    update: int
    latents: Tensor
    images: Tensor
    loss: Tensor
    selection: Tensor
    output: ObjectiveOutput


@dataclass(frozen=True)
class Candidate:
    """First latents that a search before the updates has tried.

    Attributes:
        index: Number of the candidate; 0 is the pairs' own first latents.
        total: How many will be tried; with a budget of seconds as many as it is expected to allow.
        latents: (S, B, C, h, w).
        images: (B, 3, H, W) in [0, 1], on the CPU, with the values of 8-bit pixels.
        selection: (B,), the selection scores.
    """

    index: int
    total: int
    latents: Tensor
    images: Tensor
    selection: Tensor


@dataclass(frozen=True)
class PairResult:
    """What a method made of one pair.

    Images and the map hold the values of 8-bit pixels (`sgool.results.checkpoint.eight_bit`): judges score exactly what
    is saved, in an undisturbed run and a resumed one alike.

    Attributes:
        pair: The prompt-seed pair.
        initial_image: (3, H, W) in [0, 1], of the first latents; of a video (3, F, H, W).
        final_image: The same of the latents that were kept.
        initial_latents: (S, C, h, w); S = 1 + K where K injected noises are optimised as well.
        final_latents: (S, C, h, w).
        saliency_map: (1, H, W) in [0, 1] for the final image, of a video (1, F, H, W), or None.
        best_step: Row of the history whose image is the final one (0: the first image).
        history: One row an update: update, loss, selection, ...; candidates that were tried before come first.
        error: Why the pair failed, or None.
        num_optimization_steps: Updates made.
        network_evaluations: Calls of the denoising network for this image, recomputation included.
        network_backward_passes: Of these, how many had their gradient computed.
        snapshots: (update, image) pairs along the way.
        retries: How often the pair was put back because something was not finite.
        metrics: Name -> value, of the judges and the objective.
        seconds: The pair's share of its batch's wall time, earlier starts included, judges not.
        phrases: Where each phrase is found in the final image; empty where regions are not matched with phrases.
    """

    pair: PromptSeed
    initial_image: Tensor
    final_image: Tensor
    initial_latents: Tensor
    final_latents: Tensor
    saliency_map: Tensor | None = None
    best_step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None
    num_optimization_steps: int = 0
    network_evaluations: int = 0
    network_backward_passes: int = 0
    snapshots: list[tuple[int, Tensor]] = field(default_factory=list)
    retries: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    phrases: tuple[PhraseMatch, ...] = ()

    def to(self, device: Any) -> PairResult:
        """With its images, maps and latents there; Lightning brings what a prediction returns to the CPU."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        moved = {name: value.to(device) for name, value in own.items() if hasattr(value, "to")}
        return replace(self, **moved, snapshots=[(update, image.to(device)) for update, image in self.snapshots])


@dataclass(frozen=True)
class PairRecord:
    """What ``record.json`` holds: one finished pair under one method.

    ``status`` is "done" or "failed"; ``error`` says why. ``best_step`` is the row of ``history.csv``, the
    update or before that the candidate, whose image is ``final.png`` (0: the first image). ``metrics`` maps a metric to
    its value on the final image and ``NAME_initial`` to its value on the first one; ``truncated`` (and
    ``NAME/truncated`` for a judge) is the number of the prompt's characters that the text encoder did not read, absent
    where it read all. ``network_evaluations`` counts forward passes of the denoising network for one image (a
    conditional and an unconditional pass in one batch count as one), with recomputation in backward;
    ``network_backward_passes`` counts the backward passes through it, 0 in records of versions that did not count them.
    The *calls* of a budget are the sum of both.
    ``seconds`` is the pair's share of its fit's wall time; ``peak_memory_mib`` is the peak of the GPU's
    memory in its batch, or on the CPU that of the process so far, which earlier methods may have set.
    ``phrases`` says, where regions were matched with phrases, where each one is found in the final image: a mapping
    with ``phrase``, ``distance`` (the objective's, lower is nearer) and ``box``, [top, left, height, width] in pixels,
    None where no region was found and the whole image was looked at. Records without phrases have no such key.
    """

    pair_id: str
    method: str
    prompt: str
    category: str
    seed: int
    status: str
    error: str | None
    num_optimization_steps: int
    best_step: int
    metrics: Mapping[str, float]
    network_evaluations: int
    seconds: float
    peak_memory_mib: float
    network_backward_passes: int = 0
    phrases: Sequence[Mapping[str, Any]] = ()
