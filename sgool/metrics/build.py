"""Judges from the configuration, over networks that they share with the objective's terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sgool.config.judges import judge_problems, reference_images
from sgool.errors import ConfigError
from sgool.metrics.base import MeanScore
from sgool.metrics.change import LatentNorm, Lpips, PerceptualDistance, Psnr, Ssim, classifier_maps, load_lpips
from sgool.metrics.clip_score import ClipScore
from sgool.metrics.preference import PreferenceScore
from sgool.metrics.similarity import ImageSimilarity
from sgool.models.classifier import ImageClassifier, load_classifier
from sgool.models.images import open_photo, to_tensor
from sgool.models.networks import Networks
from sgool.objectives import build_term
from sgool.objectives.scores import Score

Options = Mapping[str, Any]
Judge = Sequence[MeanScore]


def build_judges(judges: Mapping[str, Options], terms: Mapping[str, Options], networks: Networks) -> dict[str, Judge]:
    """The metrics of each judge.

    Args:
        judges: The configuration's ``models.judges``.
        terms: Its ``objective.terms``, whose reference images a judge of type ``image`` may share.
        networks: Where judges get their networks.

    Raises:
        ConfigError: All files that are missing, before any network loads.
        SgoolError: What a network's files are wrong with.
    """
    if problems := list(judge_problems(judges, terms)):
        raise ConfigError(problems)
    build = _Builder(terms, networks)
    return {name: getattr(build, judge.get("type", "clip"))(name, judge) for name, judge in judges.items()}


class _Builder:
    """A method per type of judge."""

    def __init__(self, terms: Mapping[str, Options], networks: Networks) -> None:
        self._terms, self._networks = terms, networks
        self.hps = self.pickscore = self.image_reward = self.aesthetic = self._scorer

    def clip(self, name: str, judge: Options) -> Judge:
        return [ClipScore(self._networks.clip(judge["model"], judge["pretrained"]))]

    def _scorer(self, name: str, judge: Options) -> Judge:
        # The term of that name, for its network: loaded in one place, once, in one layout.
        term = build_term(name, {**judge, "weight": 0, "goal": "maximize", "views": "whole"}, self._networks)
        assert isinstance(term, Score)
        return [PreferenceScore(term.scorer, judge["type"])]

    def image(self, name: str, judge: Options) -> Judge:
        paths = reference_images(judge, self._terms)
        # Before the network: an unreadable image is found at once.
        images = [to_tensor(open_photo(path, f"`models.judges.{name}.images`", smallest_side=1)) for path in paths]
        return [ImageSimilarity(self._networks.clip(**judge["clip"]), images)]

    def perceptual(self, name: str, judge: Options) -> Judge:
        network = judge["network"]
        if network == "local":
            return [PerceptualDistance(classifier_maps(local_classifier(judge["checkpoint"], self._networks)))]
        make: Callable[[], Any] = lambda: load_lpips(network, f"models.judges.{name}").to(self._networks.device)  # noqa: E731
        return [Lpips(self._networks.shared(("lpips", network), make))]

    def pixels(self, name: str, judge: Options) -> Judge:
        return [Psnr(), Ssim()]

    def latents(self, name: str, judge: Options) -> Judge:
        return [LatentNorm()]


def local_classifier(folder: str, networks: Networks) -> ImageClassifier:
    """The classifier in a folder, the one that a term with the same settings uses."""
    return networks.shared(
        ("classifier", "local", None, folder, None),
        lambda: load_classifier("local", checkpoint=folder, device=networks.device),
    )
