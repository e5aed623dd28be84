"""An objective from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from sgool.config.term_files import term_problems
from sgool.errors import ConfigError, SgoolError
from sgool.models.aesthetic import load_aesthetic
from sgool.models.checkpoints import read_state
from sgool.models.classifier import load_classifier
from sgool.models.clip import ClipTower
from sgool.models.image_reward import load_image_reward
from sgool.models.images import open_photo, to_tensor
from sgool.models.networks import Networks
from sgool.models.preference import HumanPreferenceScore, load_pick_score
from sgool.objectives.alignment import ImageAlignment, TextAlignment
from sgool.objectives.black_box import BlackBox
from sgool.objectives.custom import custom_term, locate
from sgool.objectives.objective import CropSettings, Objective, SaliencySettings
from sgool.objectives.pixels import Color, Sharpness, Symmetry
from sgool.objectives.scores import Classification, Score
from sgool.objectives.terms import Term

Options = Mapping[str, Any]
#: A classifier's `target` that begins so names a column of the prompt file, which has each prompt's class.
COLUMN = "column:"


def build_objective(options: Options, networks: Networks, saliency: SaliencySettings | None = None) -> Objective:
    """The objective of a validated ``objective``.

    Args:
        options: ``terms`` (name -> type, weight and the type's own keys) and ``crops``.
        networks: Where terms get their networks.
        saliency: Salient regions as further views; None: global crops alone.

    Raises:
        ConfigError: All files that are missing, before any network loads.
        SgoolError: What a network's files, a class or a function of the user's is wrong with.
    """
    _check_files(options["terms"])
    terms = {name: build_term(name, term, networks) for name, term in options["terms"].items()}
    weights = {name: float(term["weight"]) for name, term in options["terms"].items()}
    return Objective(terms, weights, CropSettings(**options["crops"]), saliency)


def build_term(name: str, options: Options, networks: Networks) -> Term:
    """One term; ``name`` appears in histories.

    Raises:
        ConfigError: Missing files.
        SgoolError: What the term's files, class or function is wrong with.
    """
    _check_files({name: options})
    settings = {key: value for key, value in options.items() if key not in ("type", "weight")}
    return _BUILDERS[options["type"]](name, settings, networks)


def _check_files(terms: Mapping[str, Options]) -> None:
    if problems := list(term_problems(terms)):
        raise ConfigError(problems)


def _text_alignment(name: str, options: Options, networks: Networks) -> Term:
    return TextAlignment(networks.clip(**options["clip"]), name, options["views"])


def _image_alignment(name: str, options: Options, networks: Networks) -> Term:
    paths = [options["images"]] if isinstance(options["images"], str) else options["images"]
    # Before the network: an unreadable image is found at once.
    key = f"`objective.terms.{name}.images`"
    # Of any size: the tower resizes them.
    images = [to_tensor(open_photo(path, key, smallest_side=1)) for path in paths]
    return ImageAlignment(networks.clip(**options["clip"]), images, name, options["views"])


def _classifier(name: str, options: Options, networks: Networks) -> Term:
    source = {key: options[key] for key in ("source", "model", "checkpoint", "labels")}
    classifier = networks.shared(
        ("classifier", *source.values()), lambda: load_classifier(**source, device=networks.device)
    )
    target = options["target"]
    if isinstance(target, str) and target.startswith(COLUMN):
        target = target.removeprefix(COLUMN).strip()
    else:
        target = classifier.class_index(target, f"objective.terms.{name}.target")
    return Classification(classifier, target, options["loss"], name, options["views"])


def _aesthetic(name: str, options: Options, networks: Networks) -> Term:
    checkpoint = options["checkpoint"]
    clip = networks.clip(**options["clip"])
    scorer = networks.shared(
        ("aesthetic", checkpoint, *options["clip"].values()), lambda: load_aesthetic(clip, checkpoint)
    )
    return Score(scorer, options["goal"], name, options["views"])


def _hps(name: str, options: Options, networks: Networks) -> Term:
    return Score(HumanPreferenceScore(_hps_tower(options["clip"], networks)), options["goal"], name, options["views"])


def _hps_tower(clip: Options, networks: Networks) -> ClipTower:
    pretrained = clip["pretrained"]
    file = Path(pretrained).expanduser() if pretrained else None
    if file is None or not file.is_file():
        return networks.clip(**clip)
    try:
        return networks.clip(clip["model"], str(file))
    except (SgoolError, UnpicklingError):
        read_state(file)  # says it better if the file itself is the reason
        raise


def _pickscore(name: str, options: Options, networks: Networks) -> Term:
    model, processor = options["model"], options["processor"]
    scorer = networks.shared(
        ("pickscore", model, processor), lambda: load_pick_score(model, processor, device=networks.device)
    )
    return Score(scorer, options["goal"], name, options["views"])


def _image_reward(name: str, options: Options, networks: Networks) -> Term:
    files = {key: options[key] for key in ("checkpoint", "med_config", "tokenizer")}
    scorer = networks.shared(
        ("image_reward", *files.values()), lambda: load_image_reward(**files, device=networks.device)
    )
    return Score(scorer, options["goal"], name, options["views"])


def _black_box(name: str, options: Options, networks: Networks) -> Term:
    settings = dict(options)
    function = locate(settings.pop("function"), f"objective.terms.{name}.function")
    return BlackBox(function, settings.pop("goal"), **settings, name=name)


_BUILDERS: dict[str, Callable[[str, Options, Networks], Term]] = {
    "text_alignment": _text_alignment,
    "image_alignment": _image_alignment,
    "classifier": _classifier,
    "aesthetic": _aesthetic,
    "hps": _hps,
    "pickscore": _pickscore,
    "image_reward": _image_reward,
    "symmetry": lambda name, options, networks: Symmetry(**options, name=name),
    "color": lambda name, options, networks: Color(**options, name=name),
    "sharpness": lambda name, options, networks: Sharpness(**options, name=name),
    "black_box": _black_box,
    "custom": custom_term,
}
