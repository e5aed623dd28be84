"""The objective: weighted terms over global crops and salient regions, per image."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sgool.errors import ConfigError
from sgool.models.autoencoder import in_unit_range
from sgool.models.fingerprint import fingerprints
from sgool.objectives.crops import Views, random_boxes
from sgool.objectives.detection import Detection, PhraseDetector, detect, phrase_detector
from sgool.objectives.frames import VideoObjective
from sgool.objectives.matching import BoundPhrases, Matching, bind_phrases
from sgool.objectives.settings import CropSettings, SaliencySettings, weight_problems
from sgool.objectives.terms import SeededTerm, Term, evaluated
from sgool.types import ObjectiveOutput, PhraseMatch, PromptSeed, Region

__all__ = ["BoundObjective", "CropSettings", "Objective", "SaliencySettings"]


class Objective:
    """The objective for any pairs; `bind` makes the objective of given pairs.

    Args:
        terms: Name -> term. Terms see the same boxes, each resized to the term's input size; a term without one sees
            the whole image once.
        weights: Name -> finite weight, for the same names; by default 1 for each.
        crops: Settings of the global crops; None: the default ones.
        saliency: Settings of the salient regions; None: only global crops.
        clamp_images: Whether images are clamped to [0, 1] before terms see them, as DOODL and ReNO do: pixels outside
            then have no gradient. A term of the whole image whose attribute ``unclamped`` is true sees it as decoded.
        frames: How many frames of a video are looked at, at equal distances; None: all.

    Raises:
        ConfigError: There are no terms, the names of terms and weights differ, or a weight is not finite.

    Examples:
        >>> import torch
        >>> from sgool import Objective, PromptSeed
        >>> from sgool.objectives import Color
        >>> objective = Objective({"red": Color([1.0, 0.0, 0.0])}).bind([PromptSeed("anything")])
        >>> objective.evaluate(torch.ones(1, 3, 64, 64))  # two of three channels are wrong by 1
        tensor([0.6667])
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        weights: Mapping[str, float] | None = None,
        crops: CropSettings | None = None,
        saliency: SaliencySettings | None = None,
        clamp_images: bool = False,
        frames: int | None = None,
    ) -> None:
        weights = dict.fromkeys(terms, 1.0) if weights is None else weights
        problems = weight_problems(terms, weights)
        if problems:
            raise ConfigError(problems)
        self.terms = dict(terms)
        self.weights = {name: float(weights[name]) for name in terms}
        self.crops = crops if crops is not None else CropSettings()
        self.saliency, self.clamp_images, self.frames = saliency, clamp_images, frames

    def bind(self, pairs: Sequence[PromptSeed]) -> BoundObjective:
        """Returns the objective of these pairs, one image each; for EDICT's two images a pair, bind the pairs twice."""
        if not pairs:
            raise ValueError("expected at least one pair to bind an objective to, got none")
        objective = copy.copy(self)
        objective.saliency = self.saliency.bind(pairs) if self.saliency else None
        targets = {name: term.targets(pairs) for name, term in self.terms.items()}
        if self.saliency is None or self.saliency.match == "prompt":
            return BoundObjective(objective, targets, len(pairs), videos=VideoObjective(self, pairs))
        phrases = bind_phrases(self.terms, pairs)
        of_phrases = phrase_detector(self.saliency.detector, phrases.phrases) if phrases.targets else None
        return BoundObjective(objective, targets, len(pairs), phrases, of_phrases, VideoObjective(self, pairs))

    def checkpoint_settings(self) -> list[Any]:
        """Returns the settings that must be equal for a checkpoint to fit this objective."""
        terms = {name: [type(term), term.input_size, self.weights[name]] for name, term in self.terms.items()}
        # Only the classes of detectors and terms are compared, since their attributes may change (a count of calls).
        detection = self.saliency and {**vars(self.saliency), "detector": type(self.saliency.detector)}
        more = [*(["clamp_images"] if self.clamp_images else []), *([self.frames] if self.frames else [])]
        return [terms, self.crops, detection, *more]

    def truncated(self, prompts: Sequence[str]) -> dict[str, list[str | None]]:
        """Returns for each term that reads prompts, and each prompt, the text that it does not read, or None."""
        cut = {name: getattr(term, "truncated", None) for name, term in self.terms.items()}
        return {name: truncated(prompts) for name, truncated in cut.items() if truncated is not None}

    def fingerprints(self) -> dict[str, list[str]]:
        """Returns the sorted fingerprints of each term's networks, without those of terms of weight 0.

        `sgool.results.RunFolder.record_objective` takes them. See `sgool.models.fingerprint.fingerprints`.
        """
        return {name: sorted(fingerprints(term)) for name, term in self.terms.items() if self.weights[name]}


@dataclass
class BoundObjective:
    """An objective with the targets of B pairs and the salient regions that were found last.

    Images do not influence each other. Crops come from each image's own generator. An image with NaN or infinite pixels
    gets a loss that is not finite and no regions, and the other images' results do not change.

    Attributes:
        objective: The objective, with terms, weights and settings.
        targets: Name of a term -> its targets (B, D).
        batch_size: Number B of images.
        phrases: The pairs' phrases, if regions are matched with them; else None.
        of_phrases: Makes a map for each phrase, if the detector looks for texts; else None.
        videos: The same objective for videos (B, 3, F, H, W), which every method here takes in place of images.
    """

    objective: Objective
    targets: Mapping[str, Tensor]
    batch_size: int
    phrases: BoundPhrases | None = None
    of_phrases: PhraseDetector | None = None
    videos: VideoObjective | None = None
    _detection: Detection | None = field(default=None, init=False, repr=False)

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator], update: int) -> ObjectiveOutput:
        """Computes the loss at one update.

        A saliency detector, if any, is called (under no_grad, on clamped images) if ``update`` is divisible by
        ``every_n_steps``, at first, and if the images' size has changed. Otherwise the last regions are used.

        Args:
            images: (B, 3, H, W), nominally in [0, 1], as decoded; the objective's ``clamp_images`` decides on the rest.
            generators: One per image, for its crops; a generator may serve several images of one pair.
            update: Number of the update, from 0.

        Returns:
            Losses (B,) = sum over terms of weight * (w_global * reduced crops + w_salient * sum of mass * region),
            differentiable; the terms before their weights; the last maps and regions. The reduced crops have weight
            w_global + w_salient if there are no regions, and 1 without a detector; so has a term of the whole image.
            Where regions are matched with phrases, a term that reads phrases has `sgool.objectives.matching.match`
            in place of the sum over regions, and the matches are returned too.

        Raises:
            ValueError: Images or generators do not match the bound pairs.
            SgoolError: The detector's map of a finite image is not finite.
        """
        if images.ndim == 5 and self.videos is not None:
            return self.videos(images, generators, update)
        self._check(images)
        if len(generators) != self.batch_size:
            raise ValueError(f"expected {self.batch_size} generators, one per image, got {len(generators)}")
        self._detection = self._current_detection(images, update)
        crops = self.objective.crops
        size = (images.shape[-2], images.shape[-1])
        boxes = [
            random_boxes(size, crops.num, generator, power=crops.power, min_side=crops.min_side)
            for generator in generators
        ]
        # Seeds are drawn after the crops, so that a term with randomness of its own does not change the crops.
        seeds = None
        if any(isinstance(term, SeededTerm) for term in self.objective.terms.values()):
            seeds = [int(torch.randint(2**62, (), generator=own, device=own.device)) for own in generators]
        return self._combine(images, boxes, self._detection, seeds)

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> Tensor:
        """Returns the selection scores (B,): the objective without random crops and without gradient.

        They are comparable between updates. The whole image is the one global view. Regions are those of the last
        call; before the first call, those of ``images``, which are not kept. Two evaluations may have different regions
        if there was a detection in between.

        Args:
            images: (B, 3, H, W), nominally in [0, 1].

        Returns:
            (B,), the weighted sum of the terms.

        Raises:
            ValueError: The images do not match the bound pairs.
        """
        if images.ndim == 5 and self.videos is not None:
            return self.videos.evaluate(images)
        self._check(images)
        return self._combine(images, [()] * self.batch_size, self._last_detection(images)).loss

    @torch.no_grad()
    def find_phrases(self, images: Tensor) -> tuple[tuple[PhraseMatch, ...], ...]:
        """Returns where each phrase is found in images (B, 3, H, W), by regions of their own, which are not kept.

        Empty where regions are not matched with phrases.

        Raises:
            ValueError: The images do not match the bound pairs.
        """
        if images.ndim == 5 and self.videos is not None:
            return self.videos.find_phrases(images)
        self._check(images)
        if self.phrases is None:
            return ()
        return self._combine(images, [()] * self.batch_size, self._detect(images)).matches

    def state_dict(self) -> dict[str, Any]:
        """Returns the regions found last, in plain values, and the maps in 8 bits; empty before any detection."""
        if self._detection is None:
            return {} if self.videos is None else self.videos.state_dict()
        return self._detection.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the regions of a `state_dict` as those found last."""
        if not state:
            return
        if "frames" in state and self.videos is not None:
            self.videos.load_state_dict(state)
            return
        self._detection = Detection.from_state(state, next(iter(self.targets.values())).device)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[0] != self.batch_size or images.shape[1] != 3:
            raise ValueError(f"expected images of shape ({self.batch_size}, 3, H, W), got {tuple(images.shape)}")

    def _current_detection(self, images: Tensor, update: int) -> Detection | None:
        saliency = self.objective.saliency
        if saliency is not None and update % saliency.every_n_steps == 0:
            return self._detect(images)
        return self._last_detection(images)

    def _last_detection(self, images: Tensor) -> Detection | None:
        if self.objective.saliency is None:
            return None
        last = self._detection
        if last is None or last.maps.shape[-2:] != images.shape[-2:]:
            return self._detect(images)
        return last

    def _detect(self, images: Tensor) -> Detection:
        assert self.objective.saliency is not None
        return detect(images, self.objective.saliency, self.of_phrases)

    def _combine(
        self,
        images: Tensor,
        boxes: Sequence[Sequence[Region]],
        detection: Detection | None,
        seeds: Sequence[int] | None = None,
    ) -> ObjectiveOutput:
        """Combines the terms' losses on all views; without ``boxes``, an image's global view is the whole image."""
        whole = Region(0, 0, images.shape[-2], images.shape[-1])
        crops = [tuple(own) or (whole,) for own in boxes]
        regions = detection.regions if detection else ((),) * len(crops)
        # An infinite pixel is no white one: the loss must not be finite.
        seen = in_unit_range(images) if self.objective.clamp_images else images
        matching = Matching(self.phrases, regions, whole, self.objective.saliency)
        views = Views(seen, [own + found for own, found in zip(crops, matching.views, strict=True)])
        values = {}
        for name, term in self.objective.terms.items():
            if term.input_size is None:
                given = images if getattr(term, "unclamped", False) else seen
                whole_losses = evaluated(term, given, self.targets[name], seeds)
                values[name] = self._full_weight() * whole_losses
                continue
            resized, owner = views.at(term.input_size)
            targets = self.targets[name]
            if matching.reads(name):
                weight = self.objective.weights[name]
                values[name] = matching.values(name, term, weight, resized, crops, targets, seeds, self._reduced)
                continue
            view_seeds = seeds and [seeds[index] for index in owner.tolist()]
            losses = evaluated(term, resized, targets[owner.to(targets.device)], view_seeds)
            parts = zip(losses.split([len(own) for own in views.boxes]), crops, regions, strict=True)
            values[name] = torch.stack([self._image_loss(loss, len(own), found) for loss, own, found in parts])
        loss = torch.stack([weight * values[name] for name, weight in self.objective.weights.items()]).sum(dim=0)
        maps = detection.maps if detection else None
        return ObjectiveOutput(loss, values, maps, tuple(regions), matching.matches())

    def _image_loss(self, losses: Tensor, num_crops: int, regions: Sequence[Region]) -> Tensor:
        """Reduces an image's losses, those of global views before those of regions, to a scalar."""
        reduced = self._reduced(losses[:num_crops])
        saliency = self.objective.saliency
        if saliency is None:
            return reduced
        if not regions:  # with the regions' weight too; otherwise a flat image would have the lowest loss
            return self._full_weight() * reduced
        masses = losses.new_tensor([region.mass for region in regions])
        of_regions = losses[num_crops : num_crops + len(regions)]  # phrases may look at the whole image besides
        return saliency.w_global * reduced + saliency.w_salient * (masses * of_regions).sum()

    def _reduced(self, crops: Tensor) -> Tensor:
        return crops.amin() if self.objective.crops.reduction == "min" else crops.mean()

    def _full_weight(self) -> float:
        """Returns the weight of a view of the whole image: the weights of crops and regions together."""
        saliency = self.objective.saliency
        return 1.0 if saliency is None else saliency.w_global + saliency.w_salient
